// The package as users get it, and the programs from the registry that install, bundle or refuse it.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { temporaryDirectory } from '../helpers.js'

export interface Output {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs a program to its end, in an environment without the settings of the npm that runs the tests. */
export function run(directory: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Output {
  const inherited = Object.entries(process.env).filter(([name]) => !/^npm_(?!config_(registry|userconfig))/.test(name))
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: directory,
    encoding: 'utf8',
    env: { ...Object.fromEntries(inherited), ...env },
  })
  if (error) throw error
  return { status, stdout, stderr }
}

/** What a program prints. It must succeed. */
export function output(directory: string, command: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(directory, command, args)
  assert.equal(status, 0, `${[command, ...args].join(' ')}\n${stdout}${stderr}`)
  return stdout
}

let tarball: string | undefined
let contents: string[] = []

/** The tarball of `npm pack`. It has the binaries that this machine has made. */
export function packed(): string {
  if (tarball !== undefined) return tarball
  const directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  const [{ filename, files }] = JSON.parse(output('.', 'npm', 'pack', '--json', `--pack-destination=${directory}`))
  const paths: string[] = files.map(({ path }: { path: string }) => path)
  assert.ok(paths.includes(`prebuilds/linux-${process.arch}/async-accept.glibc.node`), paths.join('\n'))
  assert.ok(!paths.includes('binding.gyp'), 'package managers would compile it')
  tarball = join(directory, filename)
  contents = paths
  return tarball
}

/** The paths of the files in the tarball. */
export function packedFiles(): readonly string[] {
  packed()
  return contents
}

/** A directory with these files, a new one by default. */
export function project(files: Record<string, string>, directory = temporaryDirectory()): string {
  for (const [file, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, file)), { recursive: true })
    writeFileSync(join(directory, file), content)
  }
  return directory
}

/**
 * The directory below which these packages of the registry are installed, as `name@version`. It stays in the cache of
 * the clone. No script of them runs.
 */
export function directoryWith(...packages: string[]): string {
  const directory = resolve('node_modules/.cache/programs', packages.join().replaceAll('/', '+'))
  const names = packages.map((each) => each.slice(0, each.lastIndexOf('@')))
  const flags = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error', '--force']
  const isComplete = () => names.every((name) => existsSync(join(directory, 'node_modules', name)))
  if (isComplete()) return directory
  const own = `${directory}.${process.pid}`
  output('.', 'npm', 'install', ...flags, `--prefix=${own}`, ...packages)
  try {
    renameSync(own, directory)
  } catch {
    // Another run of the tests has installed them meanwhile.
    assert.ok(isComplete(), directory)
    rmSync(own, { recursive: true })
  }
  return directory
}

/** The directory of a package from the registry. */
export const fromRegistry = (name: string, version = 'latest'): string =>
  join(directoryWith(`${name}@${version}`), 'node_modules', name)

/** Installs the tarball with the npm of the tests. */
export function install(directory: string): void {
  output(directory, 'npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', packed())
}

/** The body of a program that serves one request to itself, and prints the answer. */
export const conversation = `
  const listener = await Listener.listen({ host: '127.0.0.1' })
  const serving = serve(listener, http.createServer((request, response) => response.end('answered')))
  const response = await fetch('http://127.0.0.1:' + listener.address().port)
  console.log(await response.text())
  await serving.drain({ closeListener: true })
`

export const asModule = `import http from 'node:http'
import { Listener, serve } from 'async-accept'
${conversation}`

export const asRequired = `const http = require('node:http')
const { Listener, serve } = require('async-accept')
void (async () => {${conversation}})()
`
