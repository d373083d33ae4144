// What review should not have to say: formatting, which files may know JavaScript, and what clang-tidy finds.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { compileCommands } from './compile-commands.mjs'
import { root, run, step } from './steps.mjs'
import { wrongImports } from './wings.mjs'

const filesOf = (directory) => readdirSync(directory).map((name) => `${directory}/${name}`)
const sources = filesOf('native')
let failed = false

const check = (command, ...args) => {
  const { status, error } = spawnSync(`node_modules/.bin/${command}`, args, { stdio: 'inherit' })
  failed ||= error !== undefined || status !== 0
}

check('biome', 'check', '.')
check('clang-format', '--dry-run', '-Werror', ...sources, ...filesOf('test/native'), ...filesOf('fuzz'))

// Everything else is plain C++ over libuv and the kernel, and could be tested and read without Node.
const mayKnowJavaScript = /^native\/(addon|fd_\w+|js|listener_handle|module)\./
for (const source of sources) {
  if (mayKnowJavaScript.test(source)) continue
  if (/#include ["<](napi|node_api|js|addon)/.test(readFileSync(source, 'utf8'))) {
    console.error(`${source} must not know JavaScript: its header is included by plain C++`)
    failed = true
  }
}

for (const wrong of wrongImports(join(root, 'src'))) {
  console.error(wrong)
  failed = true
}

// A minute's work, and not done again for what has passed.
if (spawnSync('run-clang-tidy', ['-help']).error) {
  console.error('clang-tidy is not here (Debian: clang-tidy), and so was not run')
} else {
  const output = 'node_modules/.cache/clang-tidy'
  step({
    what: 'clang-tidy',
    output,
    inputs: ['package-lock.json', 'binding.gyp', '.clang-tidy', 'native'],
    make: () => {
      run('run-clang-tidy', ['-quiet', '-p', compileCommands(), '/native/'])
      mkdirSync(output, { recursive: true })
    },
  })
}

process.exit(failed ? 1 : 0)
