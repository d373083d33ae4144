// The resources of a process: fds and handles by kind, and memory.
import { once } from 'node:events'
import { readdirSync, readlinkSync } from 'node:fs'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Listener } from 'async-accept'

/**
 * Makes a thread open the resources that it opens once and keeps: the standard streams, libuv's spare fd, and the fd
 * that look-ahead polls with. They are not leaks, and must not appear in the middle of the run.
 */
export async function openWhatStays() {
  const streams = [process.stdout, process.stderr]
  const listener = await Listener.listen({ host: '127.0.0.1' })
  const client = net.connect(listener.address().port, '127.0.0.1').end()
  const connection = await listener.accept()
  await connection.peek(1)
  connection.toSocket().resume()
  await Promise.all([once(client.resume(), 'close'), listener.close()])
  return streams.length
}

const count = (names) => {
  const counts = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

function nameOf(fd) {
  try {
    return [readlinkSync(`/proc/self/fd/${fd}`).replace(/:?\[\d+\]$/, '')]
  } catch {
    return [] // the fd through which the directory was read
  }
}

/** `{ fds, handles }`: the counts by kind. */
export const held = () => ({
  fds: count(readdirSync('/proc/self/fd').flatMap(nameOf)),
  handles: count(process.getActiveResourcesInfo()),
})

export const total = (counts) => Object.values(counts).reduce((sum, each) => sum + each, 0)

/** Describes the differences between two results of `held()`. */
export function differences(now, before) {
  return ['fds', 'handles'].flatMap((kind) =>
    [...new Set([...Object.keys(now[kind]), ...Object.keys(before[kind])])]
      .filter((name) => now[kind][name] !== before[kind][name])
      .map((name) => `${kind}: ${now[kind][name] ?? 0} ${name}, and ${before[kind][name] ?? 0} before`),
  )
}

/** Memory in use, in bytes. The minimum of several samples, because V8 frees memory late. Requires --expose-gc. */
export async function memory() {
  const least = { rss: Number.POSITIVE_INFINITY, heap: Number.POSITIVE_INFINITY }
  for (let i = 0; i < 10; i++) {
    globalThis.gc()
    await sleep(50)
    const { rss, heapUsed, external } = process.memoryUsage()
    least.rss = Math.min(least.rss, rss)
    least.heap = Math.min(least.heap, heapUsed + external)
  }
  return least
}

/** The growth of memory per client in bytes, and its standard error: a linear regression over all samples. */
export function growth(looks, figure) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
  const x = looks.map(({ clients }) => clients)
  const y = looks.map((look) => look[figure])
  const [meanX, meanY] = [mean(x), mean(y)]
  const spread = x.reduce((sum, each) => sum + (each - meanX) ** 2, 0)
  const perClient = x.reduce((sum, each, i) => sum + (each - meanX) * (y[i] - meanY), 0) / spread
  const residues = y.map((each, i) => each - meanY - perClient * (x[i] - meanX))
  const variance = residues.reduce((sum, residue) => sum + residue ** 2, 0) / (looks.length - 2)
  return { perClient, error: Math.sqrt(variance / spread), clients: x.at(-1) - x[0] }
}
