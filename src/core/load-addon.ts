import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { type CodedError, codedError } from './errors.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

const remedy =
  'Compile it where it is installed, with a C++17 compiler, the headers of Linux, make and Python 3: "npm rebuild async-accept". ' +
  'From version 12 on npm first wants "npm install-scripts approve async-accept".'

/** The addon: what was compiled here comes before what the package has brought. */
export function loadAddon(): unknown {
  if (process.platform !== 'linux') {
    throw codedError('ERR_UNSUPPORTED_PLATFORM', `this is ${process.platform}`)
  }
  const require = createRequire(import.meta.url)
  let file: string
  try {
    file = (require('node-gyp-build') as { path(root: string): string }).path(root)
  } catch (cause) {
    const { code, resource } = cause as CodedError & { resource?: string }
    if (code === 'ERR_ACCESS_DENIED') {
      throw failure(
        `Node may not read ${resource}: it runs with --permission and without --allow-fs-read for it`,
        cause,
      )
    }
    if (code === 'MODULE_NOT_FOUND') throw failure((cause as Error).message.replace(/\n.*/s, ''), cause)
    throw failure(
      `there is no binary for ${machine()}: neither ${root}build/Release/async_accept.node ` +
        `nor one in ${root}prebuilds/linux-${process.arch}. ${remedy}`,
      cause,
    )
  }
  try {
    return require(file)
  } catch (cause) {
    const reason = (cause as Error).message
    const disabled = (cause as CodedError).code === 'ERR_DLOPEN_DISABLED'
    throw failure(
      disabled
        ? `Node may not load ${file}: it runs with --no-addons, or with --permission and without --allow-addons`
        : `${file} does not fit ${machine()}: ${reason}. ${remedy}`,
      cause,
    )
  }
}

const failure = (what: string, cause: unknown) => codedError('ERR_ADDON_LOAD', what, { cause })

/** What a binary must fit. */
function machine(): string {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  const libc =
    header.glibcVersionRuntime === undefined ? 'a libc other than glibc' : `glibc ${header.glibcVersionRuntime}`
  return `linux-${process.arch} with ${libc}, Node ${process.version}`
}
