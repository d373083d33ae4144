import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs'
import Module from 'node:module'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type CodedError, codedError } from './errors.js'
import { moduleUrl } from './module-url.js'

/**
 * The binary of the package for a machine. Bundlers and file tracers find the files by `new URL()` with a literal path. Some
 * of them put a path in its place.
 */
function packagedBinary(target: string): URL | string | undefined {
  switch (target) {
    case 'x64 glibc':
      return new URL('../../prebuilds/linux-x64/async-accept.glibc.node', import.meta.url)
    case 'x64 musl':
      return new URL('../../prebuilds/linux-x64/async-accept.musl.node', import.meta.url)
    case 'arm64 glibc':
      return new URL('../../prebuilds/linux-arm64/async-accept.glibc.node', import.meta.url)
    case 'arm64 musl':
      return new URL('../../prebuilds/linux-arm64/async-accept.musl.node', import.meta.url)
  }
}

const directory = dirname(fileURLToPath(moduleUrl))
const root = join(directory, '../..')
const compiler = join(root, 'scripts/compile.mjs')

/**
 * Loads the addon: the file that the environment variable `ASYNC_ACCEPT_ADDON` names; else a binary that was compiled on
 * this machine; else the binary of the package for this machine, also when a bundler has moved it next to the bundle.
 *
 * Errors: `ERR_UNSUPPORTED_PLATFORM` (not Linux, or not Node.js), `ERR_ADDON_LOAD`.
 */
export function loadAddon(): unknown {
  const { bun, deno } = process.versions
  if (process.platform !== 'linux') throw codedError('ERR_UNSUPPORTED_PLATFORM', `this is ${process.platform}`)
  if (bun !== undefined) throw codedError('ERR_UNSUPPORTED_PLATFORM', `this is Bun ${bun}`)
  if (deno !== undefined) throw codedError('ERR_UNSUPPORTED_PLATFORM', `this is Deno ${deno}`)
  const looked: string[] = []
  for (const file of candidates()) {
    if (exists(file)) return load(file)
    looked.push(file)
  }
  throw failure(`there is no binary for ${machine()}. These files were looked for: ${looked.join(', ')}. ${remedy()}`)
}

function load(file: string): unknown {
  try {
    // Not by the name createRequire, which bundlers would follow.
    return Module.createRequire(moduleUrl)(file)
  } catch (cause) {
    const { code, message } = cause as CodedError
    throw failure(
      code === 'ERR_DLOPEN_DISABLED'
        ? `Node.js may not load ${file}: it runs with --no-addons, or with --permission and without --allow-addons`
        : `${file} does not fit ${machine()}: ${message}. ${remedy()}`,
      cause,
    )
  }
}

// A generator, so that the C library is determined only if a binary of the package is needed.
function* candidates(): Generator<string> {
  const { ASYNC_ACCEPT_ADDON } = process.env
  if (ASYNC_ACCEPT_ADDON) {
    yield ASYNC_ACCEPT_ADDON
    return
  }
  yield join(root, 'build/Release/async_accept.node')
  const packaged = packagedPath()
  if (packaged !== undefined) yield packaged
  yield join(directory, basename(packagedName()))
}

const packagedName = () => `prebuilds/linux-${process.arch}/async-accept.${libc()}.node`

function packagedPath(): string | undefined {
  try {
    const found = packagedBinary(`${process.arch} ${libc()}`)
    return typeof found === 'string' && !found.startsWith('file:') ? found : found && fileURLToPath(found)
  } catch {
    // In a bundle in the format of CommonJS import.meta.url is undefined.
    return undefined
  }
}

function exists(file: string): boolean {
  try {
    return statSync(file, { throwIfNoEntry: false }) !== undefined
  } catch (cause) {
    if ((cause as CodedError).code !== 'ERR_ACCESS_DENIED') return false
    throw failure(`Node.js may not read ${file}: it runs with --permission and without --allow-fs-read for it`, cause)
  }
}

/**
 * The C library of this process. The path of the dynamic loader (PT_INTERP, elf(5)) stands near the beginning of the
 * executable. A diagnostic report says it too, but it interrupts all threads of the process and waits for them.
 */
function libc(): 'glibc' | 'musl' {
  const beginning = Buffer.alloc(16_384)
  try {
    const fd = openSync(process.execPath, 'r')
    try {
      readSync(fd, beginning)
    } finally {
      closeSync(fd)
    }
  } catch {
    // The permission model, or a chroot without the executable. The report below answers.
  }
  if (beginning.includes('/ld-musl-')) return 'musl'
  if (beginning.includes('/ld-linux') || beginning.includes('/ld64.so') || glibcVersion() !== undefined) return 'glibc'
  return 'musl'
}

function glibcVersion(): string | undefined {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime
}

/** What a binary must fit. */
function machine(): string {
  const glibc = glibcVersion()
  return `linux-${process.arch} with ${glibc === undefined ? 'musl' : `glibc ${glibc}`}, Node.js ${process.version}`
}

function remedy(): string {
  return existsSync(compiler)
    ? `Compile the addon with "node ${compiler}". That takes a C++17 compiler, make, Python 3 and, on musl, the headers of Linux`
    : `This is a bundle: keep async-accept out of it ("external"), or put ${packagedName()} of the package next to it`
}

const failure = (what: string, cause?: unknown) =>
  codedError('ERR_ADDON_LOAD', what, cause === undefined ? {} : { cause })
