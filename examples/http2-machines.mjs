// An HTTP/2 server as a pool of connection state machines. Each machine asks the listening socket for one connection
// and gets a ref; the connection comes later, under that ref, as a plain TCP fd. A machine that gets its connection is
// replaced first, and only then upgrades it to TLS and serves it:
//
//   listening -> handshake -> connected -> closing
//
// While it waits a machine is not blocked: anybody can ask for its status or tell it to stop. Start it with `npm start`.
import http2 from 'node:http2'
import { isIPv6 } from 'node:net'
import { pipeline } from 'node:stream'
import { Listener } from 'async-accept'
import { selfSignedCertificate } from './http2-machines/certificate.mjs'
import { fail, readCommandLine } from './http2-machines/command-line.mjs'
import { contentSecurityPolicy, page } from './http2-machines/page.mjs'

const { port, host, machines: poolSize, 'drain-timeout': drainSeconds } = readCommandLine()

// ---- The listening socket: always a plain TCP one.

const listener = await Listener.listen({ port, host, noDelay: true }).catch((error) => {
  if (error.code === 'EADDRINUSE') fail(1, `port ${port} is in use; choose another one with --port`)
  fail(1, `cannot listen: ${error.message}`)
})

// ---- The HTTP server: it never listens. It is lent to handshakes, and gets connections when they are secure.

const server = http2.createSecureServer(
  { ...(await selfSignedCertificate(host)), allowHTTP1: true },
  (request, response) =>
    // The session of an HTTP/2 request, the socket of an HTTP/1.1 one.
    machineOf.get(request.stream?.session ?? request.socket).asked(request, response),
)
// A server starts to enforce its headersTimeout and requestTimeout (HTTP/1.1) when it hears that it listens.
server.emit('listening')
// And these Node leaves at "forever" in an HTTP/2 server: for connections on which nothing moves, and for HTTP/1.1
// clients that keep a connection for a next request.
server.setTimeout(120_000)
server.keepAliveTimeout = 5_000

// ---- The machines.

const handshakeTimeout = 10_000 // ms; a client that is silent for that long is not worth an fd

/** All machines by their ref, which is unique: a machine makes one request in its life. */
const machines = new Map()
const machineOf = new WeakMap()
let draining = false

class Machine {
  state = 'listening'
  ref = listener.asyncAccept()
  #stopped = new AbortController()
  #socket
  #session // of HTTP/2
  #inFlight = 0
  #requests = []
  #about // the connection: fd, peer, TLS version, ALPN, and why there is none
  #printing
  #printed = false

  // Messages, for a machine in any state.

