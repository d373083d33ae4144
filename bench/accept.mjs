// What does it cost a server to accept and close a connection?
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { Listener } from 'async-accept'
import { compile, fileOf, load, Server, scratch } from './measure.mjs'
import { again, cpuCells, cpuColumns, exactnessCheck, ofSelf, serversInPairs } from './pairs.mjs'
import { inRuntime, runtime } from './runtimes.mjs'

// The number of outstanding requests of contenders that make more than one.
const outstanding = 64

const listen = async (where) => {
  const listener = await Listener.listen(where)
  return {
    listener,
    address: typeof listener.address() === 'string' ? { path: listener.address() } : listener.address(),
  }
}

// Reads what a user of a raw connection reads first. The sum prevents the reads from being optimized away.
const looks = { sum: 0 }
const look = ({ ref, remoteAddress }) => {
  looks.sum += ref + (remoteAddress === undefined ? 0 : remoteAddress.length)
}

const byEvent = (use) => async (where) => {
  const { listener, address } = await listen(where)
  listener.on('accept', ({ connection }) => {
    use(connection)
    listener.asyncAccept()
  })
  for (let i = 0; i < outstanding; i++) listener.asyncAccept()
  return { address, connections: () => listener.stats.accepted }
}

const byPromise = (use) => async (where) => {
  const { listener, address } = await listen(where)
  const loop = async () => {
    for (;;) use(await listener.accept())
  }
  for (let i = 0; i < outstanding; i++) loop()
  return { address, connections: () => listener.stats.accepted }
}

const byIteration = (use) => async (where) => {
  const { listener, address } = await listen(where)
  const loop = async () => {
    for await (const connection of listener) use(connection)
  }
  loop()
  return { address, connections: () => listener.stats.accepted }
}

const close = (connection) => {
  look(connection)
  connection.close()
}

const destroySocket = (connection) => connection.toSocket().destroy()

const implementations = {
  'net.Server': async (where) => {
    let connections = 0
    const server = net.createServer((socket) => {
      connections++
      socket.destroy()
    })
    await once(server.listen({ ...where, backlog: 65535 }), 'listening')
    const address = server.address()
    return { address: typeof address === 'string' ? { path: address } : address, connections: () => connections }
  },

  callback: byEvent(close),
  'accept()': byPromise(close),
  'for await': byIteration(close),
  'toSocket, callback': byEvent(destroySocket),
  'toSocket, accept()': byPromise(destroySocket),
}

const what = {
  'C, epoll': "the lower bound: `accept4` with the peer's address until `EAGAIN`, then `close`",
  'net.Server': '`net.createServer((socket) => socket.destroy())`',
  callback: `\`asyncAccept()\` and the \`accept\` event, ${outstanding} requests outstanding; reads ref and remoteAddress; \`close()\``,
  'accept()': `${outstanding} loops over \`await listener.accept()\`; the same work`,
  'for await': 'one loop over the listener, so one outstanding request; the same work',
  'toSocket, callback': 'as callback, but `toSocket().destroy()`',
  'toSocket, accept()': 'as accept(), but `toSocket().destroy()`',
  Bun: '`Bun.listen()`, which reads remoteAddress and calls `end()`, with bursts of 512, its backlog',
  Deno:
    'one loop over `await listener.accept()` of `Deno.listen()`, which reads remoteAddr; `close()`. For a client that ' +
    'has reset, accept() rejects with NotConnected, so the first table includes the cost of these errors',
  'Python, asyncio': 'one loop over `loop.sock_accept()`; `close()`',
}

const whereOf = (kind, place) => (kind === 'tcp' ? { host: '127.0.0.1', port: 0 } : { path: place })

export const contenders = Object.entries(implementations).map(([name, implementation]) => ({
  name,
  serve: (kind, place) => implementation(whereOf(kind, place)),
}))

const bound = { name: 'C, epoll', command: (...args) => [compile('epoll-server'), ...args] }
const baseline = contenders.find(({ name }) => name === 'net.Server')
const baselineAgain = again(baseline)

const others = [
  { name: 'Bun', runtime: 'Bun', command: (...args) => inRuntime('Bun', './accept-runtimes.mjs', ...args) },
  { name: 'Deno', runtime: 'Deno', command: (...args) => inRuntime('Deno', './accept-runtimes.mjs', ...args) },
  {
    name: 'Python, asyncio',
    runtime: 'Python',
    command: (...args) => [...runtime('Python').command, fileOf('accept-asyncio.py'), ...args],
  },
]

const loads = [
  { name: 'TCP', kind: 'tcp', clients: 'gone' },
  { name: 'unix', kind: 'unix', clients: 'gone' },
  { name: 'TCP, clients stay', kind: 'tcp', clients: 'stay' },
]

