// Makes the binaries that the tarball carries, prebuilds/linux-<arch>/async-accept.<glibc or musl>.node:
// node scripts/prebuild.mjs           for this machine, which has glibc
// node scripts/prebuild.mjs arm64     for that; needs a cross compiler elsewhere (Debian: g++-aarch64-linux-gnu)
// node scripts/prebuild.mjs --all     for all that we ship to, with glibc and with musl
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { makeMuslBinary } from './musl.mjs'
import { isMade, nodeGyp, root, run, step } from './steps.mjs'
import { inputs, lay } from './variants.mjs'

// The newest version of each library that a binary may need: what Node's own binaries need, in all supported versions.
const newest = { GLIBC: '2.28', GLIBCXX: '3.4.21', CXXABI: '1.3.9', GCC: '3.3' }

const machines = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }

const given = process.argv.slice(2)
const all = given.includes('--all')
const wanted = all ? Object.keys(machines) : given.length > 0 ? given : [process.arch]
if (machines[process.arch] === undefined) console.error(`no binary for ${process.arch}: scripts/compile.mjs makes one`)

// For scripts/compile.mjs. Package managers would compile a package that has a binding.gyp at its root.
mkdirSync(join(root, 'prebuilds'), { recursive: true })
copyFileSync(join(root, 'binding.gyp'), join(root, 'prebuilds/binding.gyp'))

for (const [arch, machine] of Object.entries(machines)) {
  const output = `prebuilds/linux-${arch}`
  const glibc = { output, inputs }
  const both = { ...glibc, settings: { musl: true } }
  if (isMade(both)) continue
  // What was made from other sources must not get into a tarball.
  if (all || !isMade(glibc)) rmSync(join(root, output), { recursive: true, force: true })
  if (!wanted.includes(arch)) continue
  const make = () => {
    makeGlibcBinary(arch, machine)
    if (all) makeMuslBinary(arch)
  }
  step({ ...(all ? both : glibc), what: `binaries for linux-${arch}`, make })
}

function makeGlibcBinary(arch, machine) {
  const tool = (name) => (arch === process.arch ? name : `${machine}-${name}`)
  const binary = join(root, `prebuilds/linux-${arch}`, 'async-accept.glibc.node')
  const build = lay(`node_modules/.cache/prebuild/${arch}`)
  // Paths are all that would make the same sources give another binary elsewhere.
  const env = { CC: tool('gcc'), CXX: tool('g++'), CXXFLAGS: `-ffile-prefix-map=${build}=.` }
  if (spawnSync(env.CXX, ['--version']).error) {
    console.error(`${env.CXX} is missing (Debian: g++-${machine.replaceAll('_', '-')})`)
    process.exit(1)
  }
  nodeGyp(build, { arch, env })
  mkdirSync(dirname(binary), { recursive: true })
  copyFileSync(join(build, 'build/Release/async_accept.node'), binary)
  run(tool('strip'), ['--strip-all', binary])
  // The program that the addon has within itself, too.
  for (const each of [join(build, 'build/Release/async_accept_exec'), binary]) check(each, binary, tool('objdump'))
}

/** Fails when `file`, a part of `binary`, needs newer libraries than Node does, or others. */
function check(file, binary, objdump) {
  const { stdout, status } = spawnSync(objdump, ['-p', '-T', file], { encoding: 'utf8' })
  const needed = {}
  // FLAGS_1 is a field of objdump's.
  for (const [, library, version] of stdout.matchAll(/\b(?!FLAGS_)([A-Z]+)_(\d[\d.]*)/g)) {
    if (isNewer(version, needed[library] ?? '0')) needed[library] = version
  }
  const libraries = [...stdout.matchAll(/NEEDED +(\S+)/g)].map(([, name]) => name)
  console.error(`${file.slice(root.length + 1)}: ${libraries.join(', ')}; ${JSON.stringify(needed)}`)
  const tooNew = Object.entries(needed).filter(([library, version]) => isNewer(version, newest[library] ?? '0'))
  const others = libraries.filter((name) => !/^(libc|libm|libstdc\+\+|libgcc_s|ld-linux-.*)\.so\.\d+$/.test(name))
  if (status === 0 && needed.GLIBC !== undefined && tooNew.length === 0 && others.length === 0) return
  console.error(`it may need no more than ${JSON.stringify(newest)} of the libraries that Node needs, too`)
  rmSync(binary)
  process.exit(1)
}

function isNewer(version, other) {
  return version.localeCompare(other, 'en', { numeric: true }) > 0
}
