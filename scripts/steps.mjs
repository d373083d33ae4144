// Shared by the scripts: runs programs that must succeed, and steps that are repeated only when their inputs have
// changed. Requires only Node.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Runs a program until it exits. Exits this process when the program fails. */
export function run(command, args, options = {}) {
  // The program writes to stderr, because stdout belongs to the command that runs the step.
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2], ...options })
  if (error) throw error
  if (status !== 0) {
    console.error(`${[command, ...args].join(' ')} failed`)
    process.exit(1)
  }
}

export const runNode = (...args) => run(process.execPath, args)

export const npm = (...args) =>
  process.env.npm_execpath ? runNode(process.env.npm_execpath, ...args) : run('npm', args)

/** Returns the environment for node-gyp: the headers of this Node, if installed. Otherwise node-gyp downloads them. */
export function headers() {
  const prefix = join(dirname(process.execPath), '..')
  return existsSync(join(prefix, 'include/node/node_api.h')) ? { npm_config_nodedir: prefix } : {}
}

/**
 * Builds the addon in a directory with a binding.gyp, or runs another `command` of node-gyp. `variables` are variables
 * of binding.gyp; `gyp` are options of gyp.
 */
export function nodeGyp(
  directory,
  { command = 'rebuild', arch = process.arch, env = {}, variables = {}, gyp = [] } = {},
) {
  const defines = Object.entries({ strict: 1, ...variables }).map(([name, value]) => `-D${name}=${value}`)
  const options = ['--loglevel=error', `--arch=${arch}`, `--directory=${directory}`]
  const program = ['node_modules/node-gyp/bin/node-gyp.js', command, ...options]
  run(process.execPath, [...program, '--', ...defines, ...gyp], {
    env: { ...process.env, ...headers(), ...env },
  })
}

const filesBelow = (path) =>
  statSync(path).isDirectory()
    ? readdirSync(path)
        .sort()
        .flatMap((name) => filesBelow(join(path, name)))
    : [path]

// Hashes contents instead of dates, because a checkout changes dates without changing files.
function fingerprint(inputs, settings) {
  const hash = createHash('sha256').update(process.arch).update(JSON.stringify(settings))
  for (const file of inputs.flatMap((input) => filesBelow(join(root, input)))) {
    hash.update(file.slice(root.length)).update('\0').update(readFileSync(file)).update('\0')
  }
  return hash.digest('hex')
}

const stampOf = (output) => join(root, output, '.made-from')

/** Whether the directory `output` was made from the current inputs and settings. */
export const isMade = ({ output, inputs, settings = {} }) =>
  existsSync(stampOf(output)) && readFileSync(stampOf(output), 'utf8') === fingerprint(inputs, settings)

/** Runs `make` unless `output` is up to date. */
export function step({ what, make, ...made }) {
  if (isMade(made)) return
  console.error(`setup: ${what}`)
  make()
  writeFileSync(stampOf(made.output), fingerprint(made.inputs, made.settings ?? {}))
}
