// What a process holds: fds and handles by kind, and memory.
import { once } from 'node:events'
import { readdirSync, readlinkSync } from 'node:fs'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Listener } from 'async-accept'

/**
 * Has a thread open what it opens once and keeps: the standard streams, libuv's spare fd, and what look ahead waits with. It
 * is no leak, and must not come in the midst of the run.
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
    return [] // the one by which the directory was read
  }
}

/** `{ fds, handles }`, each by kind and how many. */
export const held = () => ({
  fds: count(readdirSync('/proc/self/fd').flatMap(nameOf)),
  handles: count(process.getActiveResourcesInfo()),
})

export const total = (counts) => Object.values(counts).reduce((sum, each) => sum + each, 0)

/** What one holds otherwise than the other, as sentences. */
export function differences(now, before) {
  return ['fds', 'handles'].flatMap((kind) =>
    [...new Set([...Object.keys(now[kind]), ...Object.keys(before[kind])])]
      .filter((name) => now[kind][name] !== before[kind][name])
      .map((name) => `${kind}: ${now[kind][name] ?? 0} ${name}, and ${before[kind][name] ?? 0} before`),
  )
}

/** Bytes, of what is in use. V8 gives back late what it does not need: the least of several looks. Needs --expose-gc. */
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

/** Bytes by which memory grows with each client, and the standard error of that: a line through all looks. */
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
