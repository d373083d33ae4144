import { readFileSync } from 'node:fs'
import type { Fleet } from './fleet.js'
import type { Member } from './member.js'
import type { Worker } from './worker.js'

/** When a worker that does well is replaced all the same. */
export interface RecyclingLimits {
  /** ms from the start of the worker; undefined: no limit. */
  maxAge: number | undefined
  /** Bytes of memory of its process (VmRSS); undefined: no limit. */
  maxRss: number | undefined
}

// ms
const interval = 1_000

/** Replaces workers that have become too old or too large, or fail their probes, one at a time. The returned function ends it. */
export function recycle(
  fleet: Fleet<Member & Pick<Worker, 'complaint'>>,
  { maxAge, maxRss }: RecyclingLimits,
): () => void {
  const timer = setInterval(() => {
    for (const worker of fleet.ready) {
      if (worker.complaint !== undefined) fleet.replace(worker, worker.complaint)
      const age = performance.now() - worker.startedAt
      if (maxAge !== undefined && age > maxAge) fleet.replace(worker, `has run for ${Math.round(age / 1000)} s`)
      const rss = maxRss === undefined ? undefined : rssOf(worker.pid)
      if (maxRss !== undefined && rss !== undefined && rss > maxRss)
        fleet.replace(worker, `uses ${Math.round(rss / 2 ** 20)} MiB`)
    }
  }, interval)
  return () => clearInterval(timer)
}

/** The memory of a process in bytes, proc(5); undefined if it has ended. */
export function rssOf(pid: number | undefined): number | undefined {
  try {
    const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return kib === undefined ? undefined : Number(kib) * 1024
  } catch {
    return undefined
  }
}
