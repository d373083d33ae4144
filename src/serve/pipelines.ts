import { AsyncResource } from 'node:async_hooks'
import type { EventEmitter } from 'node:events'
import type http from 'node:http'
import type net from 'node:net'
import { runSafely } from '../core/errors.js'
import { afterParsing, endsConnection, newestRequestOn, responseOn } from '../core/node-internals.js'

// What an http.Server emits for a request, with the request and its response.
const requestEvents = new Set<unknown>(['request', 'checkContinue', 'checkExpectation'])

/** Decisions that are made elsewhere. */
export interface PipelineOptions {
  /** Whether bytes wait that no parser has seen, and that should be answered too. */
  hasMore(socket: net.Socket): boolean
  /** Node would close the connection, behind its last response. */
  end(socket: net.Socket): void
  /** A response has come to its end. */
  answered(): void
}

/**
 * The HTTP/1 connections of a server during a drain. Each is a queue of requests, and the last response says
 * `Connection: close`. Node ends the connection behind such a response, and drops the answers of later requests. So only
 * the newest request may get it, and no handler may run for a request that comes later (RFC 9112, section 9.6).
 */
export class Pipelines {
  readonly #options: PipelineOptions
  readonly #seen = new WeakSet<http.ServerResponse>()
  readonly #taken = new WeakSet<net.Socket>()
  readonly #busy = new WeakSet<net.Socket>()
  /** Connections that end behind a response whose head is written, or that were ended. */
  readonly #closing = new WeakSet<net.Socket>()
  /** Calls of handlers, for the requests of a segment that is being parsed. */
  readonly #waiting = new WeakMap<net.Socket, (() => void)[]>()
  #stopped = false

  constructor(options: PipelineOptions) {
    this.#options = options
  }

  /** Restores what Node does by itself. */
  stop(): void {
    this.#stopped = true
  }

  /** Whether a request was in flight on the connection since the drain began. */
  hasAnswered(socket: net.Socket): boolean {
    return this.#busy.has(socket)
  }

  /** Takes over a connection and the response that is under way on it, if any. */
  take(socket: net.Socket, response = responseOn(socket)): void {
    if (response !== undefined) this.#watch(socket, response)
    if (this.#taken.has(socket)) return
    this.#taken.add(socket)
    const { destroySoon } = socket
    // Node calls it behind the last response. It closes the socket without a look at what the client still sends, and
    // the kernel answers that with a reset, which may overtake the response.
    hide(socket, 'destroySoon', () => (this.#stopped ? destroySoon.call(socket) : this.#options.end(socket)))
  }

  /** Takes the place of a server's emit(); `emit` calls the listeners of the event. */
  onEvent(event: unknown, args: unknown[], emit: () => boolean): boolean {
    if (requestEvents.has(event)) {
      const [request, response] = args as [http.IncomingMessage, http.ServerResponse]
      return request.httpVersionMajor === 1 ? this.#onRequest(request, response, emit) : emit()
    }
    if (event === 'upgrade' || event === 'connect') {
      const [{ socket }] = args as [http.IncomingMessage]
      this.#callHandlers(socket)
      if (!this.#closing.has(socket)) return emit()
      // Node has taken its own listeners from the socket.
      socket.on('error', () => {})
      socket.resume()
      return true
    }
    if (event === 'clientError') {
      const [error, socket] = args as [NodeJS.ErrnoException, net.Socket]
      this.#callHandlers(socket)
      // Behind a response that ends the connection it does not matter what a client sends.
      return (this.#closing.has(socket) && error.code?.startsWith('HPE_')) || emit()
    }
    return emit()
  }

  /** Nothing that comes on the connection from now on is answered. */
  close(socket: net.Socket): void {
    this.#closing.add(socket)
  }

  // Node's parser emits the requests of a segment one after the other. If a handler answered at once, the first would be
  // the newest, so handlers are called when the whole segment is parsed.
  #onRequest(request: http.IncomingMessage, response: http.ServerResponse, emit: () => boolean): boolean {
    const { socket } = request
    const call = () => {
      if (!this.#closing.has(socket) && !socket.destroyed) runSafely(emit)
      // A body that no handler reads would stop the parser.
      else request.resume()
    }
    this.take(socket)
    this.#watch(socket, response)
    let waiting = this.#waiting.get(socket)
    if (waiting === undefined) {
      waiting = []
      this.#waiting.set(socket, waiting)
      afterParsing(socket, () => this.#callHandlers(socket))
    }
    waiting.push(AsyncResource.bind(call))
    return true
  }

  #callHandlers(socket: net.Socket): void {
    const waiting = this.#waiting.get(socket) ?? []
    this.#waiting.delete(socket)
    for (const call of waiting) call()
  }

  #watch(socket: net.Socket, response: http.ServerResponse): void {
    if (this.#seen.has(response)) return
    this.#seen.add(response)
    this.#busy.add(socket)
    response.once('close', () => {
      if (this.#stopped) return
      // The next one has its turn.
      this.take(socket)
      this.#options.answered()
    })
    const noteEnd = () => {
      if (endsConnection(response)) this.close(socket)
    }
    if (response.headersSent) {
      noteEnd()
      return
    }
    const { writeHead } = response
    hide(response, 'writeHead', (...args: Parameters<typeof writeHead>) => {
      if (this.#stopped || response.headersSent) return writeHead.apply(response, args)
      const { shouldKeepAlive } = response
      this.#setEnd(response, this.#isLast(socket, response))
      try {
        const result = writeHead.apply(response, args)
        noteEnd()
        return result
      } catch (error) {
        // Another head will be written, perhaps when there are more requests.
        response.shouldKeepAlive = shouldKeepAlive
        throw error
      }
    })
  }

  // A header of our own would make writeHead() refuse arrays of pairs.
  #setEnd(response: http.ServerResponse, last: boolean): void {
    if (last) response.shouldKeepAlive = false
    const header = String(response.getHeader('connection') ?? '')
    if (last && /keep-alive/i.test(header)) response.setHeader('Connection', 'close')
    // An application that knows of the drain says so on each response.
    if (!last && /^close$/i.test(header)) response.setHeader('Connection', 'keep-alive')
  }

  #isLast(socket: net.Socket, { req }: http.ServerResponse): boolean {
    // None when the connection was upgraded meanwhile: then it does not end with this response.
    if (newestRequestOn(socket) !== req) return false
    // What comes behind a request that is not complete is its own body.
    return !(req.complete && this.#options.hasMore(socket))
  }
}

/** Replaces emit() of a server by `onEvent`. The result restores it. */
export function intercept(
  server: EventEmitter,
  onEvent: (event: unknown, args: unknown[], emit: () => boolean) => boolean,
): () => void {
  const { emit } = server
  const own = Object.getOwnPropertyDescriptor(server, 'emit')
  let stopped = false
  function intercepted(this: EventEmitter, event: string, ...args: unknown[]): boolean {
    const pass = () => emit.call(this, event, ...args)
    return stopped ? pass() : onEvent(event, args, pass)
  }
  hide(server, 'emit', intercepted)
  return () => {
    stopped = true
    // An application may have replaced it, too.
    if (server.emit !== intercepted) return
    if (own === undefined) delete (server as Partial<EventEmitter>).emit
    else Object.defineProperty(server, 'emit', own)
  }
}

function hide<T extends object, Name extends keyof T>(
  object: T,
  name: Name,
  value: (...args: never[]) => unknown,
): void {
  Object.defineProperty(object, name, { value, configurable: true, writable: true, enumerable: false })
}
