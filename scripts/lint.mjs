// Checks that need no human review: formatting, layering of native/ and src/, and clang-tidy.
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

// All other native files are plain C++ on libuv and the kernel, which can be tested without Node.
const mayKnowJavaScript = /^native\/(addon|fd_\w+|js|listener_handle|module)\./
for (const source of sources) {
  if (mayKnowJavaScript.test(source)) continue
  if (/#include ["<](napi|node_api|js|addon)/.test(readFileSync(source, 'utf8'))) {
    console.error(`${source} must not include Node-API headers: only files that match ${mayKnowJavaScript} may`)
    failed = true
  }
}

for (const wrong of wrongImports(join(root, 'src'))) {
  console.error(wrong)
  failed = true
}

// Takes a minute, so it is skipped when the inputs have passed before.
if (spawnSync('run-clang-tidy', ['-help']).error) {
  console.error('clang-tidy skipped: run-clang-tidy not found (Debian package: clang-tidy)')
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
