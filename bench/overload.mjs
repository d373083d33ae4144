// What happens to ten times more clients than the connection limit?
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import net from 'node:net'
import { Listener, serve } from 'async-accept'
import { fileOf, load, Server, summarize } from './measure.mjs'

const timesRoom = 10

// The time from a connection to its response, in ms. Longer than accepting all clients takes, so that all are
// concurrent.
const work = 200

const answer = 'answer\n'

// The number of fds is exact, whereas the 'close' event of a socket comes after its end.
const fds = () => readdirSync('/proc/self/fd').length

function makeServer() {
  let others
  let peak = 0
  const server = net.createServer((socket) => {
    peak = Math.max(peak, fds() - others)
    socket.on('error', () => {})
    socket.resume()
    setTimeout(() => socket.end(answer), work)
  })
  server.once('listening', () => {
    others = fds()
  })
  return { server, connections: () => peak }
}

// The backlog must hold all clients.
const where = { host: '127.0.0.1', port: 0, backlog: 4096 }

// `connections` of serve.mjs is here the peak number of concurrent connections.
export const contenders = [
  {
    name: 'net.Server.maxConnections',
    serve: async (room) => {
      const { server, connections } = makeServer()
      server.maxConnections = Number(room)
      await once(server.listen(where), 'listening')
      return { address: server.address(), connections }
    },
  },
  {
    name: 'serve({ maxConnections })',
    serve: async (room) => {
      const { server, connections } = makeServer()
      serve(await Listener.listen(where), server, { maxConnections: Number(room) })
      return { address: server.address(), connections }
    },
  },
]

/**
 * Runs in a separate process: makes `clients` wait in the backlog of a stopped server, and then continues the server.
 */
async function crowd(port, pid, clients) {
  process.kill(pid, 'SIGSTOP')
  const sockets = Array.from({ length: clients }, () => net.connect({ host: '127.0.0.1', port }))
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  const start = performance.now()
  const ends = sockets.map(async (socket) => {
    let text = ''
    socket.setEncoding('utf8').on('data', (data) => {
      text += data
    })
    socket.on('error', () => {})
    await new Promise((resolve) => socket.on('close', resolve))
    return { answered: text === answer, elapsed: performance.now() - start }
  })
  process.kill(pid, 'SIGCONT')
  const answered = (await Promise.all(ends)).filter((end) => end.answered)
  console.log(
    JSON.stringify({
      answered: answered.length,
      lost: clients - answered.length,
      elapsed: Math.max(0, ...answered.map(({ elapsed }) => elapsed)),
    }),
  )
}

export const defaults = { connections: 1000, rounds: 5 }
export const smoke = { connections: 100, rounds: 1 }

export async function measure({ node, connections, rounds, progress }) {
  const room = Math.ceil(connections / timesRoom)
  const results = new Map(contenders.map(({ name }) => [name, []]))
  for (let round = 1; round <= rounds; round++) {
    for (const { name } of contenders) {
      progress(`${name}: round ${round} of ${rounds}`)
      const server = await Server.start([node, fileOf('serve.mjs'), './overload.mjs', name, String(room)])
      const result = await load([node, fileOf('overload.mjs'), 'crowd', server.address.port, server.pid, connections])
      results.get(name).push({ ...result, peak: (await server.mark()).connections })
      await server.stop()
    }
  }
  const of = (name, figure) => summarize(results.get(name).map((result) => result[figure]))
  const cell = (name, figure) => ({ ...of(name, figure), digits: 0 })
  const ours = contenders[1].name
  // The maximum, not the median: the limit must hold in every round.
  const checks = [
    { what: `${ours}: clients lost, at worst`, measured: of(ours, 'lost').most, most: 0, digits: 0 },
    { what: `${ours}: peak connections, at worst`, measured: of(ours, 'peak').most, most: room, digits: 0 },
  ]
  return {
    tables: [
      {
        title: `${connections.toLocaleString('en')} clients, limit ${room.toLocaleString('en')}`,
        bars: { columns: ['answered', 'lost'] },
        columns: ['contender', 'answered', 'lost', 'peak connections', 'last response after, ms'],
        rows: contenders.map(({ name }) => [
          name,
          cell(name, 'answered'),
          cell(name, 'lost'),
          cell(name, 'peak'),
          cell(name, 'elapsed'),
        ]),
      },
    ],
    checks,
    losses: checks
      .filter(({ measured, most }) => measured > most)
      .map(({ what, measured, most }) => `${what}: ${measured}, target ${most}`),
  }
}

export const title = 'Ten times more clients than the limit'
export const about = [
  'All clients wait in the backlog while the server is stopped. The server then responds to each connection after',
  `${work} ms, and ends it. A client is lost when its connection ends without the response. Peak connections is the`,
  'maximum number of open connection fds when the server receives a connection.',
].join('\n')

if (process.argv[2] === 'crowd') await crowd(...process.argv.slice(3).map(Number))
