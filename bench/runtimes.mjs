// Other runtimes that are compared: installs them where needed, and says why one cannot be compared.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileOf } from './measure.mjs'

const [bunArch, denoArch] = process.arch === 'arm64' ? ['aarch64', 'arm64'] : ['x64-baseline', 'x64']

// The package that contains the program, and the command that runs a module with it.
const fromPackages = {
  Bun: { package: `@oven/bun-linux-${bunArch}`, program: 'bin/bun', flags: [] },
  Deno: { package: `@deno/linux-${denoArch}-glibc`, program: 'deno', flags: ['run', '--allow-all', '--no-config'] },
}

const firstLine = (text) => text.trim().split('\n', 1)[0]

/** Runs a program to its end. Returns what it prints, or throws an error with the first line of the reason. */
function output(command, ...args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  if (error) throw error
  if (status !== 0) throw new Error(firstLine(stderr) || `${command} exited with ${status}`)
  return stdout
}

/** Returns the directory of the newest version of a package. Throws an error with the reason if it cannot be installed. */
export const install = (name) =>
  // In a process of its own, because the script exits when the installation fails.
  output(
    process.execPath,
    '--input-type=module',
    '--eval',
    `import { packageOf } from ${JSON.stringify(new URL('../scripts/nodes.mjs', import.meta.url))}
    console.log(packageOf('${name}', 'latest', 'node_modules/.cache/programs/${name.replaceAll('/', '+')}@latest'))`,
  ).trim()

const found = new Map()

function find(name) {
  try {
    if (name === 'Python') {
      return { command: ['python3'], version: output('python3', '--version').trim().split(' ').at(-1) }
    }
    const { package: from, program, flags } = fromPackages[name]
    const path = join(install(from), program)
    const [version] = /\d+\.\d+\.\d+\S*/.exec(output(path, '--version'))
    return { command: [path, ...flags], version }
  } catch (error) {
    return { missing: firstLine(error.message) }
  }
}

/** Returns { command, version } of Bun, Deno or Python, or { missing: why } if it cannot be installed or started. */
export function runtime(name) {
  if (!found.has(name)) found.set(name, find(name))
  return found.get(name)
}

/** The command that runs a contender of a question file in Bun or Deno, with the protocol of serve.mjs. */
export const inRuntime = (name, file, ...args) => [...runtime(name).command, fileOf('serve.mjs'), file, name, ...args]
