// Builds of the addon other than the one in build/: with sanitizers, with faults, for other machines. Each has a directory
// of its own. `ASYNC_ACCEPT_PREBUILD=<directory>` makes node-gyp-build, and so the package, load the addon from there.
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { nodeGyp, root, step } from './steps.mjs'

/**
 * The directory of a variant, built when it must be.
 * `env`: what the makefile takes from its environment (CC, CXX, CXXFLAGS, LDFLAGS); `args`: node-gyp's (`--debug`,
 * `--arch=arm64`); `variables`: what binding.gyp asks for (`{ faults: 1 }`).
 */
export function variant(name, { env = {}, args = [], variables = {} } = {}) {
  // Below node_modules, so that binding.gyp finds node-addon-api from there.
  const output = `node_modules/.cache/variants/${name}`
  const directory = join(root, output)
  step({
    what: `addon, ${name}`,
    output,
    inputs: ['package-lock.json', 'binding.gyp', 'native'],
    settings: { env, args, variables },
    make: () => {
      rmSync(directory, { recursive: true, force: true })
      mkdirSync(directory, { recursive: true })
      for (const input of ['binding.gyp', 'package.json', 'native']) {
        cpSync(join(root, input), join(directory, input), { recursive: true })
      }
      const defines = Object.entries(variables).map(([variable, value]) => `-D${variable}=${value}`)
      nodeGyp(directory, [...args, ...(defines.length > 0 ? ['--', ...defines] : [])], env)
    },
  })
  return directory
}
