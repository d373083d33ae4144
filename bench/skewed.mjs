// How long do quick requests wait for slow requests that block their thread?
import cluster from 'node:cluster'
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { fileOf, load, percentile, Server, summarize } from './measure.mjs'
import { inPairs } from './pairs.mjs'
import { percentilePlot } from './plot.mjs'

const threads = 4
const slowShare = 0.05
const simulations = 400
/** The time in ms for which a slow request blocks its thread. */
export const blockedFor = 50
// `busy`: the share of all threads' time that is blocked.
const loads = [
  { perSecond: 320, busy: 'a fifth' },
  { perSecond: 400, busy: 'a quarter' },
]

const connections = () => 0 // the load generator counts them

async function startThreads(workerData) {
  const workers = Array.from({ length: threads }, () => new Worker(fileOf('skewed-thread.mjs'), { workerData }))
  await Promise.all(workers.map((worker) => once(worker, 'message')))
}

const inCluster = (policy) => async () => {
  cluster.schedulingPolicy = policy
  cluster.setupPrimary({ exec: fileOf('skewed-thread.mjs'), args: [] })
  const workers = Array.from({ length: threads }, () => cluster.fork())
  const [[address]] = await Promise.all(workers.map((worker) => once(worker, 'listening')))
  return { address, connections }
}

const ours = 'one shared fd'
const roundRobin = 'cluster, round robin'
const ideal = 'one queue, simulated'

export const contenders = [
  {
    name: ours,
    serve: async () => {
      const listener = await Listener.listen({ host: '127.0.0.1' })
      await startThreads({ fd: listener.fd })
      return { address: listener.address(), connections }
    },
  },
  { name: roundRobin, serve: inCluster(cluster.SCHED_RR) },
  { name: 'cluster, SCHED_NONE', serve: inCluster(cluster.SCHED_NONE) },
  {
    name: 'reusePort',
    serve: async () => {
      const first = await Listener.listen({ host: '127.0.0.1', reusePort: true })
      const address = first.address()
      await startThreads({ port: address.port })
      await first.close() // otherwise a fifth of the clients would wait in its backlog
      return { address, connections }
    },
  },
]

// Mulberry32, so that all contenders of a round receive the same requests.
function random(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 2 ** 32
  }
}

/** Yields the times (ms from the start) and the kinds of requests. */
function* arrivals(count, perSecond, seed) {
  const next = random(seed)
  for (let i = 0, at = 0; i < count; i++) {
    at += (-Math.log(next()) * 1000) / perSecond
    yield { at, kind: next() < slowShare ? 'slow' : 'quick' }
  }
}

/** Returns the sorted latencies (ms) of quick requests if all threads share one queue, and nothing else takes time. */
function simulate(count, perSecond, seed) {
  const freeAt = new Array(threads).fill(0)
  const took = []
  for (const { at, kind } of arrivals(count, perSecond, seed)) {
    const thread = freeAt.indexOf(Math.min(...freeAt))
    const start = Math.max(at, freeAt[thread])
    freeAt[thread] = start + (kind === 'slow' ? blockedFor : 0)
    if (kind === 'quick') took.push(start - at)
  }
  return took.sort((a, b) => a - b)
}

/**
 * Runs in a separate process: makes requests at times independent of the responses, each with the text of its kind.
 * Prints the latencies of quick requests.
 */
export async function makeRequests(port, count, perSecond, seed, textOf = (kind) => kind) {
  const took = []
  let failures = 0
  const request = (kind) =>
    new Promise((resolve) => {
      const start = performance.now()
      const socket = net.connect({ host: '127.0.0.1', port })
      socket.write(textOf(kind))
      socket.once('data', () => {
        if (kind === 'quick') took.push(performance.now() - start)
      })
      socket.on('error', () => failures++).on('close', resolve)
    })
  const requests = []
  const begin = performance.now()
  for (const { at, kind } of arrivals(count, perSecond, seed)) {
    const due = begin + at
    while (performance.now() < due) await sleep(due - performance.now())
    requests.push(request(kind))
  }
  await Promise.all(requests)
  console.log(JSON.stringify({ failures, took: took.sort((a, b) => a - b) }))
}

const figures = ['50 %', '99 %', 'longest']
const figuresOf = (took) => ({ '50 %': percentile(took, 50), '99 %': percentile(took, 99), longest: took.at(-1) })

// From 0 to 99.9, denser towards the end, where the contenders differ.
const percents = Array.from({ length: 121 }, (_, i) => 100 - 100 / 10 ** (i / 40))

export const defaults = { connections: 6400, warmUp: 400, rounds: 4 }
export const smoke = { connections: 60, warmUp: 20, rounds: 1 }

