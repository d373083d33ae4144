// How long a process had to wait while others had the CPUs.
import { existsSync, openSync, readSync } from 'node:fs'

const path = '/proc/self/schedstat'
// Open from the beginning: there may be no fd left when it is to be read.
const fd = existsSync(path) ? openSync(path) : -1
const text = Buffer.alloc(128)

/** ms for which its main thread was ready to run and did not, since it began; 0 on a kernel that does not say. */
export function starved() {
  if (fd < 0) return 0
  const [, waited] = text.toString('latin1', 0, readSync(fd, text, 0, text.length, 0)).split(' ')
  return Number(waited) / 1e6
}
