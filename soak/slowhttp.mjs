// How does a healthy client fare during the four attacks of slowhttptest, with different settings of the server?
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Listener, serve } from 'async-accept'
import { fileOf, Server } from '../bench/measure.mjs'
import { table } from '../bench/report.mjs'

const attackers = 1_000
const attackersPerSecond = 500

// The response to the slow reader: larger than the kernel's send buffer.
const large = Buffer.alloc(512 * 1024, '.')
const small = 'hello\n'

const where = { host: '127.0.0.1', port: 0, backlog: 4_096 }

const shortTimeouts = { headersTimeout: 2_000, requestTimeout: 4_000, connectionsCheckingInterval: 500 }
// In ms, without a byte in either direction: the only timeout of Node that ends a slow reader.
const inactivity = 4_000

const viaServe = (limit) => async (server) => serve(await Listener.listen(where), server, limit)
const viaListen = (limit) => async (server) => {
  if (limit) server.maxConnections = limit.maxConnections
  await once(server.listen(where), 'listening')
}

const settings = [
  { name: "listen, Node's defaults", open: viaListen() },
  { name: "serve, Node's defaults", open: viaServe() },
  { name: 'listen, 200 connections, short timeouts', open: viaListen({ maxConnections: 200 }), short: true },
  { name: 'serve, 200 connections, short timeouts', open: viaServe({ maxConnections: 200 }), short: true },
  { name: 'listen, 2000 connections, short timeouts', open: viaListen({ maxConnections: 2_000 }), short: true },
  { name: 'serve, 2000 connections, short timeouts', open: viaServe({ maxConnections: 2_000 }), short: true },
]

/** For bench/serve.mjs. Its `connections` is here the peak number of concurrent connections. */
export const contenders = settings.map(({ name, open, short }) => ({
  name,
  serve: async () => {
    let most = 0
    const server = http.createServer(short ? shortTimeouts : {}, (request, response) => {
      request.resume()
      request.once('end', () => response.end(request.url === '/large' ? large : small))
    })
    if (short) server.timeout = inactivity
    await open(server)
    // The number of fds is exact, whereas 'close' events come later.
    const fds = () => readdirSync('/proc/self/fd').length
    const others = fds()
    setInterval(() => {
      most = Math.max(most, fds() - others)
    }, 100)
    return { address: server.address(), connections: () => most }
  },
}))

/** The attacks, with their own options of slowhttptest. */
const modes = [
  { name: 'no attack' },
  { name: 'slow headers', options: ['-H', '-i', '1'] },
  { name: 'slow body', options: ['-B', '-i', '1', '-s', '8192'] },
  { name: 'ranges', options: ['-R', '-a', '1', '-b', '3000'] },
  { name: 'slow read', options: ['-X', '-w', '512', '-y', '1024', '-n', '1', '-z', '32'] },
]

const requestsPerSecond = 20
/** The time, in ms, that the healthy client waits for a response. */
const longestWait = 5_000

/** Resolves with the latency of a response in ms; Infinity without one. */
function request(port) {
  const began = performance.now()
  return new Promise((resolve) => {
    const failed = () => resolve(Number.POSITIVE_INFINITY)
    const asked = http.get({ host: '127.0.0.1', port, path: '/small', agent: false }, async (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk) => {
        text += chunk
      })
      response.once('end', () => (text === small ? resolve(performance.now() - began) : failed()))
      response.once('error', failed)
    })
    asked.on('error', failed)
    asked.setTimeout(longestWait)
    const timer = setTimeout(() => asked.destroy(), longestWait)
    asked.once('close', () => {
      clearTimeout(timer)
      failed() // has no effect after a response
    })
  })
}

/** Makes requests at a fixed rate, regardless of their latency, each on a new connection. */
async function healthyClient(port, seconds) {
  const count = Math.ceil(seconds * requestsPerSecond)
  const began = performance.now()
  const times = []
  for (let i = 0; i < count; i++) {
    await sleep(Math.max(0, began + (i * 1_000) / requestsPerSecond - performance.now()))
    times.push(request(port))
  }
  return (await Promise.all(times)).sort((a, b) => a - b)
}

function attack(port, options, seconds) {
  const all = [...options, '-c', attackers, '-r', attackersPerSecond, '-l', seconds, '-p', 1, '-v', 0]
  const child = spawn('slowhttptest', [...all.map(String), '-u', `http://127.0.0.1:${port}/large`], {
    stdio: ['ignore', 'ignore', 2],
  })
  return { command: `slowhttptest ${all.join(' ')} -u <URL>`, ended: once(child, 'exit'), stop: () => child.kill() }
}

const ms = (value) => (value === Number.POSITIVE_INFINITY ? 'never' : value.toFixed(1))

async function measure(contender, { name, options }, seconds) {
  const server = await Server.start([process.execPath, fileOf('serve.mjs'), '../soak/slowhttp.mjs', contender])
  const { port } = server.address
  // Warms up the server, and starts the attack before the first measured request.
  await healthyClient(port, 0.5)
  const attacked = options && attack(port, options, seconds + 2)
  if (attacked) await sleep(1_000)
  const times = await healthyClient(port, seconds)
  attacked?.stop()
  await attacked?.ended
  const { connections } = await server.mark()
  await server.stop()
  const at = (share) => times[Math.min(times.length - 1, Math.floor(times.length * share))]
  const answered = times.filter(Number.isFinite).length
  return {
    answered,
    command: attacked?.command,
    row: [name, answered, times.length - answered, ms(at(0.5)), ms(at(0.99)), connections],
  }
}

/** Prints a table for each setting. Returns false when the healthy client received no response without an attack. */
export async function slowhttp({ seconds, only }) {
  let well = true
  const commands = new Set()
  for (const { name } of settings.filter((each) => only === undefined || only === each.name)) {
    const rows = []
    for (const mode of modes) {
      process.stderr.write(`${name}: ${mode.name}\n`)
      const { row, answered, command } = await measure(name, mode, seconds)
      rows.push(row)
      if (command) commands.add(command)
      if (mode.options === undefined && answered === 0) well = false
    }
    console.log(
      table({
        title: `${name}: a healthy client with ${requestsPerSecond} requests per second for ${seconds} s in each mode`,
        columns: ['mode', 'answered', 'failed', 'p50, ms', 'p99, ms', 'peak connections'],
        rows,
      }),
    )
  }
  console.log([...commands].join('\n'))
  return well
}

/** The setting of a smoke run. */
export const recommended = settings.at(-1).name
