// The time that this process was ready to run, but had no CPU.
import { existsSync, openSync, readSync } from 'node:fs'

const path = '/proc/self/schedstat'
// Opened at the start, because no fd may be left later.
const fd = existsSync(path) ? openSync(path) : -1
const text = Buffer.alloc(128)

/** The run-queue wait of the main thread since its start, in ms; 0 on a kernel without schedstat. */
export function starved() {
  if (fd < 0) return 0
  const [, waited] = text.toString('latin1', 0, readSync(fd, text, 0, text.length, 0)).split(' ')
  return Number(waited) / 1e6
}
