// What does serve() cost an HTTP server, compared with its own listen()?
import { execFile, spawnSync } from 'node:child_process'
import { constants } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import { promisify } from 'node:util'
import { Listener, serve } from 'async-accept'
import { generate } from 'selfsigned'
import { cores, fileOf, Server, summarize } from './measure.mjs'

const run = promisify(execFile)
const pinned = cores() ? ['taskset', '-c', cores().load] : []

const certificate = async () => {
  const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    curve: 'P-256',
  })
  return { key, cert, secureOptions: constants.SSL_OP_NO_TICKET }
}

const servers = {
  http: (answer) => http.createServer(answer),
  https: async (answer) => https.createServer(await certificate(), answer),
  'http2, h2c': (answer) => http2.createServer(answer),
  'http2, TLS': async (answer) => http2.createSecureServer(await certificate(), answer),
}

// The backlog must hold every burst of clients.
const where = { host: '127.0.0.1', port: 0, backlog: 4096 }

const ways = {
  listen: (server) => once(server.listen(where), 'listening'),
  serve: async (server) => serve(await Listener.listen(where), server),
}

const nameOf = (server, way) => `${server}, ${way}`

// `connections` of serve.mjs is here the number of requests.
export const contenders = Object.entries(servers).flatMap(([kind, create]) =>
  Object.entries(ways).map(([way, open]) => ({
    name: nameOf(kind, way),
    serve: async () => {
      let requests = 0
      const server = await create((_request, response) => {
        requests++
        response.end('hello\n')
      })
      await open(server)
      return { address: server.address(), connections: () => requests }
    },
  })),
)

const wrk = (scheme, ...more) => ({
  tool: 'wrk',
  server: scheme,
  // wrk counts a late response as an error, by default after two seconds.
  command: ({ port }, { wait }) => [
    ...['-t', 1, '-c', 64, '-d', wait, '--timeout', 60, ...more],
    `${scheme}://127.0.0.1:${port}/`,
  ],
  read: (text) => ({
    rate: Number(/Requests\/sec:\s*([\d.]+)/.exec(text)?.[1]),
    failed: /Socket errors|Non-2xx/.test(text),
  }),
})

const h2load = (server, scheme, size) => ({
  tool: 'h2load',
  server,
  command: ({ port }, sizes) => [...size(sizes), `${scheme}://127.0.0.1:${port}/`],
  read: (text) => ({
    rate: Number(/finished in .*?, ([\d.]+) req\/s/.exec(text)?.[1]),
    failed: !/ 0 failed, 0 errored, 0 timeout/.test(text),
  }),
})

const manyRequests = ({ requests }) => ['-c', 16, '-m', 16, '-n', requests]
const oneEach = ({ connections }) => ['-c', connections, '-m', 1, '-n', connections]

const loads = [
  {
    title: 'Keep-alive',
    loads: [
      wrk('http'),
      wrk('https'),
      h2load('http2, h2c', 'http', manyRequests),
      h2load('http2, TLS', 'https', manyRequests),
    ],
  },
  {
    title: 'One request per connection',
    loads: [
      wrk('http', '-H', 'Connection: close'),
      wrk('https', '-H', 'Connection: close'),
      h2load('http2, h2c', 'http', oneEach),
      h2load('http2, TLS', 'https', oneEach),
    ],
  },
]

// `warmUp` and `slice` are minimum durations in seconds. h2load repeats `requests`, or `connections` with one request
// each, until they have elapsed. In the first seconds the cost per request halves. Several processes are measured
// instead of many slices of one, because the layout of code and memory differs between processes.
export const defaults = { warmUp: 2, slice: 1, slices: 2, requests: 16_384, connections: 512, rounds: 3 }
export const smoke = { warmUp: 0, slice: 0, slices: 1, requests: 256, connections: 32, rounds: 1 }

// In seconds. On a busy machine a cold server may send no response within one second, the minimum duration of wrk. The
// duration then doubles until this time has elapsed, which is a failure.
const patience = 20

