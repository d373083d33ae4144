import { chownSync, readFileSync } from 'node:fs'

/** A user of this system, from passwd(5). */
export interface User {
  name: string
  uid: number
  gid: number
}

/** Returns undefined if there is no such user. */
export function findUser(name: string): User | undefined {
  const lines = readFileSync('/etc/passwd', 'utf8').split('\n')
  const [, , uid, gid] = lines.map((line) => line.split(':')).find(([each]) => each === name) ?? []
  return uid === undefined || gid === undefined ? undefined : { name, uid: Number(uid), gid: Number(gid) }
}

/** Gives the paths to a user, and makes this process run as that user from now on. Errors: those of `node:fs`, `EPERM`. */
export function becomeUser({ name, uid, gid }: User, paths: readonly string[]): void {
  for (const path of paths) chownSync(path, uid, gid)
  // The type declarations omit initgroups().
  const { initgroups, setgid, setuid } = process as typeof process & { initgroups(user: string, gid: number): void }
  initgroups(name, gid)
  setgid?.(gid)
  setuid?.(uid)
}