  status() {
    const open = this.state === 'gone' ? 'aborted' : '...'
    const asked = this.#requests.map(({ what, status }) => `${what} ${status ?? open}`)
    return { ref: this.ref, state: this.state, ...this.#about, asked }
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

  /** For one that has been told to stop, and takes too long. */
  kill() {
    this.#socket?.destroy()
  }

  // Events.

  async accepted(connection) {
    this.state = 'handshake'
    fillPool() // the replacement comes first: from here on things can take long, and go wrong
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
    socket.on('error', () => {}) // a reset, for instance; 'close' follows
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
    server.emit('secureConnection', socket) // and, before it returns, 'session'
    if (this.#stopped.signal.aborted) this.#close() // told to stop when the handshake had just ended
  }

  asked(request, response) {
    const entry = { what: printable(`${request.method} ${request.url}`) }
    this.#inFlight++
    this.#requests.push(entry)
    if (this.#requests.length > 10) this.#requests.shift()
    response.once('close', () => {
      entry.status = response.writableEnded ? response.statusCode : 'aborted'
      if (--this.#inFlight > 0) return
      if (this.state === 'closing') this.#close()
      // A client with several questions asks the next one about now, and they belong in the same line.
      this.#printing ??= setTimeout(() => this.#print(), 200)
    })
    // What HTTP/1.1 has for GOAWAY.
    if (this.state === 'closing' && this.#session === undefined) response.setHeader('connection', 'close')
    answer(request, response)
  }

  #closing() {
    if (this.state === 'connected') this.state = 'closing'
  }

  // Lets what is in flight end, and then the connection. An HTTP/2 session does so by itself, after a GOAWAY.
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
    columns.push(failure ?? (this.status().asked.join(', ') || 'asked nothing'))
    console.log(columns.join('  '))
  }
}

/** As many machines wait as the pool is large, whatever happened to one of them. */
function fillPool() {
  while (!draining && listener.pending < poolSize) {
    const machine = new Machine()
    machines.set(machine.ref, machine)
  }
}

// The one place where connections arrive.
let outOfFds = false
listener.on('accept', ({ ref, connection, error }) => {
  if (error) fail(1, `cannot accept any more: ${error.message}`)
  outOfFds = false
  const machine = machines.get(ref)
  if (machine) machine.accepted(connection)
  else connection.close() // its machine was told to stop when the connection was already on its way
})

// No machine is lost by it: their requests stay, and accepting goes on by itself.
listener.on('capacityPause', ({ error, pending }) => {
  if (!outOfFds) console.log(`${error.code}: ${pending} machines keep waiting, and new clients in the backlog`)
  outOfFds = true
})

// ---- What clients can ask.

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
    // Strangers do not end each other's connections.
    if (machine.state !== 'listening') return reply(response, 409, `machine ${machine.ref} is ${machine.state}`)
    machine.stop()
    return reply(response, 200, `machine ${machine.ref} is ${machine.state}`)
  }
  return reply(response, 404, 'There are GET /, GET /status, POST /echo, GET and DELETE /machines/<ref>')
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

/** The last machines that got a connection, newest first. */
const last = []
function remember(machine) {
  last.unshift(machine)
  last.splice(15)
}

function nameOf(address, port) {
  const plain = address.replace(/^::ffff:(?=.*\.)/, '') // an IPv4 client of a socket for both
  return isIPv6(plain) ? `[${plain}]:${port}` : `${plain}:${port}`
}

/** What strangers send must not move the cursor. */
function printable(text) {
  const short = text.length > 100 ? `${text.slice(0, 100)}...` : text
  return short.replace(/[^\x20-\x7e]/g, '?')
}

// ---- The end: stop asking, finish what is in flight, and be gone.

let drainingSince

for (const [signal, exitCode] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
])
  process.on(signal, () => stop(exitCode))

function stop(exitCode) {
  if (draining) {
    // Under npm one Ctrl-C arrives twice: from the terminal, whose foreground we share, and from npm, which passes on
    // what it got. They are milliseconds apart, on a machine that is not too busy.
    if (performance.now() - drainingSince > 1000) process.exit(exitCode)
    return
  }
  draining = true
  drainingSince = performance.now()
  if (process.stdout.isTTY) console.log() // the terminal has written ^C
  for (const machine of [...machines.values()]) machine.stop() // those that wait are gone when it returns
  listener.close()
  if (machines.size === 0) return
  console.log(`draining, for at most ${drainSeconds} s; open connections: ${machines.size}; Ctrl-C again exits at once`)
  deadline = setTimeout(() => {
    console.log(`not done in time, and cut off; connections: ${machines.size}`)
    for (const machine of machines.values()) machine.kill()
  }, drainSeconds * 1000)
}

// Nothing keeps the process any more when the last machine has gone, so it ends by itself.
let deadline
function drained() {
  if (machines.size > 0) return
  clearTimeout(deadline)
  console.log('drained')
}

fillPool()
const name = host === undefined || host === '::' || host === '0.0.0.0' ? 'localhost' : host
console.log(`${poolSize} machines listen on https://${isIPv6(name) ? `[${name}]` : name}:${listener.address().port}/`)
