// Does the work for one connection, listener or thread depend on the number of the others?
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { fileOf, load, Server } from './measure.mjs'
import { inPairs } from './pairs.mjs'

// fds of a process other than its connections or listeners.
const otherFds = 200
const fewConnections = 2_000
const fewThreads = 8
// A worker thread with this package needs about half of this.
const threadMemory = 32 * 2 ** 20

// A cost per connection, listener or thread is linear if it grows by no more than this.
const growth = 1.5

/** Returns the hard limit of fds, and a command prefix that raises it to `wanted` if this process may do that. */
function fdLimit(wanted) {
  const [, hard] = /^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  if (Number(hard) >= wanted) return { limit: Number(hard), prefix: [] }
  const prefix = ['prlimit', `--nofile=${wanted}:${wanted}`]
  if (spawnSync(prefix[0], [...prefix.slice(1), 'true']).status === 0) return { limit: wanted, prefix }
  return { limit: Number(hard), prefix: [] }
}

const number = (value) => value.toLocaleString('en')
const scaled = (by, digits) => (summary) => ({
  median: summary.median / by,
  least: summary.least / by,
  most: summary.most / by,
  digits,
})
const plain = (digits) => scaled(1, digits)
const kib = scaled(1024, 1)

/** Flattens the percentiles: { accept: { half, most } } becomes { 'accept half', 'accept most' }. */
const flat = (result) =>
  Object.fromEntries(
    Object.entries(result).flatMap(([name, value]) =>
      typeof value === 'object'
        ? Object.entries(value).map(([percentile, ms]) => [`${name} ${percentile}`, ms])
        : [[name, value]],
    ),
  )

const latencies = (what) => [
  [`${what}: 50 %, ms`, `${what} half`, plain(2)],
  [`${what}: 99 %, ms`, `${what} most`, plain(2)],
]
const memoryColumns = [
  ['RSS, KiB', 'rss', kib],
  ['heap, KiB', 'heap', kib],
  ['kernel, KiB', 'kernel', kib],
]

// The parts of the question. `columns`: the column, the figure and its format. `linear`: figures that must not grow.
const served = {
  what: 'connections through serve()',
  title: 'Connections held through serve(), for each connection',
  columns: [
    ...memoryColumns,
    ['CPU to accept and answer, us', 'cpu', plain(0)],
    ...latencies('accept'),
    ...latencies('request'),
  ],
  linear: ['rss', 'heap', 'kernel', 'cpu'],
}
const ends = {
  title: 'The end of these connections, and looks at them',
  columns: [
    ['drain(), ms', 'drain', plain(0)],
    ['drain(), us each', 'drain each', plain(1)],
    ['drain(), CPU, us each', 'drain CPU', plain(1)],
    ['close(), ms', 'close', plain(0)],
    ['close(), us each', 'close each', plain(1)],
    ['close(), CPU, us each', 'close CPU', plain(1)],
    ['util.inspect(), ms', 'inspect', plain(2)],
    ['connections, us', 'connections', plain(1)],
  ],
  linear: ['drain each', 'drain CPU', 'close CPU'],
}
const accepted = {
  what: 'connections of accept()',
  title: 'Connections held after accept(), for each connection',
  columns: [
    ...memoryColumns,
    ['CPU to accept, us', 'cpu', plain(1)],
    ...latencies('accept'),
    ['close(), us', 'close each', plain(1)],
    ['close(), CPU, us', 'close CPU', plain(1)],
  ],
  linear: ['heap', 'kernel', 'cpu', 'close CPU'],
}
const listening = {
  what: 'listeners',
  title: 'Listeners, for each listener',
  columns: [
    ['listen(), us', 'open', plain(0)],
    ['RSS, KiB', 'rss', kib],
    ['heap, KiB', 'heap', kib],
    ['pending, us', 'pending', plain(2)],
    ...latencies('accept'),
    ['close(), us', 'close', plain(0)],
    ['garbage collection, us', 'collect', plain(0)],
  ],
  linear: ['open', 'heap', 'pending', 'close', 'collect'],
}
const servedTogether = {
  title: 'The same listeners through one serve()',
  columns: [
    ['served: RSS, KiB', 'served rss', kib],
    ['served: heap, KiB', 'served heap', kib],
    ...latencies('request'),
    ['served: close(), us', 'served close', plain(0)],
  ],
  linear: ['served heap', 'served close', 'request half'],
}
const threading = {
  what: 'threads',
  title: 'Threads that share one listening socket, for each thread',
  columns: [
    ['start, ms', 'start', plain(0)],
    ['start, CPU, ms', 'start CPU', plain(0)],
    ['RSS, MiB', 'rss', scaled(2 ** 20, 1)],
    ...latencies('accept'),
    ['terminate(), ms', 'terminate', plain(1)],
    ['clients meanwhile', 'clients', plain(0)],
    ['clients lost', 'lost', plain(0)],
  ],
  linear: ['start', 'rss', 'terminate'],
}

export const defaults = { connections: 100_000, listeners: 10_000, threads: 64, rounds: 3 }
export const smoke = { connections: 60, listeners: 20, threads: 4, rounds: 1 }

