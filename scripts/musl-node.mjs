// A Node that was built for musl, on a machine that has glibc (Debian: musl, patchelf). It comes from a package of pnpm,
// whose program is a Node with an embedded script.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { muslCompiler } from './musl.mjs'
import { packageOf } from './nodes.mjs'
import { root, run, step } from './steps.mjs'

const loader = '/lib/ld-musl-x86_64.so.1'
const output = 'node_modules/.cache/musl-node'
const glibc = 'test/native/glibc-names.cc'

/** Returns the path of a node that runs on musl. It needs no environment variables, and neither do its children. */
export function muslNode() {
  if (process.arch !== 'x64') throw new Error(`there is no Node for musl on ${process.arch}`)
  if (!existsSync(loader)) throw new Error(`${loader} is missing (Debian: musl)`)
  step({ what: 'Node for musl', output, inputs: [glibc, 'scripts/musl-node.mjs'], make })
  return join(root, output, 'node')
}

function make() {
  const directory = join(root, output)
  rmSync(directory, { recursive: true, force: true })
  const libraries = join(directory, 'lib')
  mkdirSync(libraries, { recursive: true })

  for (const name of ['libstdc++.so.6', 'libgcc_s.so.1']) {
    const path = execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()
    copyFileSync(path, join(libraries, name))
  }
  // These libraries need the loader of glibc. The library that has its name here provides what they need of glibc.
  const library = join(libraries, 'ld-linux-x86-64.so.2')
  const { CXX, ...env } = muslCompiler(process.arch)
  const [compiler, ...target] = CXX.split(' ')
  const flags = ['-shared', '-fPIC', '-O2', '-s', '-nostdlib++', '-fno-exceptions', '-fvisibility=hidden']
  run(compiler, [...target, ...flags, '-o', library, glibc], { env: { ...process.env, ...env } })

  // An exact version, because the Node in another one may need more.
  const source = packageOf('@pnpm/linuxstatic-x64', '11.21.0', 'node_modules/.cache/nodes/musl')
  const node = join(directory, 'node')
  writeFileSync(node, withoutScript(readFileSync(join(source, 'pnpm'))), { mode: 0o755 })
  // First in the list of libraries, so that its functions come before those of musl.
  run('patchelf', ['--add-needed', basename(library), node])
  run('patchelf', ['--set-rpath', '$ORIGIN/lib', node])
}

/** Clears the mark that makes Node run the embedded script. */
function withoutScript(program) {
  const mark = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:'
  const at = program.indexOf(`${mark}1`)
  if (at < 0) throw new Error(`the program contains no ${mark}1`)
  program.write('0', at + mark.length)
  return program
}
