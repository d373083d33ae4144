// Services that are somebody's server, or a function, behind serve().
import http from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
import { Listener, serve } from 'async-accept'
import { converse, patience } from './conversation.mjs'
import { cutOff } from './outcomes.mjs'
import { bytesFor, drainTimeout, unusedGrace } from './protocol.mjs'

const where = { host: '127.0.0.1', noDelay: true }

// As serve() asks for connections.
const mostOutstanding = 64

const checkingOften = { connectionsCheckingInterval: 250 }
const httpTimeouts = { headersTimeout: patience, requestTimeout: patience }

/** A listener that is served, drained, and served anew by another server. */
export class Served {
  problems = []
  #limit = Number.POSITIVE_INFINITY
  /** What was made last. */
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

  /** Of a connection that a server of lines has. */
  converse(socket, current, entry = this.journal.of(socket.remoteAddress)) {
    const goodbye = converse(socket, entry, (policy) => this.journal.refuse(entry, policy))
    current.goodbyes.add(goodbye)
    socket.once('close', () => current.goodbyes.delete(goodbye))
    if (current.draining) goodbye()
  }

  /** The client has left, or drain() has cut it off, which gives no reason of its own. */
  refuseUnlessGone(entry, { code }) {
    if (!['ECONNRESET', 'ERR_PEEK_ENDED', 'ERR_CONNECTION_CLAIMED'].includes(code)) this.journal.refuse(entry, code)
  }

  /** Of a function, which must end its connections itself. */
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
    this.#endUnheard(current, unused + destroyed)
    this.#start()
  }

  // Nobody is told of those that a drain cuts off before the server has got them.
  #endUnheard(current, most) {
    if (this.kind.handler) return
    const unheard = [...this.journal.live.values()].filter((entry) => entry.service === this.name && !entry.given)
    for (const entry of unheard) {
      this.journal.refuse(entry, cutOff)
      this.#end(entry, current)
    }
    if (unheard.length > most) this.journal.problem(`${this.name}: ${unheard.length} ended unheard, ${most} cut off`)
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

// As Node does when nobody listens.
function refuseHttp(service, error, socket) {
  service.journal.refuse(service.journal.of(socket.remoteAddress), error.code)
  if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n', () => socket.destroySoon())
  else socket.destroy()
}

const checked = (server, service) =>
  Object.assign(server, httpTimeouts, checkingOften)
    .on('request', (request, response) => answerHttp(service, request, response))
    .on('clientError', (error, socket) => refuseHttp(service, error, socket))

/** The ways of use; `make` gives what serve() is to drive. */
export const kinds = [
  {
    name: 'http',
    dialect: 'http',
    // Else Node ends a connection whose client has ended its side, whatever it has asked before.
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
          service.journal.refuse(service.journal.of(remoteAddress), 'silent too long')
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