// Large, because stopping and continuing each thread of the server has a cost. At most the size of the backlog.
const burst = Math.min(1024, Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8')))

const targets = (major) => [
  { contender: 'accept()', to: 'C, epoll', load: 'TCP', most: major >= 26 ? 1.3 : 1.5 },
  { contender: 'accept()', to: 'net.Server', load: 'TCP', most: major >= 26 ? 0.65 : 0.4 },
  // Both receive their connection in an event.
  { contender: 'toSocket, callback', to: 'net.Server', load: 'TCP', most: 1 },
  { contender: 'toSocket, callback', to: 'net.Server', load: 'unix', most: 1 },
]

// The number of unix sockets, each of which needs a unique name.
let sockets = 0

// A shorter warm-up would favour async-accept: on Node 26, net.Server needs 20,000 connections to reach its final
// speed, and async-accept a tenth of that. A measurement of fewer connections would be too short: net.Server collects
// its garbage about once in 8192 connections, so every second measurement of 4096 costs a fifth more.
export const defaults = { connections: 8192, warmUp: 20_480, rounds: 5, slices: 3 }
export const smoke = { connections: 512, warmUp: 256, rounds: 1, slices: 1 }

/** Returns the other runtimes that cannot be installed or started. */
async function whatIsMissing() {
  const missing = []
  for (const { name, runtime: of, command } of others) {
    try {
      const { missing: why } = runtime(of)
      if (why) throw new Error(why)
      const server = await Server.start(command('tcp', '127.0.0.1'))
      await server.stop()
    } catch ({ message }) {
      missing.push({ name, why: message })
    }
  }
  return missing
}

export async function measure({ node, major, self, connections, warmUp, rounds, slices, progress }) {
  const storm = compile('storm')
  const missing = self ? [] : await whatIsMissing()
  const present = others.filter(({ name }) => !missing.some((other) => other.name === name))
  const references = [baseline, bound]
  const compared = ofSelf(self, [
    baselineAgain,
    ...contenders.filter((contender) => contender !== baseline),
    ...(self ? [] : present),
  ])
  const version = ({ name, runtime: of }) => (of ? `${name} ${runtime(of).version}` : name)
  const tables = []
  const checks = []
  const losses = missing.map(({ name, why }) => `not measured: ${name} (${why})`)
  for (const { name, kind, clients } of self ? loads.slice(0, 1) : loads) {
    const results = await serversInPairs({
      contenders: compared,
      references,
      rounds,
      slices,
      warmUp,
      connections,
      commandOf: ({ name, program = name, command }) => {
        const where = kind === 'tcp' ? '127.0.0.1' : scratch(`${sockets++}.sock`)
        return command ? command(kind, where) : [node, fileOf('serve.mjs'), './accept.mjs', program, kind, where]
      },
      makeLoad: ({ address, pid }, count) => {
        const server = kind === 'tcp' ? ['tcp', '127.0.0.1', address.port] : ['unix', address.path]
        return load([storm, ...server, pid, count, Math.min(burst, address.backlog ?? burst), clients])
      },
      progress: (text) => progress(`${name}: ${text}`),
    })
    tables.push({
      title: `${name}: CPU per connection`,
      columns: ['contender', ...cpuColumns, 'ratio to C', 'ratio to net.Server', 'connections/s'],
      bars:
        kind === 'tcp'
          ? {
              columns: ['CPU, us'],
              title: `${name}: CPU per connection, us`,
              ours: ([label]) => label in implementations && label !== baseline.name,
            }
          : undefined,
      rows: [
        ...[bound, baseline, ...compared].map((contender) => [
          version(contender),
          ...cpuCells(results, contender.name, 1),
          { ...results.ratio(contender.name, bound.name), digits: 2 },
          { ...results.ratio(contender.name, baseline.name), digits: 2 },
          { median: results.of(contender.name, 'rate').median, digits: 0 },
        ]),
        ...missing.map(({ name }) => [name, 'not measured', ...Array(5).fill('-')]),
      ],
    })
    checks.push(exactnessCheck(name, results, baselineAgain))
    if (self) continue
    for (const target of targets(major)) {
      if (target.load !== name) continue
      const { median } = results.ratio(target.contender, target.to)
      checks.push({
        what: `${name}: ${target.contender} relative to ${target.to}, CPU per connection`,
        measured: median,
        most: target.most,
      })
    }
    for (const { name: contender } of contenders.filter((contender) => contender !== baseline)) {
      const { median } = results.ratio(contender, baseline.name)
      if (median > 1) losses.push(`${name}: ${contender} uses ${median.toFixed(2)} times the CPU of net.Server`)
    }
  }
  return { tables, checks, losses }
}

export const title = 'Accept and close'
export const about = [
  `Each contender accepts and closes connections. Bursts of ${burst} connections wait in the backlog while the server`,
  'is stopped (SIGSTOP). CPU is the user and system time of the server process. Connections per second are measured',
  'from SIGCONT until the last connection of a burst is closed. On loopback, the kernel charges the work that a packet',
  "causes at its receiver to the sender, so a server also pays for its clients' half of TCP. The first two tables",
  "exclude that cost: the clients reset before the server continues. In the third table they wait for the server's",
  'close().',
  '',
  ...Object.entries(what).map(([name, text]) => `- ${name}: ${text}`),
].join('\n')