export async function measure({ node, connections, warmUp, rounds, progress }) {
  const tables = []
  const checks = []
  const losses = []
  let curves
  const waits = []
  for (const { perSecond, busy } of loads) {
    const took = new Map(contenders.map(({ name }) => [name, []]))
    const request = async (server, name, count, seed) => {
      const command = [node, fileOf('skewed.mjs'), 'load', server.address.port, count, perSecond, seed]
      const result = await load(command)
      if (result.failures > 0) throw new Error(`${name}: ${result.failures} of ${count} requests failed`)
      return result.took
    }
    const results = await inPairs({
      contenders: contenders.filter(({ name }) => name !== roundRobin),
      references: contenders.filter(({ name }) => name === roundRobin),
      rounds,
      start: async ({ name }, round) => {
        const server = await Server.start([node, fileOf('serve.mjs'), './skewed.mjs', name])
        await request(server, name, warmUp, 1000 + round)
        return server
      },
      measure: async (server, { name }, round) => {
        const quick = await request(server, name, connections, round)
        took.get(name).push(quick)
        return figuresOf(quick)
      },
      progress: (text) => progress(`${perSecond} per second: ${text}`),
    })
    const ms = (name, figure) => ({ ...results.of(name, figure), digits: 1 })
    const against = (name) => ({ ...results.ratio(name, roundRobin, '99 %'), digits: 2 })
    tables.push({
      title: `${perSecond} requests per second, ${busy} of the time blocked: latency of quick requests, ms`,
      columns: ['contender', '50 %', '99 %', 'longest', '99 %, ratio to round robin'],
      rows: [
        ...contenders.map(({ name }) => [name, ...figures.map((figure) => ms(name, figure)), against(name)]),
        // Of the same requests.
        [
          ideal,
          ...figures.map((figure) => {
            const each = Array.from({ length: rounds }, (_, round) => simulate(connections, perSecond, round))
            return { ...summarize(each.map((took) => figuresOf(took)[figure])), digits: 1 }
          }),
          '-',
        ],
      ],
    })
    const longest = Array.from({ length: simulations }, (_, seed) => simulate(connections, perSecond, seed).at(-1))
    waits.push([
      perSecond,
      longest.filter((wait) => wait > blockedFor).length,
      { median: summarize(longest).most, digits: 1 },
    ])
    checks.push({
      what: `${perSecond} per second: ${ours} relative to ${roundRobin}, 99 %`,
      measured: against(ours).median,
      most: 0.2,
    })
    for (const { name } of contenders) {
      for (const figure of figures) {
        const median = results.of(ours, figure).median / results.of(name, figure).median
        if (median > 1) losses.push(`${perSecond} per second, ${figure}: ${median.toFixed(2)} times that of ${name}`)
      }
    }
    // The curves include all rounds.
    curves ??= contenders.map(({ name }) => {
      const sorted = took
        .get(name)
        .flat()
        .sort((a, b) => a - b)
      return { name, points: percents.map((percent) => [percent, percentile(sorted, percent)]) }
    })
  }
  tables.push({
    title: `One queue, simulated ${simulations} times`,
    columns: ['requests per second', 'runs with a wait of more than one block', 'longest wait, ms'],
    rows: waits,
  })
  return { tables, checks, losses, curves }
}

export const title = 'A skewed load'
export const about = [
  `${threads} threads or processes share a port. ${slowShare * 100} % of the requests block their thread for 50 ms,`,
  'like a synchronous call, but without using CPU. The other requests, the quick ones, are answered at once. Each',
  'request has its own connection, and arrives at a random time (Poisson) independent of earlier responses. The',
  'measured latency is that of the quick requests, from connecting to the response.',
  '',
  `- ${ours}: \`Listener.fromFd(fd, { dup: true, maxBatch: 1 })\` in each thread, which requests one client after it has`,
  '  answered the previous one',
  '- cluster: `net.createServer()` in each process, with each `schedulingPolicy`',
  '- reusePort: `Listener.listen({ port, reusePort: true })` in each thread, otherwise like the first',
  '',
  `- ${ideal}: the same requests, with one queue for all threads, where nothing else takes time`,
  '',
  'When all threads are blocked, no distribution of the clients helps. So even one queue without any overhead has waits.',
  'A quick client waits for more than one block if all threads are blocked and get further slow clients that came before',
  'it. The last table shows how often that happens in the simulation.',
].join('\n')

export const plot = {
  file: 'skewed-load.svg',
  draw: (answers) => {
    const { version, curves } = answers.at(-1)
    return percentilePlot({
      title: `Quick requests beside slow ones, ${loads[0].perSecond} per second, Node ${version}`,
      curves,
    })
  },
}

if (process.argv[2] === 'load') await makeRequests(...process.argv.slice(3).map(Number))
