// Builds of the addon other than the one in build/: with sanitizers, with faults, for other machines. Each has a directory
// of its own. `ASYNC_ACCEPT_ADDON=<file>` makes the package load the addon from there.
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { nodeGyp, root, step } from './steps.mjs'

/** What the addon is made from, and so what its builds must follow. */
export const inputs = ['package-lock.json', 'binding.gyp', 'native']

/** An empty directory in which the addon can be built; with `more` for what a variant has beside the sources. */
export function lay(output, more = []) {
  const directory = join(root, output)
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })
  for (const each of ['package.json', 'binding.gyp', 'native', ...more]) {
    cpSync(join(root, each), join(directory, each), { recursive: true })
  }
  return directory
}

/**
 * The addon file of a variant, built when it must be.
 * `env`: what the makefile takes from its environment (CC, CXX, CXXFLAGS, LDFLAGS); `variables`: what binding.gyp asks for
 * (`{ faults: 1 }`).
 */
export function variant(name, { arch = process.arch, env, variables } = {}) {
  // Below node_modules, so that binding.gyp finds node-addon-api from there.
  const output = `node_modules/.cache/variants/${name}`
  const more = variables?.faults ? ['test/native'] : []
  step({
    what: `addon, ${name}`,
    output,
    inputs: [...inputs, ...more],
    settings: { arch, env, variables },
    make: () => nodeGyp(lay(output, more), { arch, env, variables }),
  })
  return join(root, output, 'build/Release/async_accept.node')
}
