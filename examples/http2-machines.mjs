// An HTTP/2 server as a pool of connection state machines. Each machine requests one connection from the listener and
// gets a ref; the connection arrives later with that ref, as a raw TCP fd. When a machine gets its connection, a new
// machine takes its place in the pool. Then it upgrades the connection to TLS and serves it:
//
//   listening -> handshake -> connected -> closing
//
// A waiting machine is not blocked: other code can query its status or stop it. Start the server with `npm start`.
import http2 from 'node:http2'
import { isIPv6 } from 'node:net'
import { pipeline } from 'node:stream'
import { Listener } from 'async-accept'
import { selfSignedCertificate } from './http2-machines/certificate.mjs'
import { fail, readCommandLine } from './http2-machines/command-line.mjs'
import { contentSecurityPolicy, page } from './http2-machines/page.mjs'

const { port, host, machines: poolSize, 'drain-timeout': drainSeconds } = readCommandLine()

// ---- The listening socket: plain TCP.

const listener = await Listener.listen({ port, host, noDelay: true }).catch((error) => {
  if (error.code === 'EADDRINUSE') fail(1, `port ${port} is in use; choose another one with --port`)
  fail(1, `cannot listen: ${error.message}`)
})

// ---- The HTTP server. It never listens. toTLS() uses it for handshakes, and it gets each connection afterwards.

const server = http2.createSecureServer(
  { ...(await selfSignedCertificate(host)), allowHTTP1: true },
  (request, response) =>
    // An HTTP/2 request belongs to a session, an HTTP/1.1 request to a socket.
    machineOf.get(request.stream?.session ?? request.socket).onRequest(request, response),
)
// A server begins to enforce headersTimeout and requestTimeout (HTTP/1.1) on its 'listening' event.
server.emit('listening')
// By default an HTTP/2 server of Node has no timeout for inactive connections, and none for idle HTTP/1.1 connections.
server.setTimeout(120_000)
server.keepAliveTimeout = 5_000

// ---- The machines.

const handshakeTimeout = 10_000 // ms; a silent client would otherwise keep its fd

/** All machines by their ref, which is unique: a machine makes one request. */
const machines = new Map()
const machineOf = new WeakMap()
let draining = false

class Machine {
  state = 'listening'
  ref = listener.asyncAccept()
  #stopped = new AbortController()
  #socket
  #session // HTTP/2 only
  #inFlight = 0
  #requests = []
  #about // the connection: fd, peer, TLS version, ALPN protocol, reason of a failure
  #printing
  #printed = false

  // Methods for a machine in any state.

