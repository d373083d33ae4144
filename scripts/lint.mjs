// What review should not have to say: formatting, and which files may know JavaScript.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

const sources = readdirSync('native').map((name) => `native/${name}`)
let failed = false

const run = (command, ...args) => {
  const { status, error } = spawnSync(`node_modules/.bin/${command}`, args, { stdio: 'inherit' })
  failed ||= error !== undefined || status !== 0
}

run('biome', 'check', '.')
run('clang-format', '--dry-run', '-Werror', ...sources)

// Everything else is plain C++ over libuv and the kernel, and could be tested and read without Node.
const mayKnowJavaScript = /^native\/(addon|fd_functions|js|listener_handle)\./
for (const source of sources) {
  if (mayKnowJavaScript.test(source)) continue
  if (/#include ["<](napi|node_api|js|addon)/.test(readFileSync(source, 'utf8'))) {
    console.error(`${source} must not know JavaScript: its header is included by plain C++`)
    failed = true
  }
}

process.exit(failed ? 1 : 0)
