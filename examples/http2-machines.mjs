// An HTTP/2 server as a pool of connection state machines. Each machine requests one connection from the listener and
// gets a ref; the connection arrives later with that ref, as a raw TCP fd. When a machine gets its connection, a new
// machine takes its place in the pool. Then it upgrades the connection to TLS and serves it:
//
//   listening -> handshake -> connected -> closing
//
// A waiting machine is not blocked: other code can query its status or stop it. Start the server with `npm start`.
//
// http2-machines/machine.mjs is the state machine, and http2-machines/pool.mjs the pool.
import http2 from 'node:http2'
import { Listener } from 'async-accept'
import { selfSignedCertificate } from './http2-machines/certificate.mjs'
import { fail, readCommandLine } from './http2-machines/command-line.mjs'
import { EventStreams } from './http2-machines/event-streams.mjs'
import { machineOf } from './http2-machines/machine.mjs'
import { authority } from './http2-machines/names.mjs'
import { Pool } from './http2-machines/pool.mjs'
import { Resources } from './http2-machines/resources.mjs'

const { port, host, machines, 'drain-timeout': drainSeconds } = readCommandLine()

// ---- The listening socket: plain TCP.

const listener = await Listener.listen({ port, host, noDelay: true }).catch((error) => {
  if (error.code === 'EADDRINUSE') fail(1, `port ${port} is in use; choose another one with --port`)
  fail(1, `cannot listen: ${error.message}`)
})

// ---- The HTTP server. It never listens. toTLS() uses it for handshakes, and it gets each connection afterwards.

const server = http2.createSecureServer(
  { ...(await selfSignedCertificate(host)), allowHTTP1: true },
  (request, response) => {
    machineOf(request).onRequest(request, response)
    resources.answer(request, response)
  },
)
// A server begins to enforce headersTimeout and requestTimeout (HTTP/1.1) on its 'listening' event.
server.emit('listening')
// By default an HTTP/2 server of Node has no timeout for inactive connections, and none for idle HTTP/1.1 connections.
server.setTimeout(120_000)
server.keepAliveTimeout = 5_000

// ---- The machines.

const pool = new Pool(listener, server, machines)
const events = new EventStreams(() => pool.status())
const resources = new Resources(pool, events)

// All connections arrive here.
let outOfFds = false
listener.on('accept', ({ ref, connection, error }) => {
  if (error) fail(1, `cannot accept: ${error.message}`)
  outOfFds = false
  pool.accepted(ref, connection)
})

// The requests of the machines stay outstanding, and the listener continues to accept after the pause.
listener.on('capacityPause', ({ error, pending }) => {
  if (!outOfFds) console.log(`${error.code}: ${pending} machines and all new clients wait`)
  outOfFds = true
})

// ---- Shutdown: withdraw all requests, complete pending HTTP requests, and exit.

// Under npm one Ctrl-C arrives twice: the terminal sends it to the whole foreground process group, and npm forwards it.
// The two are milliseconds apart, unless the machine is very busy. In ms.
const oneCtrlC = process.env.npm_lifecycle_event === 'start' ? 1000 : 0
let drainingSince

for (const [signal, exitCode] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
])
  process.on(signal, () => stop(exitCode))

function stop(exitCode) {
  if (drainingSince !== undefined) {
    if (performance.now() - drainingSince >= oneCtrlC) process.exit(exitCode)
    return
  }
  drainingSince = performance.now()
  if (process.stdout.isTTY) console.log() // ends the line in which the terminal prints ^C
  events.end() // an open page is a pending request that would never complete
  const deadline = setTimeout(() => {
    console.log(`drain timeout; destroyed connections: ${pool.machines.size}`)
    pool.kill()
  }, drainSeconds * 1000)
  // After the last machine nothing keeps the process alive, so it exits.
  pool.drain(() => {
    clearTimeout(deadline)
    console.log('drained')
  })
  const open = pool.machines.size
  if (open === 0) return
  console.log(`draining for at most ${drainSeconds} s; open connections: ${open}; Ctrl-C again exits at once`)
}

pool.fill()
const unspecified = host === undefined || host === '::' || host === '0.0.0.0'
const url = `https://${authority(unspecified ? 'localhost' : host, listener.port)}/`
console.log(`${machines} machines listen on ${url}`)
console.log(`The certificate is self-signed, so clients must be told to accept it: curl -k ${url}`)
