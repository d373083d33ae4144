// What does it cost when all idle threads wait for the same client?
import { once } from 'node:events'
import net from 'node:net'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { cores, cpus, fileOf, load, onAllCpus } from './measure.mjs'
import { cpuCells, cpuColumns, serversInPairs } from './pairs.mjs'

const counts = [1, 2, 4, 8, 16]
const nameOf = (count) => String(count)

if (!isMainThread) {
  const { fd, accepted } = workerData
  const listener = Listener.fromFd(fd, { dup: true, maxBatch: 1 })
  listener.on('accept', ({ connection }) => {
    Atomics.add(accepted, 0, 1)
    connection.close()
    listener.asyncAccept()
  })
  listener.asyncAccept()
  parentPort.postMessage('ready')
}

export const contenders = counts.map((count) => ({
  name: nameOf(count),
  serve: async () => {
    const listener = await Listener.listen({ host: '127.0.0.1' })
    const accepted = new Int32Array(new SharedArrayBuffer(4))
    const shared = { workerData: { fd: listener.fd, accepted } }
    const workers = Array.from({ length: count }, () => new Worker(new URL(import.meta.url), shared))
    await Promise.all(workers.map((worker) => once(worker, 'message')))
    return { address: listener.address(), connections: () => Atomics.load(accepted, 0) }
  },
}))

/** Runs in a separate process: connects `count` clients, each after the previous one was closed. */
async function connectInTurn(port, count) {
  const start = performance.now()
  let failures = 0
  for (let i = 0; i < count; i++) {
    const socket = net.connect({ host: '127.0.0.1', port }).resume()
    socket.on('error', () => failures++)
    await new Promise((resolve) => socket.once('close', resolve))
  }
  console.log(JSON.stringify({ connections: count, failures, seconds: (performance.now() - start) / 1000 }))
}

export const defaults = { connections: 2000, warmUp: 500, rounds: 5, slices: 2 }
export const smoke = { connections: 40, warmUp: 10, rounds: 1, slices: 1 }

const places = () => {
  const all = cpus()
  if (cores() === null) return [{ where: `on ${all.length} cores, shared with the load`, prefix: [] }]
  return [
    { where: 'on one core', prefix: [] },
    { where: `on ${all.length} cores, one of them shared with the load`, prefix: onAllCpus() },
  ]
}

export async function measure({ node, progress, ...sizes }) {
  const [one, ...more] = contenders
  const tables = []
  for (const { where, prefix } of places()) {
    const results = await serversInPairs({
      ...sizes,
      contenders: more,
      references: [one],
      commandOf: ({ name }) => [...prefix, node, fileOf('serve.mjs'), './wake.mjs', name],
      makeLoad: ({ address }, count) => load([node, fileOf('wake.mjs'), 'load', address.port, count]),
      progress: (text) => progress(`${where}: ${text} threads`),
    })
    tables.push({
      title: `CPU of all threads ${where}, per connection`,
      columns: ['idle threads', ...cpuColumns, 'ratio to one thread', 'connections/s'],
      bars: { columns: ['CPU, us'], title: `CPU per connection, us, ${where}`, label: ([count]) => `${count} idle` },
      rows: contenders.map(({ name }) => [
        name,
        ...cpuCells(results, name, 0),
        { ...results.ratio(name, one.name), digits: 2 },
        { median: results.of(name, 'rate').median, digits: 0 },
      ]),
    })
  }
  return { tables, checks: [], losses: [] }
}

export const title = 'Idle threads on one socket'
export const about = [
  'The given number of idle threads share a listening socket, each with one outstanding request. Clients connect one',
  'at a time. For each client the kernel wakes all threads. One of them accepts the client; most of the others go back',
  'to sleep without having left the kernel. EPOLLEXCLUSIVE would wake only one thread, but the client would then',
  'depend on that thread, which may be about to exit or to do other work first. It also has no effect on nested epoll',
  'instances.',
].join('\n')

if (process.argv[2] === 'load') await connectInTurn(Number(process.argv[3]), Number(process.argv[4]))
