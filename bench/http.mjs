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
import { cores, cpuBetween, fileOf, Server, summarize } from './measure.mjs'
import { again, cpuCells, cpuColumns, exactnessCheck, inPairs } from './pairs.mjs'

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

/** A load of wrk. */
export const wrk = (scheme, ...more) => ({
  tool: 'wrk',
  server: scheme,
  // wrk counts a late response as an error, by default after two seconds.
  command: ({ port }, { wait }) => [
    ...['-t', 1, '-c', 64, '-d', wait, '--timeout', 60, ...more],
    `${scheme}://127.0.0.1:${port}/`,
  ],
  read: (text) => ({
    rate: Number(/Requests\/sec:\s*([\d.]+)/.exec(text)?.[1]),
    requests: Number(/(\d+) requests in/.exec(text)?.[1]),
    failed: /Socket errors|Non-2xx/.test(text),
  }),
})

const h2load = (server, scheme, size) => ({
  tool: 'h2load',
  server,
  command: ({ port }, sizes) => [...size(sizes), `${scheme}://127.0.0.1:${port}/`],
  read: (text) => ({
    rate: Number(/finished in .*?, ([\d.]+) req\/s/.exec(text)?.[1]),
    requests: Number(/ (\d+) succeeded/.exec(text)?.[1]),
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
// each, until they have elapsed. In the first seconds the cost per request halves, and the next second still costs a
// tenth more, in which other threads compile. So one measurement is discarded after the warm-up.
export const defaults = { warmUp: 3, slice: 1, slices: 4, requests: 16_384, connections: 512, rounds: 3 }
export const smoke = { warmUp: 0, slice: 0, slices: 1, requests: 256, connections: 32, rounds: 1 }

// In seconds. On a busy machine a cold server may send no response within one second, the minimum duration of wrk. The
// duration then doubles until this time has elapsed, which is a failure.
const patience = 20

/** Loads the server at an address for `seconds`. Returns the requests per second and their number. */
export async function loadFor(address, load, seconds, sizes) {
  const results = []
  let enough = false
  const start = performance.now()
  let wait = 1
  do {
    const command = load.command(address, { ...sizes, wait })
    const [program, ...args] = [...pinned, load.tool, ...command].map(String)
    const { stdout } = await run(program, args)
    const { failed, ...result } = load.read(stdout)
    const elapsed = (performance.now() - start) / 1000
    if (failed || Number.isNaN(result.rate) || (result.rate === 0 && elapsed > patience)) {
      throw new Error(`${[program, ...args].join(' ')}: requests failed\n${stdout}`)
    }
    if (result.rate > 0) results.push(result)
    else wait *= 2
    enough = elapsed >= seconds && result.rate > 0
  } while (!enough)
  return {
    rate: summarize(results.map(({ rate }) => rate)).median,
    requests: results.reduce((sum, { requests }) => sum + requests, 0),
  }
}

/** Loads a server for `seconds`. Returns its CPU per request, in us, and the requests per second. */
export async function slice(server, load, seconds, sizes) {
  const before = await server.mark()
  const { rate } = await loadFor(server.address, load, seconds, sizes)
  return { ...cpuBetween(before, await server.mark()), rate }
}

export const has = (tool) => !spawnSync(tool, ['--version']).error

export async function measure({ node, self, rounds, slices, progress, ...sizes }) {
  const missing = ['wrk', 'h2load'].filter((tool) => !has(tool))
  for (const tool of missing) console.error(`${tool} not found: its rows are omitted`)
  const tables = []
  const checks = []
  const losses = []
  for (const { title, loads: all } of loads) {
    const rows = []
    for (const load of all) {
      if (missing.includes(load.tool)) continue
      const [listen, serve] = Object.keys(ways).map((way) => ({ name: nameOf(load.server, way) }))
      const compared = self ? again(listen) : serve
      const results = await inPairs({
        contenders: [compared],
        references: [listen],
        rounds,
        slices,
        start: async ({ name, program = name }) => {
          const server = await Server.start([node, fileOf('serve.mjs'), './http.mjs', program])
          if (sizes.warmUp > 0) {
            await slice(server, load, sizes.warmUp, sizes)
            await slice(server, load, sizes.slice, sizes)
          }
          return server
        },
        measure: (server) => slice(server, load, sizes.slice, sizes),
        progress: (text) => progress(`${title}: ${text}`),
      })
      for (const { name } of [listen, compared]) {
        rows.push([
          name,
          ...cpuCells(results, name, 1),
          { ...results.ratio(name, listen.name), digits: 2 },
          { median: results.of(name, 'rate').median, digits: 0 },
        ])
      }
      if (self) {
        checks.push(exactnessCheck(title, results, compared))
        continue
      }
      // Rounded as printed: a third digit is noise.
      const measured = Number(results.ratio(compared.name, listen.name).median.toFixed(2))
      const what = `${title}: ${load.server}, serve() relative to listen(), CPU per request`
      checks.push({ what, measured, most: 1 })
      if (measured > 1) losses.push(`${what}: ${measured.toFixed(2)}`)
    }
    tables.push({
      title: `${title}: CPU per request`,
      columns,
      rows,
      bars: {
        columns: ['CPU, us'],
        title: `${title}: CPU per request, us`,
        ours: ([label]) => label.endsWith('serve'),
      },
    })
  }
  losses.push(...missing.map((tool) => `not measured: ${tool} not found`))
  return { tables, checks, losses }
}

const columns = ['server', ...cpuColumns, 'ratio to listen', 'requests/s']

export const title = 'HTTP through serve()'
export const about = [
  'The same server with its own `listen()` and through `serve()`. Each response has a body of six bytes. In a round,',
  `both servers run concurrently, are warmed up for ${defaults.warmUp + defaults.slice} seconds, and are loaded in turn, for about a second`,
  'each. The ratio is that of the CPU per request in two consecutive seconds. wrk loads HTTP/1 servers with 64',
  'connections, with `Connection: close` for one request per connection. h2load loads HTTP/2 servers with 16',
  `connections of 16 streams, or repeatedly with ${defaults.connections} concurrent connections that make one request each. TLS`,
  'uses an EC P-256 key and full handshakes. On loopback, the server is also charged for work that its packets cause at',
  'the clients.',
  '',
  'A keep-alive request costs the same either way: strace shows one read and one write, and no code of this package',
  'runs for it. So the keep-alive rows measure noise. When no other process uses the core, processes of the same',
  'program differ by a few percent. When other processes use it, too, each request costs more.',
].join('\n')