/** Loads a server for `seconds`. Returns its CPU per request, in us, and the requests per second. */
async function slice(server, load, seconds, sizes) {
  const rates = []
  let enough = false
  const before = await server.mark()
  const start = performance.now()
  let wait = 1
  do {
    const command = load.command(server.address, { ...sizes, wait })
    const [program, ...args] = [...pinned, load.tool, ...command].map(String)
    const { stdout } = await run(program, args)
    const { rate, failed } = load.read(stdout)
    const elapsed = (performance.now() - start) / 1000
    if (failed || Number.isNaN(rate) || (rate === 0 && elapsed > patience)) {
      throw new Error(`${[program, ...args].join(' ')}: requests failed\n${stdout}`)
    }
    if (rate > 0) rates.push(rate)
    else wait *= 2
    enough = elapsed >= seconds && rate > 0
  } while (!enough)
  const after = await server.mark()
  const requests = after.connections - before.connections
  const cpu = (after.user + after.system - before.user - before.system) / requests
  return { cpu, rate: summarize(rates).median }
}

/** Measures both ways under one load, in concurrent processes that are loaded in turn. Returns pairs of slices. */
async function inTurn(node, load, sizes) {
  const running = []
  for (const way of Object.keys(ways)) {
    const server = await Server.start([node, fileOf('serve.mjs'), './http.mjs', nameOf(load.server, way)])
    running.push({ way, server })
    if (sizes.warmUp > 0) await slice(server, load, sizes.warmUp, sizes)
  }
  const pairs = []
  for (let i = 0; i < sizes.slices; i++) {
    const pair = {}
    for (const { way, server } of running) pair[way] = await slice(server, load, sizes.slice, sizes)
    pairs.push(pair)
    // Alternates the order, because the speed of the machine may drift.
    running.reverse()
  }
  for (const { server } of running) await server.stop()
  return pairs
}

const has = (tool) => !spawnSync(tool, ['--version']).error

export async function measure({ node, rounds, progress, ...sizes }) {
  const missing = ['wrk', 'h2load'].filter((tool) => !has(tool))
  for (const tool of missing) console.error(`${tool} not found: its rows are omitted`)
  const tables = []
  const checks = []
  for (const { title, loads: all } of loads) {
    const rows = []
    for (const load of all) {
      if (missing.includes(load.tool)) continue
      const pairs = []
      for (let round = 1; round <= rounds; round++) {
        progress(`${title}, ${load.server}: round ${round} of ${rounds}`)
        pairs.push(...(await inTurn(node, load, sizes)))
      }
      const of = (way, figure) => summarize(pairs.map((pair) => pair[way][figure]))
      const ratio = summarize(pairs.map(({ serve, listen }) => serve.cpu / listen.cpu))
      rows.push([
        load.server,
        { ...of('listen', 'cpu'), digits: 1 },
        { ...of('serve', 'cpu'), digits: 1 },
        { ...ratio, digits: 2 },
        { median: of('listen', 'rate').median, digits: 0 },
        { median: of('serve', 'rate').median, digits: 0 },
      ])
      // Rounded as printed: a third digit is noise.
      const measured = Number(ratio.median.toFixed(2))
      checks.push({
        what: `${title}: ${load.server}, serve() relative to listen(), CPU per request`,
        measured,
        most: 1,
      })
    }
    tables.push({ title, columns, rows })
  }
  const missed = checks.filter(({ measured, most }) => measured > most)
  return {
    tables,
    checks,
    losses: [
      ...missed.map(({ what, measured }) => `${what}: ${measured.toFixed(2)}`),
      ...missing.map((tool) => `not measured: ${tool} not found`),
    ],
  }
}

const columns = ['server', 'listen: CPU, us', 'serve: CPU, us', 'ratio', 'listen: requests/s', 'serve: requests/s']

export const title = 'HTTP through serve()'
export const about = [
  'The same server with its own `listen()` and through `serve()`. Each response has a body of six bytes. In a round,',
  `both servers run concurrently, are warmed up for ${defaults.warmUp} seconds, and are loaded in turn,`,
  `${defaults.slices} times for about a second each. The ratio is that of the CPU per request in two consecutive`,
  'seconds. wrk loads HTTP/1 servers with 64 connections, with `Connection: close` for one request per connection.',
  `h2load loads HTTP/2 servers with 16 connections of 16 streams, or repeatedly with ${defaults.connections}`,
  'concurrent connections that make one request each. TLS uses an EC P-256 key and full handshakes. On loopback, the',
  'server is also charged for work that its packets cause at the clients.',
].join('\n')
