// How much memory does a client hold that connects and then does nothing?
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import { Listener, serve } from 'async-accept'
import { generate } from 'selfsigned'
import { fileOf, Server, summarize } from './measure.mjs'
import { memory } from './memory.mjs'

const certificate = async () => {
  const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], { keyType: 'ec' })
  return { key, cert }
}

// Kept until the process exits, as in a server that is busy with other clients.
const held = []
const never = { timeout: -1 }

const holdEach = (hold) => async (listener) => {
  for await (const connection of listener) held.push(hold(connection))
}

const drive = (server) => (listener) => {
  server.on('connection', (socket) => {
    held.push(socket)
    socket.on('error', () => {})
  })
  serve(listener, server, { handshakeTimeout: 0 })
}

// The states in which a client stays. `say`: what the client does after it has connected.
const states = {
  'in the backlog': { open: () => {}, waits: true },
  'a Connection': { open: holdEach((connection) => connection) },
  'peek()': { open: holdEach((connection) => connection.peek(64, never)) },
  'toTLS(), silent client': {
    open: async (listener) => {
      const options = await certificate()
      return holdEach((connection) => connection.toTLS(options, never))(listener)
    },
  },
  'net through serve()': { open: drive(net.createServer()) },
  'http through serve()': { open: drive(http.createServer()) },
  'http through serve(), partial header': {
    open: drive(http.createServer()),
    say: (socket) => socket.write('GET / HTTP/1.1\r\nhost: localhost\r\n'),
  },
  'https through serve(), after the handshake': {
    open: async (listener) => drive(https.createServer(await certificate()))(listener),
    say: async (socket) => {
      const secured = tls.connect({ socket, rejectUnauthorized: false })
      secured.on('error', () => {})
      await once(secured, 'secureConnect')
      held.push(secured)
    },
  },
}

// The states in which the server does not read.
const unreadIn = new Set(['in the backlog', 'a Connection'])

export const contenders = [
  ...Object.entries(states).map(([name, { open, waits }]) => ({
    name,
    serve: async () => {
      const listener = await Listener.listen({ host: '127.0.0.1' })
      listener.unref()
      open(listener)
      const connections = () => ({ rss: memory().rss, here: waits ? listener.backlog().queued : held.length })
      return { address: listener.address(), connections }
    },
  })),
  {
    name: 'clients',
    serve: async (name, port, count, flood) => {
      const data = Buffer.alloc(2 ** 20)
      const { say = () => {} } = states[name]
      for (let i = 0; i < Number(count); i++) {
        const socket = net.connect({ host: '127.0.0.1', port: Number(port) })
        socket.on('error', () => {})
        await once(socket, 'connect')
        held.push(socket)
        await (flood === 'flood' ? socket.write(data) : say(socket))
      }
      return { address: null, connections: () => held.length }
    },
  },
]

/** The number of received and unread bytes of all sockets on this port, from /proc/net/tcp: proc(5). */
function unread(port) {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  let bytes = 0
  for (const line of readFileSync('/proc/net/tcp', 'utf8').trim().split('\n').slice(1)) {
    const [, address, , state, queues] = line.trim().split(/\s+/)
    // For a listening socket (0A), the number is the length of its accept queue.
    if (address.endsWith(local) && state !== '0A') bytes += Number.parseInt(queues.split(':')[1], 16)
  }
  return bytes
}

/** Waits until the result of `look` no longer changes. */
async function settled(look) {
  for (let last = look(); ; ) {
    await sleep(200)
    const now = look()
    if (now === last) return now
    last = now
  }
}

export const defaults = { connections: 2000, rounds: 3 }
export const smoke = { connections: 20, rounds: 1 }

export async function measure({ node, connections, rounds, progress }) {
  const start = (...args) => Server.start([node, fileOf('serve.mjs'), './held.mjs', ...args.map(String)])
  const arrived = async (server, count) => {
    for (;;) {
      const mark = (await server.mark()).connections
      if (mark.here === count) return mark
      await sleep(50)
    }
  }

  async function hold(name) {
    const server = await start(name)
    // The first clients cause allocations that all clients share.
    const few = await start('clients', name, server.address.port, 20)
    const before = await arrived(server, 20)
    const many = await start('clients', name, server.address.port, connections)
    const after = await arrived(server, 20 + connections)
    await server.stop()
    await Promise.all([few.stop(), many.stop()])
    return (after.rss - before.rss) / connections
  }

  async function flood(name) {
    const few = Math.min(connections, 100)
    const server = await start(name)
    const clients = await start('clients', name, server.address.port, few, 'flood')
    await arrived(server, few)
    const bytes = await settled(() => unread(server.address.port))
    await server.stop()
    await clients.stop()
    return bytes / few
  }

  const rows = []
  for (const name of Object.keys(states)) {
    const memories = []
    const floods = []
    for (let round = 1; round <= rounds; round++) {
      progress(`${name}: round ${round} of ${rounds}`)
      memories.push(await hold(name))
      if (unreadIn.has(name)) floods.push(await flood(name))
    }
    const kilobytes = (values) => ({ ...summarize(values.map((bytes) => bytes / 1024)), digits: 1 })
    rows.push([name, kilobytes(memories), floods.length > 0 ? kilobytes(floods) : '-'])
  }
  return {
    tables: [
      {
        title: `${connections.toLocaleString('en')} clients in each state, per client`,
        bars: { columns: ['memory, KiB'], title: 'memory of the server per client, KiB' },
        columns: ['state', 'memory, KiB', 'maximum unread in the kernel, KiB'],
        rows,
      },
    ],
    checks: [],
    losses: [],
  }
}

export const title = 'What an idle client holds'
export const about = [
  'The resident memory of the server per client that connects and then does nothing, after a garbage collection. The',
  'last column is for clients that send 1 MiB at once to a server that does not read: the bytes that the kernel',
  'accepts, with the default `net.ipv4.tcp_rmem`. The table does not include the sockets themselves, a few KiB each in',
  'the kernel.',
].join('\n')
