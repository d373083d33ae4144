// What does toTLS cost compared with tls.Server?
import { once } from 'node:events'
import tls from 'node:tls'
import { Listener } from 'async-accept'
import { generate } from 'selfsigned'
import { fileOf, load } from './measure.mjs'
import { again, cpuCells, cpuColumns, exactnessCheck, ofSelf, serversInPairs } from './pairs.mjs'

// The number of concurrent handshakes, on each side.
const outstanding = 16

const certificate = async () => {
  const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    curve: 'P-256',
  })
  return { key, cert }
}

export const contenders = [
  {
    name: 'tls.Server',
    serve: async () => {
      let connections = 0
      const server = tls.createServer(await certificate(), (socket) => {
        connections++
        socket.on('error', () => {})
        socket.end()
      })
      await once(server.listen({ host: '127.0.0.1', port: 0 }), 'listening')
      return { address: server.address(), connections: () => connections }
    },
  },
  {
    name: 'toTLS',
    serve: async () => {
      let connections = 0
      const options = await certificate()
      const listener = await Listener.listen({ host: '127.0.0.1' })
      const loop = async () => {
        for (;;) {
          const socket = await (await listener.accept()).toTLS(options)
          connections++
          socket.on('error', () => {})
          socket.end()
        }
      }
      for (let i = 0; i < outstanding; i++) loop()
      return { address: listener.address(), connections: () => connections }
    },
  },
]

/** Runs in a separate process: makes `count` handshakes with a port, each with a new session. */
async function makeHandshakes(port, count) {
  const start = performance.now()
  let failures = 0
  let left = count
  const loop = async () => {
    while (left-- > 0) {
      const socket = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false })
      await new Promise((resolve) => {
        socket.once('error', () => failures++)
        socket.once('close', resolve)
        socket.resume()
      })
    }
  }
  await Promise.all(Array.from({ length: outstanding }, loop))
  console.log(JSON.stringify({ connections: count, failures, seconds: (performance.now() - start) / 1000 }))
}

const [baseline, ours] = contenders
const baselineAgain = again(baseline)

export const defaults = { connections: 400, warmUp: 600, rounds: 5, slices: 4 }
export const smoke = { connections: 40, warmUp: 10, rounds: 1, slices: 1 }

export async function measure({ node, self, progress, ...sizes }) {
  const compared = ofSelf(self, [baselineAgain, ours])
  const results = await serversInPairs({
    ...sizes,
    contenders: compared,
    references: [baseline],
    commandOf: ({ name, program = name }) => [node, fileOf('serve.mjs'), './tls.mjs', program],
    makeLoad: ({ address }, count) => load([node, fileOf('tls.mjs'), 'load', address.port, count]),
    progress,
  })
  const rows = [baseline, ...compared].map(({ name }) => [
    name,
    ...cpuCells(results, name, 0),
    { ...results.ratio(name, baseline.name), digits: 2 },
    { median: results.of(name, 'rate').median, digits: 0 },
  ])
  const median = self ? 0 : results.ratio(ours.name, baseline.name).median
  const columns = ['contender', ...cpuColumns, 'ratio to tls.Server', 'connections/s']
  return {
    tables: [
      {
        title: 'TLS 1.3: CPU per handshake',
        columns,
        rows,
        bars: { columns: ['CPU, us'], title: 'CPU per handshake, us', ours: ([label]) => label === ours.name },
      },
    ],
    checks: [exactnessCheck('TLS 1.3', results, baselineAgain)],
    losses: median > 1 ? [`toTLS uses ${median.toFixed(2)} times the CPU of tls.Server`] : [],
  }
}

export const title = 'A TLS handshake'
export const about = [
  `Each contender accepts, performs a full handshake with an EC P-256 key and closes, for ${outstanding} clients at a`,
  'time. The clients are a Node process on another core, not a C program. Only the CPU of the server process is',
  'compared.',
].join('\n')

if (process.argv[2] === 'load') await makeHandshakes(Number(process.argv[3]), Number(process.argv[4]))
