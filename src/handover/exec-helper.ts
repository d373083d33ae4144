import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { binding } from '../core/binding.js'
import { systemError } from '../core/errors.js'

// Errors due to limits of the process or the system. They would also prevent a helper in a file, so they are thrown at
// once.
const limits = [constants.errno.EMFILE, constants.errno.ENFILE, constants.errno.ENOMEM]

/** The program of native/exec_helper.c as an executable file. The path is valid until `remove` is called. */
export interface ExecHelper {
  path: string
  remove(): void
}

/**
 * Copies the program into memory (memfd_create(2)), on an fd that is at least `lowest`. The path works in a child
 * process with any user and working directory. Returns undefined if /proc is not mounted, or vm.memfd_noexec forbids
 * execution.
 *
 * Errors: `EMFILE`, `ENFILE`, `ENOMEM`.
 */
export function helperInMemory(lowest: number): ExecHelper | undefined {
  const fd = binding.execHelper(lowest)
  if (fd >= 0) return { path: `/proc/self/fd/${fd}`, remove: () => binding.close(fd) }
  if (limits.includes(-fd)) throw systemError('memfd_create', fd)
  return undefined
}

/** Writes the program to a file in a new directory. Errors: those of `node:fs`. */
export function helperInFile(): ExecHelper {
  const directory = makeDirectory()
  const remove = () => rmSync(directory, { recursive: true, force: true })
  try {
    const path = join(directory, 'async-accept-exec')
    writeFileSync(path, binding.execHelperImage(), { mode: 0o755 })
    // The child may run as another user (options `uid` and `gid`).
    chmodSync(directory, 0o711)
    chmodSync(path, 0o755)
    return { path, remove }
  } catch (error) {
    remove()
    throw error
  }
}

// A minimal root file system may have no directory for temporary files. Use the working directory then.
function makeDirectory(): string {
  try {
    return mkdtempSync(join(tmpdir(), 'async-accept-'))
  } catch {
    return mkdtempSync(join(process.cwd(), '.async-accept-'))
  }
}
