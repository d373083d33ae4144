// What the scripts share: programs that must succeed, and work that is done again only when what it is made from has
// changed. Needs nothing but Node.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Runs a program to its end; when it fails this process ends, too. */
export function run(command, args, options = {}) {
  // stdout belongs to the command that asked for the step.
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

/** What tells node-gyp where the headers of this Node are. Most installations bring them; else it downloads them. */
export function headers() {
  const prefix = join(dirname(process.execPath), '..')
  return existsSync(join(prefix, 'include/node/node_api.h')) ? { npm_config_nodedir: prefix } : {}
}

/**
 * Builds the addon in a directory that has its binding.gyp, or does what else `command` of node-gyp does. `variables` are
 * what binding.gyp asks for; `gyp` goes to gyp itself.
 */
export function nodeGyp(directory, { command = 'rebuild', env = {}, variables = {}, gyp = [] } = {}) {
  const defines = Object.entries({ strict: 1, ...variables }).map(([name, value]) => `-D${name}=${value}`)
  const program = ['node_modules/node-gyp/bin/node-gyp.js', command, '--loglevel=error', `--directory=${directory}`]
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

// A hash of contents rather than dates: a checkout changes dates without changing a file.
function fingerprint(inputs, settings) {
  const hash = createHash('sha256').update(process.arch).update(JSON.stringify(settings))
  for (const file of inputs.flatMap((input) => filesBelow(join(root, input)))) {
    hash.update(file.slice(root.length)).update('\0').update(readFileSync(file)).update('\0')
  }
  return hash.digest('hex')
}

const stampOf = (output) => join(root, output, '.made-from')

/** Whether `output`, a directory, was made from these very inputs and settings. */
export const isMade = ({ output, inputs, settings = {} }) =>
  existsSync(stampOf(output)) && readFileSync(stampOf(output), 'utf8') === fingerprint(inputs, settings)

/** Makes `output` unless it is made. */
export function step({ what, make, ...made }) {
  if (isMade(made)) return
  console.error(`setup: ${what}`)
  make()
  writeFileSync(stampOf(made.output), fingerprint(made.inputs, made.settings ?? {}))
}
