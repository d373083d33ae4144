// Compiles the addon of an installed package for this machine, into its build/Release, where the package looks first:
// node node_modules/async-accept/scripts/compile.mjs
// It needs a C++17 compiler, make and Python 3. What it needs from the registry, node-gyp and the headers of Node-API for
// C++, goes into a temporary directory. node-gyp takes the headers of Node.js from this installation, or downloads them.
import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const output = join(root, 'build/Release/async_accept.node')
const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

const directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))

function run(command, ...args) {
  const { status, error } = spawnSync(command, args, { cwd: directory, stdio: ['ignore', 2, 2] })
  if (status === 0) return
  console.error(error?.message ?? `${[command, ...args].join(' ')} failed`)
  process.exit(1)
}

cpSync(join(root, 'native'), join(directory, 'native'), { recursive: true })
// The package has it beside the binaries: package managers would compile a package that has one at its root.
const gyp = ['prebuilds/binding.gyp', 'binding.gyp'].map((file) => join(root, file)).find(existsSync)
copyFileSync(gyp, join(directory, 'binding.gyp'))
const tools = ['node-gyp', 'node-addon-api'].map((name) => `${name}@${devDependencies[name]}`)
writeFileSync(join(directory, 'package.json'), JSON.stringify({ private: true }))
run('npm', 'install', '--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error', ...tools)
const prefix = join(dirname(process.execPath), '..')
const headers = existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : []
run(process.execPath, 'node_modules/node-gyp/bin/node-gyp.js', 'rebuild', '--loglevel=error', ...headers)
mkdirSync(dirname(output), { recursive: true })
copyFileSync(join(directory, 'build/Release/async_accept.node'), output)
console.error(`Compiled ${output}`)
