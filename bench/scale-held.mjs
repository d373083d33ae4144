// Holds connections: a server that `serve` drives, or one that calls accept(), and its clients.
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { inspect } from 'node:util'
import { Listener, serve } from 'async-accept'
import { kernelMemory, memory } from './memory.mjs'
import { latency, timed, workOnce } from './scale-step.mjs'

const host = '127.0.0.1'
const probes = 300

// The clients have several source addresses. Each has ports for fewer than 30,000 connections, and net.connect() sets
// SO_REUSEADDR, with which the kernel searches only a quarter of these ports fast.
const clientsPerAddress = 5_000
const addressOf = (index) => `127.0.0.${2 + Math.floor(index / clientsPerAddress)}`

// The clients connect this many at a time.
const concurrency = 128

const before = () => ({ ...memory(), kernel: kernelMemory(), ...process.cpuUsage() })

/** The memory (bytes) and the CPU time (us) for each of `count` connections, since `start`. */
function perConnection(start, count) {
  const { user, system } = process.cpuUsage(start)
  const { rss, heapUsed } = memory()
  return {
    cpu: (user + system) / count,
    rss: (rss - start.rss) / count,
    heap: (heapUsed - start.heapUsed) / count,
    // The clients are on the same machine, so each connection has two sockets.
    kernel: (kernelMemory() - start.kernel) / count / 2,
  }
}

/** The clients request /held when all of them are connected, and /probed after they have measured latencies. */
async function serveHttp(end, count) {
  const steps = new http.Server().setMaxListeners(0)
  const server = http.createServer((request, response) => {
    if (request.url !== '/') steps.emit(request.url, response)
    else response.end('ok')
  })
  server.keepAliveTimeout = 0
  const listener = await Listener.listen({ host })
  const serving = serve(listener, server)
  await workOnce(listener.address(), async () => {
    const start = before()
    const [held] = await once(steps, '/held')
    const each = perConnection(start, count)
    held.end('ok')
    const [probed] = await once(steps, '/probed')
    probed.end('ok')
    await once(probed, 'close')
    const shown = await timed(() => inspect(serving))
    const counted = await timed(() => serving.connections)
    const ended = await timed(() => (end === 'drain' ? serving.drain({ idleGrace: 0 }) : serving.close()))
    return {
      ...each,
      inspect: shown.ms,
      connections: counted.ms * 1000,
      [end]: ended.ms,
      [`${end} each`]: (ended.ms * 1000) / count,
      [`${end} CPU`]: ended.cpu / count,
    }
  })
}

async function acceptPlainly(count) {
  const listener = await Listener.listen({ host })
  await workOnce(listener.address(), async () => {
    const start = before()
    const held = []
    while (held.length < count) held.push(await listener.accept())
    const each = perConnection(start, count)
    for (let i = 0; i < probes; i++) (await listener.accept()).close()
    const ended = await timed(() => {
      for (const connection of held) connection.close()
    })
    await listener.close()
    return { ...each, 'close each': (ended.ms * 1000) / count, 'close CPU': ended.cpu / count }
  })
}

let failures = 0

function connect(port, index) {
  const socket = net.connect({ host, port, localAddress: addressOf(index) })
  return socket.on('error', () => failures++)
}

async function request(socket, path = '/') {
  socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`)
  await once(socket, 'data')
}

const since = async (work) => (await timed(work)).ms

/** Connects `count` clients, measures latencies, and waits until the server has ended all connections. */
async function runClients(kind, port, count) {
  const sockets = []
  let ended = 0
  const allEnded = new Promise((resolve) => {
    const onClose = () => {
      if (++ended === count) resolve()
    }
    let next = 0
    const connectSome = async () => {
      while (next < count) {
        const socket = connect(port, next++).on('close', onClose)
        sockets.push(socket)
        await once(socket, 'connect')
        if (kind === 'serve') await request(socket)
        else socket.resume()
      }
    }
    Promise.all(Array.from({ length: concurrency }, connectSome)).then(probe)
  })
  const result = {}
  async function probe() {
    const any = () => sockets[Math.floor(Math.random() * count)]
    if (kind === 'serve') await request(any(), '/held')
    result.accept = await latency(probes, () =>
      since(async () => {
        const socket = connect(port, count)
        await once(socket, 'connect')
        if (kind === 'serve') await request(socket)
        else await once(socket.resume(), 'close')
        socket.destroy()
      }),
    )
    if (kind !== 'serve') return
    result.request = await latency(probes, () => since(() => request(any())))
    await request(any(), '/probed')
  }
  await allEnded
  console.log(JSON.stringify({ ...result, failures }))
}

const [role, kind, ...numbers] = process.argv.slice(2)
if (role === 'clients') await runClients(kind, ...numbers.map(Number))
else if (kind === 'accept') await acceptPlainly(Number(numbers[0]))
else await serveHttp(role, Number(numbers[0]))