export async function measure({ node, connections, listeners, threads, rounds, progress }) {
  const { limit, prefix } = fdLimit(connections + otherFds)
  const most = {
    connections: Math.min(connections, limit - otherFds),
    listeners: Math.min(listeners, limit - otherFds),
    threads: Math.min(threads, Math.max(2, Math.floor(os.freemem() / 2 / threadMemory))),
  }
  const few = {
    connections: Math.min(fewConnections, most.connections >> 1),
    listeners: Math.ceil(most.listeners / 10),
    threads: Math.min(fewThreads, most.threads >> 1),
  }

  async function ask(file, args, meanwhile = () => ({})) {
    const server = await Server.start([...prefix, node, fileOf(file), ...args.map(String)])
    const [result, other] = await Promise.all([server.mark(), meanwhile(server.address)])
    await server.stop()
    return flat({ ...result, ...other })
  }
  async function hold(role, kind, count) {
    const result = await ask('scale-held.mjs', [role, kind, count], ({ port }) =>
      load([...prefix, node, fileOf('scale-held.mjs'), 'clients', kind, port, count]),
    )
    if (result.failures > 0) throw new Error(`${result.failures} of ${count} clients failed`)
    return result
  }
  const serveAll = async (count) => ({
    ...(await hold('close', 'serve', count)),
    ...(await hold('drain', 'serve', count)),
  })

  const pair = (name, { few, most }, run) => [
    { name: `${name}${number(few)}`, run: () => run(few) },
    { name: `${name}${number(most)}`, run: () => run(most) },
  ]
  const sizes = (name) => ({ few: few[name], most: most[name] })
  const listen = (kind) => (count) => ask('scale-listeners.mjs', [kind, count])
  const parts = [
    { tables: [served, ends], pairs: [pair('', sizes('connections'), serveAll)] },
    { tables: [accepted], pairs: [pair('', sizes('connections'), (count) => hold('accept', 'accept', count))] },
    {
      tables: [listening, servedTogether],
      pairs: [pair('TCP, ', sizes('listeners'), listen('tcp')), pair('unix, ', sizes('listeners'), listen('unix'))],
    },
    { tables: [threading], pairs: [pair('', sizes('threads'), (count) => ask('scale-threads.mjs', [count]))] },
  ]

  const tables = []
  const checks = []
  const losses = []
  for (const [name, wanted] of Object.entries({ connections, listeners, threads })) {
    if (most[name] === wanted) continue
    const cause = name === 'threads' ? 'The free memory' : `The limit of ${number(limit)} fds for a process`
    losses.push(`${cause} allows ${number(most[name])} ${name} here instead of ${number(wanted)}`)
  }
  for (const { tables: shown, pairs } of parts) {
    const [{ what }] = shown
    const rows = []
    const compared = []
    for (const [few, most] of pairs) {
      const results = await inPairs({
        contenders: [most],
        references: [few],
        rounds,
        // Each measurement has its own processes.
        start: () => ({ stop: () => {} }),
        measure: (_, { run }) => run(),
        progress: (text) => progress(`${what}: ${text}`),
      })
      rows.push({ name: few.name, results }, { name: most.name, results })
      compared.push({ less: few.name, more: most.name, results })
    }
    for (const { title, columns, linear = [] } of shown) {
      const drawn = columns.filter(([, figure]) => linear.includes(figure)).map(([column]) => column)
      tables.push({
        title,
        bars: drawn.map((column) => ({ columns: [column], title: `${title}: ${column}` })),
        columns: [what, ...columns.map(([column]) => column)],
        rows: rows.map(({ name, results }) => [
          name,
          ...columns.map(([, figure, format]) => format(results.of(name, figure))),
        ]),
      })
    }
    for (const { columns, linear = [] } of shown) {
      for (const figure of linear) {
        const [column = figure] = columns.find(([, each]) => each === figure) ?? []
        for (const { less, more, results } of compared) {
          const { median: measured } = results.ratio(more, less, figure)
          checks.push({ what: `${what}: ${column}: ${more} relative to ${less}`, most: growth, measured })
          if (measured > growth) losses.push(`${what}: ${column}: ${more} is ${measured.toFixed(2)} times ${less}`)
        }
      }
    }
    if (shown.includes(threading)) {
      for (const { name, results } of rows) {
        const { most: lost } = results.of(name, 'lost')
        if (lost > 0) losses.push(`${what}: ${lost} clients lost when ${name} threads were terminated`)
      }
    }
  }
  return { tables, checks, losses }
}

export const title = 'Many connections, listeners and threads'
export const about = [
  'Each table compares a small with a large number in one process. The figures are for one connection, listener or',
  'thread, so they stay the same if the total is linear. A target is missed if a figure grows by more than a half.',
  '',
  '- Connections: idle keep-alive connections of an http server, each after one request, or connections from',
  '  `accept()`. All are held while 300 further clients connect in turn, and while 300 requests are made on random held',
  '  connections. `drain({ idleGrace: 0 })` includes the time in which the clients close their ends, `close()` does not.',
  '  Only the CPU time of `close()` has a target: the elapsed time varies with the clients and other processes.',
  '  Kernel memory is half of the growth of Slab in /proc/meminfo, because both ends are on this machine.',
  '- Listeners: opened on TCP port 0 of 127.0.0.1, or on unix paths. All but one have an outstanding `accept()`, while',
  '  200 clients connect to the last one in turn. For the garbage collection, all are unreachable and not closed.',
  '  Through one `serve()`, each listener has 64 outstanding requests.',
  '- Threads: each shares the fd with `dup`. When all are terminated at once, 8 clients connect in turn, and the main',
  '  thread answers those that the threads leave in the backlog. A client is lost if its thread has accepted it, but has',
  '  not answered yet.',
].join('\n')
