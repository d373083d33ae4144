import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { binding } from '../core/binding.js'
import { systemError } from '../core/errors.js'

// The limits of the process: they are no reason to look for the program elsewhere.
const limits = [constants.errno.EMFILE, constants.errno.ENFILE, constants.errno.ENOMEM]

/** A file of the program in native/exec_helper.c, which can be executed until `remove` is called. */
export interface ExecHelper {
  path: string
  remove(): void
}

/**
 * The program in memory, as an fd no lower than `lowest`. The path works in a child, whatever its user and its directory.
 * Undefined where there is no /proc, or memory may not be executed (vm.memfd_noexec).
 *
 * Errors: `EMFILE`, `ENFILE`, `ENOMEM`.
 */
export function helperInMemory(lowest: number): ExecHelper | undefined {
  const fd = binding.execHelper(lowest)
  if (fd >= 0) return { path: `/proc/self/fd/${fd}`, remove: () => binding.close(fd) }
  if (limits.includes(-fd)) throw systemError('memfd_create', fd)
  return undefined
}

/** The program in a new directory of its own. Errors: those of `node:fs`. */
export function helperInFile(): ExecHelper {
  const directory = makeDirectory()
  const remove = () => rmSync(directory, { recursive: true, force: true })
  try {
    const path = join(directory, 'async-accept-exec')
    writeFileSync(path, binding.execHelperImage(), { mode: 0o755 })
    // The child may be another user's.
    chmodSync(directory, 0o711)
    chmodSync(path, 0o755)
    return { path, remove }
  } catch (error) {
    remove()
    throw error
  }
}

// A minimal root has no directory for temporary files.
function makeDirectory(): string {
  try {
    return mkdtempSync(join(tmpdir(), 'async-accept-'))
  } catch {
    return mkdtempSync(join(process.cwd(), '.async-accept-'))
  }
}
