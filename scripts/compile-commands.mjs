// Exports the compile commands of binding.gyp for clang-tidy and for programs without Node.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { nodeGyp, root, step } from './steps.mjs'

const output = 'node_modules/.cache/compile-commands'

/** Creates compile_commands.json if it is outdated, and returns its directory. */
export function compileCommands() {
  const directory = join(root, output)
  step({
    what: 'compile commands',
    output,
    inputs: ['package-lock.json', 'binding.gyp'],
    make: () => {
      rmSync(directory, { recursive: true, force: true })
      mkdirSync(directory, { recursive: true })
      for (const input of ['binding.gyp', 'package.json']) cpSync(join(root, input), join(directory, input))
      nodeGyp(directory, { command: 'configure', gyp: ['-f', 'compile_commands_json'] })
      const made = readFileSync(join(directory, 'build/Release/compile_commands.json'), 'utf8')
      // Points the paths to the sources in the repository, not to the copy of binding.gyp.
      writeFileSync(
        join(directory, 'compile_commands.json'),
        made.replaceAll(join(directory, 'native'), join(root, 'native')),
      )
    },
  })
  return directory
}

/** Returns the flags for the C++ version and the warnings of all sources. */
export function languageFlags() {
  const all = JSON.parse(readFileSync(join(compileCommands(), 'compile_commands.json'), 'utf8'))
  const { command } = all.find(({ file }) => file.endsWith('.cc'))
  // Excludes -Wa,..., which is for the assembler.
  return command.match(/-(std=|W)[\w+-]+(?![\w+,-])/g)
}
