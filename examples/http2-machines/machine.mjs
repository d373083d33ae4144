// The state machine of one connection: listening -> handshake -> connected -> closing.
import { authority, printable } from './names.mjs'
import { refusePlainHttp, speaksPlainHttp } from './plain-http.mjs'

const handshakeTimeout = 10_000 // ms; a silent client would otherwise keep its fd

const machineOfOwner = new WeakMap()

/** The machine that serves a request. An HTTP/2 request belongs to a session, an HTTP/1.1 request to a socket. */
export const machineOf = (request) => machineOfOwner.get(request.stream?.session ?? request.socket)

export class Machine {
  state = 'listening'
  ref
  #pool
  #stopped = new AbortController()
  #socket
  #session // HTTP/2 only
  #inFlight = 0
  #requests = []
  #about // the connection: fd, peer, TLS version, ALPN protocol, reason of a failure
  #printing
  #printed = false

  constructor(pool) {
    this.#pool = pool
    this.ref = pool.listener.asyncAccept()
  }

  // Methods for a machine in any state.

  status() {
    const open = this.state === 'gone' ? 'aborted' : '...'
    const requests = this.#requests.map(({ what, status }) => `${what} ${status ?? open}`)
    return { ref: this.ref, state: this.state, ...this.#about, requests }
  }

  stop() {
    if (this.state === 'listening') {
      this.#pool.listener.cancel(this.ref)
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

  /** The connection has arrived. */
  async accepted(connection) {
    this.state = 'handshake'
    this.#about = { fd: connection.fd, peer: authority(connection.remoteAddress, connection.remotePort) }
    const limits = { timeout: handshakeTimeout, signal: this.#stopped.signal }
    try {
      if (await speaksPlainHttp(connection, limits)) return this.#refuse(connection)
      this.#socket = await connection.toTLS(this.#pool.server, limits)
      this.#secured()
    } catch (error) {
      connection.close() // no effect if toTLS() has taken it
      this.#socket?.destroy()
      this.#about.failure = `handshake failed: ${error.code ?? error.message}`
      this.#end()
    }
  }

  #refuse(connection) {
    this.state = 'closing'
    this.#about.failure = 'plain HTTP instead of TLS, refused with 400'
    this.#socket = refusePlainHttp(connection)
    this.#socket.once('close', () => this.#end())
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
    machineOfOwner.set(socket, this)
    if (socket.alpnProtocol === 'h2') {
      this.#pool.server.once('session', (session) => {
        this.#session = session
        machineOfOwner.set(session, this)
        session.once('goaway', () => this.#closing())
      })
    }
    this.#pool.server.emit('secureConnection', socket) // emits 'session' before it returns
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
    if (this.state === 'gone') return
    this.state = 'gone'
    if (this.#about !== undefined) this.#print()
    this.#pool.ended(this)
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
