// How binding.gyp compiles each source, for what is not node-gyp: clang-tidy, and programs without Node.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { nodeGyp, root, step } from './steps.mjs'

const output = 'node_modules/.cache/compile-commands'

/** The directory of a compile_commands.json. */
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
      // The sources stand where they always do.
      writeFileSync(
        join(directory, 'compile_commands.json'),
        made.replaceAll(join(directory, 'native'), join(root, 'native')),
      )
    },
  })
  return directory
}

/** The version of C++ and the warnings that all sources have. */
export function languageFlags() {
  const all = JSON.parse(readFileSync(join(compileCommands(), 'compile_commands.json'), 'utf8'))
  const { command } = all.find(({ file }) => file.endsWith('.cc'))
  // Not -Wa,...: that is the assembler's.
  return command.match(/-(std=|W)[\w+-]+(?![\w+,-])/g)
}
