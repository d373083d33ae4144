// How do long-lived connections spread over threads or processes that share a listening socket?
import { fork } from 'node:child_process'
import cluster from 'node:cluster'
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { fileOf, load, onAllCpus, Server, summarize } from './measure.mjs'

// `gap`: the time in ms from one client to the next.
const loads = [
  { name: 'burst', title: 'all clients connect at once', gap: 0 },
  { name: 'trickle', title: 'a client connects every 2 ms', gap: 2 },
]

const holderFile = fileOf('spread-holder.mjs')

/** Counts what the holders report, and tells each of them the total. Resolves when all are ready. */
async function follow(holders, send) {
  const counted = holders.map(() => 0)
  const ready = holders.map((holder, i) => {
    holder.on('message', (count) => {
      counted[i] = count
      for (const other of holders) send(other, sum(counted))
    })
    return once(holder, 'message')
  })
  await Promise.all(ready)
  return () => counted
}

const sharing = (start, send) => async (way, holders) => {
  const listener = await Listener.listen({ host: '127.0.0.1', backlog: 4096 })
  const started = Array.from({ length: holders }, () => start({ way, holders, fd: listener.fd }))
  return { address: listener.address(), connections: await follow(started, send) }
}

const startThread = (workerData) => new Worker(holderFile, { workerData })

// The child has the fd of the listener as its fd 4, after its channel.
const startProcess = ({ fd, ...data }) =>
  fork(holderFile, [JSON.stringify({ ...data, fd: 4 })], { stdio: ['ignore', 'ignore', 'inherit', 'ipc', fd] })

const inCluster = (policy) => async (_way, holders) => {
  cluster.schedulingPolicy = policy
  cluster.setupPrimary({ exec: holderFile, args: [JSON.stringify({ holders })] })
  const workers = Array.from({ length: holders }, () => cluster.fork())
  // Workers of a cluster report nothing before their first connection.
  const following = follow(workers, (worker, total) => worker.send(total))
  const [[address]] = await Promise.all(workers.map((worker) => once(worker, 'listening')))
  for (const worker of workers) worker.emit('message', 0)
  return { address, connections: await following }
}

const threads = sharing(startThread, (worker, total) => worker.postMessage(total))
const processes = sharing(startProcess, (child, total) => child.send(total))

const kinds = {
  threads: {
    'serve()': threads,
    'one request': threads,
    'one turn later': threads,
    'stands back': threads,
  },
  processes: {
    'serve()': processes,
    'one request': processes,
    'one turn later': processes,
    'stands back': processes,
    'cluster, round robin': inCluster(cluster.SCHED_RR),
    'cluster, SCHED_NONE': inCluster(cluster.SCHED_NONE),
  },
}

// `connections` of serve.mjs is here the number of connections of each holder.
export const contenders = Object.entries(kinds).flatMap(([kind, ways]) =>
  Object.entries(ways).map(([way, start]) => ({
    name: `${kind}, ${way}`,
    serve: (holders) => start(way, Number(holders)),
  })),
)

/**
 * Runs in a separate process: connects clients that stay. Prints the longest time until a holder had one of them,
 * in ms.
 */
async function connectAll(port, count, gap) {
  const waits = []
  const start = performance.now()
  for (let i = 0; i < count; i++) {
    const due = start + i * gap
    while (performance.now() < due) await sleep(due - performance.now())
    const connected = performance.now()
    const socket = net.connect({ host: '127.0.0.1', port })
    waits.push(once(socket, 'data').then(() => performance.now() - connected))
  }
  console.log(JSON.stringify({ longest: Math.max(...(await Promise.all(waits))) }))
  process.exit(0)
}

const sum = (values) => values.reduce((total, value) => total + value)

/** The number of connections of each holder. A client may have its first byte before the report of its holder arrives. */
async function settled(server, connections) {
  for (let tries = 0; tries < 100; tries++) {
    const { connections: counted } = await server.mark()
    if (sum(counted) === connections) return counted
    await sleep(20)
  }
  throw new Error(`${server.command}: does not hold ${connections} connections`)
}

export const defaults = { connections: 256, rounds: 3, counts: [2, 4, 8] }
export const smoke = { connections: 32, rounds: 1, counts: [2] }

export async function measure({ node, connections, rounds, counts, progress }) {
  const spreadOf = async (name, holders, gap) => {
    const command = [...onAllCpus(), node, fileOf('serve.mjs'), './spread.mjs', name, String(holders)]
    const server = await Server.start(command)
    const { longest } = await load([node, fileOf('spread.mjs'), 'load', server.address.port, connections, gap])
    const counted = await settled(server, connections)
    await server.stop()
    const most = Math.max(...counted)
    const fewest = Math.min(...counted)
    return { fewest, most, 'most / fewest': most / fewest, 'most / mean': (most * holders) / connections, longest }
  }

  const tables = []
  for (const [kind, ways] of Object.entries(kinds)) {
    for (const { name: loadName, title, gap } of loads) {
      const rows = []
      for (const way of Object.keys(ways)) {
        for (const holders of counts) {
          const results = []
          for (let round = 1; round <= rounds; round++) {
            progress(`${holders} ${kind}, ${way}, ${loadName}: round ${round} of ${rounds}`)
            results.push(await spreadOf(`${kind}, ${way}`, holders, gap))
          }
          const of = (figure, digits) => ({ ...summarize(results.map((result) => result[figure])), digits })
          rows.push([
            `${way}, ${holders}`,
            of('fewest', 0),
            of('most', 0),
            of('most / fewest', 2),
            of('most / mean', 2),
            of('longest', 1),
          ])
        }
      }
      tables.push({
        title: `${connections} connections on ${kind}, ${title}`,
        columns: [`way, ${kind}`, 'fewest', 'most', 'most / fewest', 'most / mean', 'longest wait, ms'],
        bars: {
          columns: ['most / mean'],
          title: `most / mean, on ${kind}, ${title}`,
          ours: ([label]) => !label.startsWith('cluster'),
        },
        rows,
      })
    }
  }
  return { tables, checks: [], losses: [] }
}

export const title = 'How connections spread'
export const about = [
  'Threads or processes on all cores share a listening socket. Clients connect and stay. The table shows how many',
  'connections the thread or process with the fewest and with the most has: 1.00 for "most / mean" is an even spread.',
  'A client waits until it receives a first byte from the thread or process that holds it.',
  '',
  '- serve(): `serve(listener, server)` with its defaults',
  '- one request: one loop over `await listener.accept()` with `maxBatch: 1`',
  '- one turn later: as one request. A holder of more than its share asks again one turn of the event loop later.',
  '- stands back: as one request. A holder of more than its share asks again when the others have caught up, at the',
  '  latest after 10 ms. The main thread or parent process tells all holders the total after each accept.',
  '- cluster: `net.createServer()` in each process, with each `schedulingPolicy`',
].join('\n')

if (process.argv[2] === 'load') await connectAll(...process.argv.slice(3).map(Number))
