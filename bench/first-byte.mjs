// How long does a new client wait for the first byte of its response?
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { Listener, serve } from 'async-accept'
import { compile, fileOf, load, percentile, Server } from './measure.mjs'
import { again, inPairs } from './pairs.mjs'

const rates = [100, 2000]

// The backlog must hold the clients that arrive during a garbage collection.
const where = { host: '127.0.0.1', port: 0, backlog: 4096 }

const connections = () => 0 // the load generator counts them

const httpServer = () => http.createServer((_request, response) => response.end('hello\n'))

// The raw servers send what an HTTP client accepts, and end the connection.
const raw = 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello\n'
const answer = (socket) => {
  socket.on('error', () => {})
  socket.once('data', () => socket.end(raw))
}

const listening = (server) => async () => {
  await once(server.listen(where), 'listening')
  return { address: server.address(), connections }
}

async function pull() {
  const listener = await Listener.listen(where)
  const loop = async () => {
    for (;;) answer((await listener.accept()).toSocket())
  }
  loop()
  return { address: listener.address(), connections }
}

export const contenders = [
  { name: 'http.Server', serve: () => listening(httpServer())() },
  {
    name: 'http.Server, serve()',
    serve: async () => {
      const listener = await Listener.listen(where)
      serve(listener, httpServer())
      return { address: listener.address(), connections }
    },
  },
  { name: 'net.Server', serve: () => listening(net.createServer(answer))() },
  { name: 'accept(), toSocket()', serve: pull },
]

const [httpListen, httpServe, netListen, accepting] = contenders
const comparisons = [
  { reference: httpListen, ours: httpServe },
  { reference: netListen, ours: accepting },
]

// `seconds` is the duration of each measurement, and `warmUp` the number of clients, at the higher rate, before it.
export const defaults = { seconds: 4, warmUp: 6000, rounds: 4, slices: 2 }
export const smoke = { seconds: 0.2, warmUp: 50, rounds: 1, slices: 1 }

export async function measure({ node, self, seconds, warmUp, rounds, slices, progress }) {
  const arrivals = compile('arrivals')
  const arrive = async ({ address, command }, count, perSecond) => {
    const { failures, took } = await load([arrivals, '127.0.0.1', address.port, count, perSecond])
    if (failures > 0) throw new Error(`${command}: ${failures} of ${count} requests failed`)
    return took
  }
  const tables = []
  const losses = []
  for (const perSecond of rates) {
    const rows = []
    for (const { reference, ours } of comparisons) {
      const compared = [again(reference), ...(self ? [] : [ours])]
      const results = await inPairs({
        contenders: compared,
        references: [reference],
        rounds,
        slices,
        start: async ({ name, program = name }) => {
          const server = await Server.start([node, fileOf('serve.mjs'), './first-byte.mjs', program])
          await arrive(server, warmUp, Math.max(...rates))
          return server
        },
        measure: async (server) => {
          const took = await arrive(server, Math.ceil(perSecond * seconds), perSecond)
          return { '50 %': percentile(took, 50), '99 %': percentile(took, 99) }
        },
        progress: (text) => progress(`${perSecond} per second: ${text}`),
      })
      for (const { name } of [reference, ...compared]) {
        rows.push([
          name,
          ...['50 %', '99 %'].flatMap((figure) => [
            { ...results.of(name, figure), digits: 0 },
            { ...results.ratio(name, reference.name, figure), digits: 2 },
          ]),
        ])
      }
      if (self) continue
      for (const figure of ['50 %', '99 %']) {
        const { median } = results.ratio(ours.name, reference.name, figure)
        const what = `${perSecond} per second, ${figure}: ${ours.name}`
        if (median > 1) losses.push(`${what} takes ${median.toFixed(2)} times as long as ${reference.name}`)
      }
    }
    tables.push({
      title: `${perSecond.toLocaleString('en')} connections per second: time to the first byte, us`,
      columns: ['contender', '50 %', 'ratio', '99 %', 'ratio'],
      bars: ['50 %', '99 %'].map((figure) => ({
        columns: [figure],
        title: `${perSecond.toLocaleString('en')} connections per second: ${figure}, us`,
        ours: ([label]) => label === httpServe.name || label === accepting.name,
      })),
      rows,
    })
  }
  return { tables, checks: [], losses }
}

export const title = 'Time to the first byte'
export const about = [
  'Clients arrive at random times (Poisson) at a given rate, whether or not earlier ones were answered. Each makes one',
  'request on its own connection. The time is from `connect()` to the first byte of the response, measured by a C',
  'program on another core. The ratios are to the first row of the same kind.',
  '',
  '- http.Server: its own `listen()`, or through `serve()`. The response has a body of six bytes.',
  '- net.Server, and one loop over `await listener.accept()` with `toSocket()`: both send the same bytes as a fixed',
  '  string, as soon as the request has arrived',
].join('\n')
