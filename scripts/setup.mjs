// Makes a clone ready to run: dependencies, addon, compiled TypeScript; each when, and only when, what it is made from
// has changed. Needs nothing but Node and a C++ toolchain. `npm start`, `npm test` and `npm run build` begin with it.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

const filesBelow = (path) =>
  statSync(path).isDirectory()
    ? readdirSync(path)
        .sort()
        .flatMap((name) => filesBelow(join(path, name)))
    : [path]

// A hash of contents rather than dates: a checkout changes dates without changing a file.
const fingerprint = (inputs) => {
  const hash = createHash('sha256').update(process.arch)
  for (const file of inputs.flatMap((input) => filesBelow(join(root, input)))) {
    hash.update(file.slice(root.length)).update('\0').update(readFileSync(file)).update('\0')
  }
  return hash.digest('hex')
}

const run = (command, args) => {
  // stdout belongs to the command that asked for the set-up.
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] })
  if (error) throw error
  if (status !== 0) {
    console.error(`setup: ${[command, ...args].join(' ')} failed`)
    process.exit(1)
  }
}

const runNode = (...args) => run(process.execPath, args)

const npm = (...args) => (process.env.npm_execpath ? runNode(process.env.npm_execpath, ...args) : run('npm', args))

// Most installations of Node bring its headers; then node-gyp need not download them.
const ownHeaders = () => {
  const prefix = join(dirname(process.execPath), '..')
  return existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : []
}

const steps = [
  {
    what: 'dependencies',
    output: 'node_modules',
    inputs: ['package-lock.json'],
    // Nothing that we depend on needs its install script, and ours would only build what comes next.
    make: () => npm('ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'),
  },
  {
    what: 'addon',
    output: 'build',
    inputs: ['package-lock.json', 'binding.gyp', 'native'],
    make: () => runNode('node_modules/node-gyp/bin/node-gyp.js', 'rebuild', '--loglevel=error', ...ownHeaders()),
  },
  {
    what: 'TypeScript',
    output: 'dist',
    inputs: ['package-lock.json', 'tsconfig.json', 'src'],
    make: () => {
      rmSync(join(root, 'dist'), { recursive: true, force: true })
      runNode('node_modules/typescript/bin/tsc', '--project', 'tsconfig.json')
    },
  },
]

for (const { what, output, inputs, make } of steps) {
  const stamp = join(root, output, '.made-from')
  const wanted = fingerprint(inputs)
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) continue
  console.error(`setup: ${what}`)
  make()
  writeFileSync(stamp, wanted)
}
