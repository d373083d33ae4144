import { lstatSync, mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const ownUid = () => process.geteuid?.() ?? 0

/** The directories that may contain those of supervisors, best first. */
function bases(env: NodeJS.ProcessEnv): string[] {
  const { ASYNC_ACCEPT_RUN_DIRECTORY, XDG_RUNTIME_DIR } = env
  // A program may change its directory, and sends its notifications to this one.
  if (ASYNC_ACCEPT_RUN_DIRECTORY) return [resolve(ASYNC_ACCEPT_RUN_DIRECTORY)]
  const own = XDG_RUNTIME_DIR ? [join(XDG_RUNTIME_DIR, 'async-accept')] : []
  return ['/run/async-accept', ...own, join(tmpdir(), `async-accept-${ownUid()}`)]
}

/**
 * Makes the directory for the sockets of a supervisor: `control`, and one for each worker. Its owner is this user, and
 * no other user may enter it. Throws if no directory can be made.
 */
export function makeRunDirectory(name: string, env: NodeJS.ProcessEnv): string {
  let failure: unknown
  for (const base of bases(env)) {
    try {
      mkdirSync(base, { recursive: true, mode: 0o755 })
      checkOwner(base, [0, ownUid()])
      const directory = join(base, name)
      mkdirSync(directory, { recursive: true, mode: 0o700 })
      // Only root has made it, although it may belong to another user: that of an earlier supervisor with `--user`.
      if (ownUid() !== 0) checkOwner(directory, [ownUid()])
      return directory
    } catch (error) {
      failure ??= error
    }
  }
  throw failure
}

// Another user may have made a directory of that name in /tmp.
function checkOwner(directory: string, owners: readonly number[]): void {
  const { uid, mode } = lstatSync(directory)
  if (!owners.includes(uid) || (mode & 0o022) !== 0) {
    throw new Error(`${directory} belongs to another user, or others may write to it`)
  }
}

export const controlSocketIn = (directory: string): string => join(directory, 'control')

/** Removes what a supervisor that was killed has left. Called when the control socket is open. */
export function removeLeftovers(directory: string): void {
  for (const name of entriesOf(directory)) {
    const path = join(directory, name)
    if (path !== controlSocketIn(directory)) rmSync(path, { recursive: true, force: true })
  }
}

/** Removes the directory of a supervisor. After `--user`, only what is in it. */
export function removeRunDirectory(directory: string): void {
  removeLeftovers(directory)
  rmSync(controlSocketIn(directory), { force: true })
  try {
    rmdirSync(directory)
  } catch {
    // The directory above belongs to root. The next supervisor of this name uses the empty one.
  }
}

/** Returns the names of the supervisors whose directories exist, and the paths of their control sockets, best first. */
export function findSupervisors(env: NodeJS.ProcessEnv): (readonly [name: string, path: string])[] {
  return bases(env).flatMap((base) => entriesOf(base).map((name) => [name, controlSocketIn(join(base, name))] as const))
}

function entriesOf(base: string): string[] {
  try {
    return readdirSync(base)
  } catch {
    return []
  }
}
