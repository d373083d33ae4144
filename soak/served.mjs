// Services that pass their connections to a server or a function with serve().
import http from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
import { Listener, serve } from 'async-accept'
import { converse, patience } from './conversation.mjs'
import { cutOff } from './outcomes.mjs'
import { bytesFor, drainTimeout, unusedGrace } from './protocol.mjs'

const where = { host: '127.0.0.1', noDelay: true }

// The number of accept requests that serve() keeps outstanding.
const mostOutstanding = 64

const checkingOften = { connectionsCheckingInterval: 250 }
const httpTimeouts = { headersTimeout: patience, requestTimeout: patience }

/** A listener that is served, drained, and served again by a new server. */
export class Served {
  problems = []
  #limit = Number.POSITIVE_INFINITY
  /** The newest serving, and its state. */
  #current = undefined

  static async open(kind, journal, certificate) {
    const service = new Served(kind, await Listener.listen(where), journal, certificate)
    service.#start()
    return service
  }

  constructor(kind, listener, journal, certificate) {
    Object.assign(this, kind, { kind, listener, journal, certificate })
  }

  get serving() {
    return this.#current.serving
  }

  set limit(limit) {
    this.#limit = limit
    this.serving.maxConnections = limit
  }

  get unsteady() {
    const { pending } = this.listener
    const { connections } = this.serving
    if (connections === 0 && pending === mostOutstanding && this.#current.draining === false) return []
    return [`${this.name}: ${connections} connections, ${pending} requests outstanding`]
  }

  #start() {
    const current = { draining: false, goodbyes: new Set() }
    const target = this.kind.make(this, current)
    if (target instanceof net.Server) {
      const direct = !this.kind.options?.proxyProtocol
      target.prependListener('connection', (socket) => {
        const entry = direct ? this.journal.latest : this.journal.of(socket.remoteAddress)
        entry.given = true
        socket.once('close', () => this.#end(entry, current))
      })
    }
    current.serving = serve(this.listener, target, { ...this.kind.options, maxConnections: this.#limit })
    current.serving.on('refused', ({ error, remoteAddress }) => {
      const entry = this.journal.of(remoteAddress)
      this.journal.refuse(entry, error.code)
      this.#end(entry, current)
    })
    current.serving.on('error', (error) => this.journal.problem(`${this.name}: ${error.stack}`))
    current.serving.on('drain', () => {
      for (const goodbye of current.goodbyes) goodbye()
    })
    this.#current = current
  }

  #end(entry, current) {
    if (current.draining) this.journal.refuse(entry, 'drained')
    this.journal.end(entry)
  }

  /** Answers a connection that speaks the 'lines' dialect. */
  converse(socket, current, entry = this.journal.of(socket.remoteAddress)) {
    const goodbye = converse(socket, entry, (policy) => this.journal.refuse(entry, policy))
    current.goodbyes.add(goodbye)
    socket.once('close', () => current.goodbyes.delete(goodbye))
    if (current.draining) goodbye()
  }

  /** Records `code`, unless the client has disconnected or drain() has closed the connection without a reason. */
  refuseUnlessGone(entry, { code }) {
    if (!['ECONNRESET', 'ERR_PEEK_ENDED', 'ERR_CONNECTION_CLAIMED'].includes(code)) this.journal.refuse(entry, code)
  }

  /** Returns a handler function, which must end its connections itself. */
  handle(current, answer) {
    return async (connection) => {
      const entry = this.journal.of(connection.remoteAddress)
      try {
        const socket = await answer(connection)
        this.converse(socket, current, entry)
        socket.once('close', () => this.#end(entry, current))
      } catch (error) {
        this.refuseUnlessGone(entry, error)
        connection.close()
        this.#end(entry, current)
      }
    }
  }

  async restart() {
    const { serving } = this
    if (this.#current.draining) return
    const current = this.#current
    current.draining = true
    const { unused, destroyed } = await serving.drain({ timeout: drainTimeout, unusedGrace })
    this.#endUnreported(current, unused + destroyed)
    this.#start()
  }

  // No event reports connections that a drain closes before the server has received them.
  #endUnreported(current, most) {
    if (this.kind.handler) return
    const unreported = [...this.journal.live.values()].filter((entry) => entry.service === this.name && !entry.given)
    for (const entry of unreported) {
      this.journal.refuse(entry, cutOff)
      this.#end(entry, current)
    }
    if (unreported.length > most)
      this.journal.problem(
        `${this.name}: ${unreported.length} connections ended without a report, but the drain closed ${most}`,
      )
  }

  async close() {
    await this.serving.drain({ timeout: drainTimeout, closeListener: true })
  }
}

function answerHttp(service, request, response) {
  const entry = service.journal.of(request.socket.remoteAddress)
  const [, length, wait] = request.url.split('/').map(Number)
  if (entry === undefined) return response.destroy()
  response.on('error', () => {})
  setTimeout(() => {
    response.setHeader('Content-Length', length)
    response.end(bytesFor(entry.id, length), () => {
      entry.answered++
    })
  }, wait)
}

// Node's behaviour without a 'clientError' listener.
function refuseHttp(service, error, socket) {
  service.journal.refuse(service.journal.of(socket.remoteAddress), error.code)
  if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n', () => socket.destroySoon())
  else socket.destroy()
}

const checked = (server, service) =>
  Object.assign(server, httpTimeouts, checkingOften)
    .on('request', (request, response) => answerHttp(service, request, response))
    .on('clientError', (error, socket) => refuseHttp(service, error, socket))

/** The kinds of services. `make` returns the server or the function for serve(). */
export const kinds = [
  {
    name: 'http',
    dialect: 'http',
    // Otherwise Node ends a connection as soon as its client ends its side, even with pending requests.
    make: (service) => Object.assign(checked(http.createServer(checkingOften), service), { httpAllowHalfOpen: true }),
  },
  {
    name: 'https and http2',
    http2: true,
    dialect: 'http',
    secure: true,
    options: { handshakeTimeout: patience },
    make: (service) => {
      const server = http2.createSecureServer({ ...service.certificate, allowHTTP1: true })
      server.on('session', (session) => {
        const { remoteAddress } = session.socket
        session.on('error', () => {})
        session.setTimeout(patience, () => {
          service.journal.refuse(service.journal.of(remoteAddress), 'idle timeout')
          session.destroy()
        })
      })
      server.on('tlsClientError', (error, socket) =>
        service.refuseUnlessGone(service.journal.of(socket.remoteAddress), error),
      )
      return checked(server, service)
    },
  },
  {
    name: 'net behind a proxy',
    dialect: 'lines',
    proxied: true,
    options: { proxyProtocol: 'require', trust: ['127.0.0.0/8'], handshakeTimeout: patience },
    make: (service, current) =>
      net.createServer({ allowHalfOpen: true }, (socket) => service.converse(socket, current)),
  },
  {
    name: 'function with clientHello',
    handler: true,
    dialect: 'lines',
    secure: true,
    make: (service, current) => {
      const options = { ...service.certificate, allowHalfOpen: true }
      return service.handle(current, async (connection) => {
        const hello = await connection.clientHello({ timeout: patience })
        if (hello === null) throw Object.assign(new Error('no TLS'), { code: 'no ClientHello' })
        return connection.toTLS(options, { timeout: patience })
      })
    },
  },
]
