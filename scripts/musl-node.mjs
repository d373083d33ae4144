// A Node for musl, on a machine that has glibc (Debian: musl, patchelf). It comes from a package whose program is a Node
// with a script of its own inside.
import { spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { muslCompiler } from './musl.mjs'
import { packageOf } from './nodes.mjs'
import { root, run, step } from './steps.mjs'

const version = '11.21.0'
const loader = '/lib/ld-musl-x86_64.so.1'
const output = 'node_modules/.cache/musl-node'
const names = 'test/native/glibc-names.cc'

/** The path of a program that is used like any other node. */
export function muslNode() {
  if (process.arch !== 'x64') throw new Error(`there is no Node for musl on ${process.arch}`)
  if (!existsSync(loader)) throw new Error(`${loader} is missing (Debian: musl)`)
  step({ what: 'Node for musl', output, inputs: [names, 'scripts/musl-node.mjs'], make })
  return join(root, output, 'node')
}

function make() {
  const directory = join(root, output)
  const libraries = join(directory, 'lib')
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(libraries, { recursive: true })

  for (const name of ['libstdc++.so.6', 'libgcc_s.so.1']) {
    const { stdout, error } = spawnSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' })
    if (error) throw error
    copyFileSync(stdout.trim(), join(libraries, name))
  }
  // Those libraries want a glibc. musl takes the names of the C library for itself, but not the name of its loader.
  const { CXX, ...env } = muslCompiler(process.arch)
  const [compiler, ...target] = CXX.split(' ')
  const flags = ['-shared', '-fPIC', '-O2', '-s', '-nostdlib++', '-fno-exceptions', '-fvisibility=hidden']
  const glibc = join(libraries, 'ld-linux-x86-64.so.2')
  run(compiler, [...target, ...flags, '-o', glibc, names], { env: { ...process.env, ...env } })

  const node = join(directory, 'node')
  // Another version of the package may bring another Node.
  const source = packageOf('@pnpm/linuxstatic-x64', version, 'node_modules/.cache/nodes/musl')
  writeFileSync(node, withoutScript(readFileSync(join(source, 'pnpm'))))
  chmodSync(node, 0o755)
  // A library that is added comes before the others, and so does what it exports.
  run('patchelf', ['--add-needed', basename(glibc), node])
  run('patchelf', ['--set-rpath', '$ORIGIN/lib', node])
}

/** `program` with the mark cleared by which a Node knows that it has a script inside. */
function withoutScript(program) {
  const mark = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:'
  const at = program.indexOf(`${mark}1`)
  if (at < 0) throw new Error(`the program has no ${mark}1`)
  program.write('0', at + mark.length)
  return program
}
