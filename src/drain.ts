import type { EventEmitter } from 'node:events'
import type http from 'node:http'
import type http2 from 'node:http2'
import type net from 'node:net'
import { binding } from './binding.js'
import { type Handle, handleBeneath, httpSockets, idleHttpSockets, responseOn } from './node-internals.js'

type Sessions = Iterable<http2.ServerHttp2Session>

// What a request comes as. Only those that somebody listens to: the mere listening changes what Node does.
const requestEvents = ['request', 'checkContinue', 'checkExpectation']

export interface EndOptions {
  /** Close the listener too: clients in the backlog are reset. Default: false, and they wait for who serves next. */
  closeListener?: boolean
}

export interface DrainOptions extends EndOptions {
  /** ms after which what is left is destroyed; negative: never. Default: 30,000. */
  timeout?: number
  /**
   * ms for which an idle HTTP/1 connection may still bring a request, which is then answered, before it is ended. A
   * client that is in the midst of sending one when its connection ends cannot know whether it was heard. Default: 200.
   */
  idleGrace?: number
}

/** How connections ended; together, all there were. */
export interface DrainReport {
  /** Nothing came on them, so they were ended (HTTP/1). */
  idle: number
  /** They ended in time. */
  finished: number
  /** They were cut off at the deadline. */
  destroyed: number
  /** ms that it took. */
  elapsed: number
}

/** Says to the clients of a server, in the words of its protocol, that this connection takes no more requests. */
export class WindDown {
  /** What was beneath the connections that were ended because nothing happened on them. */
  readonly idle = new Set<Handle>()
  readonly #server: net.Server
  readonly #answered = new Set<net.Socket>()
  readonly #grace: NodeJS.Timeout
  readonly #undo: (() => void)[] = []
  #sweep: NodeJS.Immediate | undefined

  /** `grace` is in ms: for so long an idle connection may still bring a request. */
  constructor(server: net.Server, sessions: Sessions, grace: number) {
    this.#server = server
    for (const event of requestEvents) {
      if (server.listenerCount(event) > 0) this.#on(event, this.#onRequest)
    }
    this.#on('session', goAway)
    for (const session of sessions) goAway(session)
    for (const socket of httpSockets(server) ?? []) {
      const response = responseOn(socket)
      if (response !== undefined) this.#last(response, socket)
    }
    this.#grace = setTimeout(() => this.#endIdle(() => true), grace)
  }

  stop(): void {
    clearTimeout(this.#grace)
    clearImmediate(this.#sweep)
    for (const undo of this.#undo) undo()
  }

  #on(event: string, listener: Parameters<EventEmitter['on']>[1]): void {
    const server: EventEmitter = this.#server
    server.prependListener(event, listener)
    this.#undo.push(() => server.removeListener(event, listener))
  }

  #onRequest = (request: http.IncomingMessage, response: http.ServerResponse): void => {
    if (request.httpVersionMajor === 1) this.#last(response, request.socket)
  }

  // RFC 9112, section 9.6. Node ends the connection behind such a response. Behind one that has begun without, or whose
  // headers say otherwise, the connection is idle, and we end it.
  #last(response: http.ServerResponse, socket: net.Socket): void {
    if (!response.headersSent) response.setHeader('Connection', 'close')
    response.once('close', () => {
      this.#answered.add(socket)
      this.#sweep ??= setImmediate(() => {
        this.#sweep = undefined
        this.#endIdle((idle) => this.#answered.has(idle))
        this.#answered.clear()
      })
    })
  }

  #endIdle(which: (socket: net.Socket) => boolean): void {
    const sockets = idleHttpSockets(this.#server)
    if (sockets === undefined) (this.#server as Partial<http.Server>).closeIdleConnections?.()
    for (const socket of sockets?.filter(which) ?? []) {
      // A request is there already: it is answered, and that ends the connection.
      const handle = handleBeneath(socket)
      // Node has ended it already, behind its last response.
      if (handle === undefined || socket.writableEnded) continue
      const waiting = binding.receive(handle.fd, 1, true)
      if (typeof waiting !== 'number' && waiting.length > 0) continue
      this.idle.add(handle)
      // After a close_notify where there is TLS.
      socket.destroySoon()
    }
  }
}

// A GOAWAY with the last stream that is served; the client knows that it may make anew what it has opened since (RFC 9113,
// section 8.7). The section 6.8 has one before it that excludes no stream yet, but whatever Node sends makes nghttp2
// ignore new streams from then on.
function goAway(session: http2.ServerHttp2Session): void {
  session.close()
}