  status() {
    const open = this.state === 'gone' ? 'aborted' : '...'
    const requests = this.#requests.map(({ what, status }) => `${what} ${status ?? open}`)
    return { ref: this.ref, state: this.state, ...this.#about, requests }
  }

  stop() {
    if (this.state === 'listening') {
      listener.cancel(this.ref)
      this.#end()
    } else if (this.state === 'handshake') {
      this.#stopped.abort()
    } else {
      this.#close()
    }
  }

  /** Destroys the connection of a machine that has not stopped in time. */
  kill() {
    this.#socket?.destroy()
  }

  // Events.

  async accepted(connection) {
    this.state = 'handshake'
    fillPool() // first, because the handshake can take long or fail
    this.#about = { fd: connection.fd, peer: nameOf(connection.remoteAddress, connection.remotePort) }
    remember(this)
    try {
      this.#socket = await connection.toTLS(server, { timeout: handshakeTimeout, signal: this.#stopped.signal })
      this.#secured()
    } catch (error) {
      this.#socket?.destroy()
      this.#about.failure = `handshake failed: ${error.code ?? error.message}`
      this.#end()
    }
  }

  #secured() {
    const socket = this.#socket
    this.state = 'connected'
    this.#about.tls = socket.getProtocol()
    this.#about.alpn = socket.alpnProtocol || 'no ALPN'
    if (socket.destroyed) return this.#end()
    socket.on('error', () => {}) // for example a reset; 'close' follows
    socket.once('end', () => this.#closing())
    socket.once('close', () => this.#end())
    machineOf.set(socket, this)
    if (socket.alpnProtocol === 'h2') {
      server.once('session', (session) => {
        this.#session = session
        machineOf.set(session, this)
        session.once('goaway', () => this.#closing())
      })
    }
    server.emit('secureConnection', socket) // emits 'session' before it returns
    if (this.#stopped.signal.aborted) this.#close() // stopped after the handshake had completed
  }

  onRequest(request, response) {
    const entry = { what: printable(`${request.method} ${request.url}`) }
    this.#inFlight++
    this.#requests.push(entry)
    if (this.#requests.length > 10) this.#requests.shift()
    response.once('close', () => {
      entry.status = response.writableEnded ? response.statusCode : 'aborted'
      if (--this.#inFlight > 0) return
      if (this.state === 'closing') this.#close()
      // A client with several requests sends the next one soon; they are printed in the same line.
      this.#printing ??= setTimeout(() => this.#print(), 200)
    })
    // The equivalent of GOAWAY in HTTP/1.1.
    if (this.state === 'closing' && this.#session === undefined) response.setHeader('connection', 'close')
    answer(request, response)
  }

  #closing() {
    if (this.state === 'connected') this.state = 'closing'
  }

  // Ends the connection after its pending requests. An HTTP/2 session does so itself, after a GOAWAY.
  #close() {
    this.#closing()
    if (this.#session !== undefined) this.#session.close()
    else if (this.#inFlight === 0) this.#socket.destroySoon()
  }

  #end() {
    if (!machines.delete(this.ref)) return
    this.state = 'gone'
    if (this.#about !== undefined) this.#print()
    if (draining) drained()
    else fillPool()
  }

  #print() {
    clearTimeout(this.#printing)
    if (this.#printed) return
    this.#printed = true
    const { fd, peer, tls, alpn, failure } = this.#about
    const columns = [`ref ${this.ref}`.padEnd(8), `fd ${fd}`.padEnd(6), peer.padEnd(22)]
    if (tls !== undefined) columns.push(tls, alpn.padEnd(8))
    columns.push(failure ?? (this.status().requests.join(', ') || 'no requests'))
    console.log(columns.join('  '))
  }
}

/** Adds machines until `poolSize` of them wait. */
function fillPool() {
  while (!draining && listener.pending < poolSize) {
    const machine = new Machine()
    machines.set(machine.ref, machine)
  }
}

// All connections arrive here.
let outOfFds = false
listener.on('accept', ({ ref, connection, error }) => {
  if (error) fail(1, `cannot accept: ${error.message}`)
  outOfFds = false
  const machine = machines.get(ref)
  if (machine) machine.accepted(connection)
  else connection.close() // its machine was stopped after the connection had been accepted
})

// The requests of the machines stay outstanding, and the listener continues to accept after the pause.
listener.on('capacityPause', ({ error, pending }) => {
  if (!outOfFds) console.log(`${error.code}: ${pending} machines and all new clients wait`)
  outOfFds = true
})

// ---- The resources.

function answer(request, response) {
  const path = request.url.split('?')[0]
  const { method } = request
  const reading = method === 'GET' || method === 'HEAD'
  const json = path === '/status' || /\bapplication\/json\b/.test(request.headers.accept)
  const machine = machines.get(Number(/^\/machines\/(\d+)$/.exec(path)?.[1]))
  request.resume()
  if (reading && (path === '/' || path === '/status')) {
    if (json) return reply(response, 200, JSON.stringify(status(), null, 2), 'application/json')
    response.setHeader('content-security-policy', contentSecurityPolicy)
    return reply(response, 200, page(status()), 'text/html; charset=utf-8')
  }
  if (path === '/echo' && method === 'POST') {
    response.writeHead(200, { 'content-type': 'application/octet-stream' })
    response.flushHeaders()
    return pipeline(request, response, () => {})
  }
  if (machine && reading) return reply(response, 200, JSON.stringify(machine.status(), null, 2), 'application/json')
  if (machine && method === 'DELETE') {
    // A client must not end the connection of another client.
    if (machine.state !== 'listening') return reply(response, 409, `machine ${machine.ref} is ${machine.state}`)
    machine.stop()
    return reply(response, 200, `machine ${machine.ref} is ${machine.state}`)
  }
  return reply(response, 404, 'Resources: GET /, GET /status, POST /echo, GET and DELETE /machines/<ref>')
}

function reply(response, statusCode, body, type = 'text/plain; charset=utf-8') {
  response.writeHead(statusCode, {
    'content-type': type,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  })
  response.end(body.endsWith('\n') ? body : `${body}\n`)
}

function status() {
  const all = [...machines.values()].map((machine) => machine.status())
  const count = (state) => all.filter((machine) => machine.state === state).length
  const pool = { size: poolSize }
  for (const state of ['listening', 'handshake', 'connected', 'closing']) pool[state] = count(state)
  return {
    pool,
    machines: all.map(({ ref, state }) => ({ ref, state })),
    refs: all.filter(({ state }) => state === 'listening').map(({ ref }) => ref),
    backlog: draining ? { queued: 0, limit: 0 } : listener.backlog(),
    stats: listener.stats,
    connections: last.map((machine) => machine.status()),
  }
}

/** The machines that got a connection most recently, newest first. */
const last = []
function remember(machine) {
  last.unshift(machine)
  last.splice(15)
}

function nameOf(address, port) {
  const plain = address.replace(/^::ffff:(?=.*\.)/, '') // an IPv4 client of a dual-stack socket
  return isIPv6(plain) ? `[${plain}]:${port}` : `${plain}:${port}`
}

/** Removes control characters, with which a client could control the terminal. */
function printable(text) {
  const short = text.length > 100 ? `${text.slice(0, 100)}...` : text
  return short.replace(/[^\x20-\x7e]/g, '?')
}

// ---- Shutdown: withdraw all requests, complete pending HTTP requests, and exit.

let drainingSince

for (const [signal, exitCode] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
])
  process.on(signal, () => stop(exitCode))

function stop(exitCode) {
  if (draining) {
    // Under npm one Ctrl-C arrives twice: the terminal sends it to the whole foreground process group, and npm forwards
    // it. The two are milliseconds apart, unless the machine is very busy.
    if (performance.now() - drainingSince > 1000) process.exit(exitCode)
    return
  }
  draining = true
  drainingSince = performance.now()
  if (process.stdout.isTTY) console.log() // ends the line in which the terminal prints ^C
  for (const machine of [...machines.values()]) machine.stop() // removes a waiting machine at once
  listener.close()
  if (machines.size === 0) return
  console.log(`draining for at most ${drainSeconds} s; open connections: ${machines.size}; Ctrl-C again exits at once`)
  deadline = setTimeout(() => {
    console.log(`drain timeout; destroyed connections: ${machines.size}`)
    for (const machine of machines.values()) machine.kill()
  }, drainSeconds * 1000)
}

// After the last machine nothing keeps the process alive, so it exits.
let deadline
function drained() {
  if (machines.size > 0) return
  clearTimeout(deadline)
  console.log('drained')
}

fillPool()
const name = host === undefined || host === '::' || host === '0.0.0.0' ? 'localhost' : host
console.log(`${poolSize} machines listen on https://${isIPv6(name) ? `[${name}]` : name}:${listener.port}/`)
