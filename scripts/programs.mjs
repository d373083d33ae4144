// Builds plain C++ programs from native sources without Node-API, with the system's libuv.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { languageFlags } from './compile-commands.mjs'
import { root, run, step } from './steps.mjs'

/** Builds a program if it is outdated, and returns its path. `main`: its source. `native`: names of native sources. */
export function program(name, { compiler, flags, main, native }) {
  const output = `node_modules/.cache/programs/${name}`
  const path = join(root, output, name)
  const sources = [main, ...native.map((each) => `native/${each}.cc`)]
  const all = [...languageFlags(), '-g', '-O1', '-fno-omit-frame-pointer', '-pthread', ...flags]
  step({
    what: `program, ${name}`,
    output,
    inputs: ['package-lock.json', 'binding.gyp', 'native', main],
    settings: { compiler, all, native },
    make: () => {
      mkdirSync(join(root, output), { recursive: true })
      run(compiler, [...all, ...sources, '-luv', '-o', path])
    },
  })
  return path
}
