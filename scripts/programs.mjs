// Programs of plain C++: what is native and knows no JavaScript, with Debian's libuv and without Node.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { languageFlags } from './compile-commands.mjs'
import { root, run, step } from './steps.mjs'

/** The path of a program, built when it must be. `main` is its own source, `native` the names of those that it uses. */
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
