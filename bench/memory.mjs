// The memory of a measured process.
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')

export const gc = runInNewContext('gc')

/** Returns the bytes that are in use after a garbage collection: { rss, heapUsed, ... } of process.memoryUsage(). */
export function memory() {
  for (let i = 0; i < 3; i++) gc()
  return process.memoryUsage()
}

/** Returns the bytes of all kernel objects on the machine, among them sockets, their files and epoll entries. */
export function kernelMemory() {
  return Number(/^Slab:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))[1]) * 1024
}
