import { AsyncResource } from 'node:async_hooks'
import type { EventEmitter } from 'node:events'
import type http from 'node:http'
import type net from 'node:net'
import { runSafely } from '../core/errors.js'
import { afterParsing, endsConnection, newestRequestOn, responseOn } from '../core/node-internals.js'

// The events that an http.Server emits with a request and its response.
const requestEvents = new Set<unknown>(['request', 'checkContinue', 'checkExpectation'])

/** The callbacks of {@link Pipelines}. */
export interface PipelineOptions {
  /** Returns whether the kernel holds unread bytes, and requests in these bytes should be answered too. */
  hasUnparsed(socket: net.Socket): boolean
  /** Called when Node wants to close a connection after its last response. */
  end(socket: net.Socket): void
  /** Called when a response has been sent or its connection has closed. */
  onResponseEnd(): void
}

/**
 * Puts `Connection: close` on the last response of each HTTP/1 connection during a drain. Each connection is a queue of
 * requests. After a response with `Connection: close`, Node ends the connection and drops the responses to later
 * requests. So only the newest request may get this header, and no handler may run for a request that arrives after it
 * (RFC 9112, section 9.6).
 */
export class Pipelines {
  readonly #options: PipelineOptions
  readonly #watchedResponses = new WeakSet<http.ServerResponse>()
  readonly #controlled = new WeakSet<net.Socket>()
  /** Connections on which a response head was written during the drain. */
  readonly #told = new WeakSet<net.Socket>()
  /** Connections on which no further request is answered: their last response head is written, or they were ended. */
  readonly #closing = new WeakSet<net.Socket>()
  /** The deferred handler calls for the requests of the segment that is being parsed. */
  readonly #deferredCalls = new WeakMap<net.Socket, (() => void)[]>()
  #stopped = false

  constructor(options: PipelineOptions) {
    this.#options = options
  }

  /** Restores Node's own behaviour. */
  stop(): void {
    this.#stopped = true
  }

  /** Whether a response head since the drain began has told the client that the connection ends, or should have. */
  wasTold(socket: net.Socket): boolean {
    return this.#told.has(socket)
  }

  /** Takes control of when the connection ends. Watches `response`, which is the response that is due next, if any. */
  takeControl(socket: net.Socket, response = responseOn(socket)): void {
    if (response !== undefined) this.#watchResponse(socket, response)
    if (this.#controlled.has(socket)) return
    this.#controlled.add(socket)
    const { destroySoon } = socket
    // Node calls destroySoon() after the last response. It closes the socket although the client may still be sending.
    // The kernel answers such data with a reset, which may reach the client before the response.
    override(socket, 'destroySoon', () => (this.#stopped ? destroySoon.call(socket) : this.#options.end(socket)))
  }

  /** Called in place of the server's emit(). `emit` calls the listeners of the event. */
  onEvent(event: unknown, args: unknown[], emit: () => boolean): boolean {
    if (requestEvents.has(event)) {
      const [request, response] = args as [http.IncomingMessage, http.ServerResponse]
      return request.httpVersionMajor === 1 ? this.#onRequest(request, response, emit) : emit()
    }
    if (event === 'upgrade' || event === 'connect') {
      const [{ socket }] = args as [http.IncomingMessage]
      this.#callHandlers(socket)
      if (!this.#closing.has(socket)) return emit()
      // Node has removed its own event listeners from the socket. Discard the request and all later data.
      socket.on('error', () => {})
      socket.resume()
      return true
    }
    if (event === 'clientError') {
      const [error, socket] = args as [NodeJS.ErrnoException, net.Socket]
      this.#callHandlers(socket)
      // Ignore parse errors (HPE_*) after the response that ends the connection: later data is discarded anyway.
      return (this.#closing.has(socket) && error.code?.startsWith('HPE_')) || emit()
    }
    return emit()
  }

  /** From now on, no further request on the connection is answered. */
  close(socket: net.Socket): void {
    this.#closing.add(socket)
  }

  // Node's parser emits the requests of one segment one by one. If a handler responded synchronously, its request would
  // be the newest although more follow. So handlers are called after the whole segment has been parsed.
  #onRequest(request: http.IncomingMessage, response: http.ServerResponse, emit: () => boolean): boolean {
    const { socket } = request
    const callHandler = () => {
      if (!this.#closing.has(socket) && !socket.destroyed) runSafely(emit)
      // No handler reads the body of this request. Discard it, because an unread body would stop the parser.
      else request.resume()
    }
    this.takeControl(socket)
    this.#watchResponse(socket, response)
    let calls = this.#deferredCalls.get(socket)
    if (calls === undefined) {
      calls = []
      this.#deferredCalls.set(socket, calls)
      afterParsing(socket, () => this.#callHandlers(socket))
    }
    calls.push(AsyncResource.bind(callHandler))
    return true
  }

  #callHandlers(socket: net.Socket): void {
    const calls = this.#deferredCalls.get(socket) ?? []
    this.#deferredCalls.delete(socket)
    for (const call of calls) call()
  }

  #watchResponse(socket: net.Socket, response: http.ServerResponse): void {
    if (this.#watchedResponses.has(response)) return
    this.#watchedResponses.add(response)
    response.once('close', () => {
      if (this.#stopped) return
      // The next response on the connection is now the current one.
      this.takeControl(socket)
      this.#options.onResponseEnd()
    })
    const closeIfLast = () => {
      if (endsConnection(response)) this.close(socket)
    }
    if (response.headersSent) {
      closeIfLast()
      return
    }
    this.#told.add(socket)
    const { writeHead } = response
    override(response, 'writeHead', (...args: Parameters<typeof writeHead>) => {
      if (this.#stopped || response.headersSent) return writeHead.apply(response, args)
      const { shouldKeepAlive } = response
      this.#setConnectionHeader(response, this.#isLast(socket, response))
      try {
        const result = writeHead.apply(response, args)
        closeIfLast()
        return result
      } catch (error) {
        // The application will call writeHead() again. More requests may have arrived by then.
        response.shouldKeepAlive = shouldKeepAlive
        throw error
      }
    })
  }

  // Prefers `shouldKeepAlive` to setHeader(): after setHeader(), Node's writeHead() rejects an array of header pairs.
  #setConnectionHeader(response: http.ServerResponse, last: boolean): void {
    if (last) response.shouldKeepAlive = false
    const header = String(response.getHeader('connection') ?? '')
    if (last && /keep-alive/i.test(header)) response.setHeader('Connection', 'close')
    // During a drain, an application may set `Connection: close` on every response. Only the last one may have it.
    if (!last && /^close$/i.test(header)) response.setHeader('Connection', 'keep-alive')
  }

  #isLast(socket: net.Socket, { req }: http.ServerResponse): boolean {
    // After an upgrade, newestRequestOn() returns undefined. The connection does not end with this response then.
    if (newestRequestOn(socket) !== req) return false
    // If the request is incomplete, the next bytes are its own body and no further request.
    return !(req.complete && this.#options.hasUnparsed(socket))
  }
}

/** Makes emit() of a server call `onEvent` instead. Returns a function that restores emit(). */
export function intercept(
  server: EventEmitter,
  onEvent: (event: unknown, args: unknown[], emit: () => boolean) => boolean,
): () => void {
  const { emit } = server
  const own = Object.getOwnPropertyDescriptor(server, 'emit')
  let stopped = false
  function intercepted(this: EventEmitter, event: string, ...args: unknown[]): boolean {
    const emitUnchanged = () => emit.call(this, event, ...args)
    return stopped ? emitUnchanged() : onEvent(event, args, emitUnchanged)
  }
  override(server, 'emit', intercepted)
  return () => {
    stopped = true
    // The application may have replaced emit() after the interception. Leave its method in place.
    if (server.emit !== intercepted) return
    if (own === undefined) delete (server as Partial<EventEmitter>).emit
    else Object.defineProperty(server, 'emit', own)
  }
}

function override<T extends object, Name extends keyof T>(
  object: T,
  name: Name,
  value: (...args: never[]) => unknown,
): void {
  Object.defineProperty(object, name, { value, configurable: true, writable: true, enumerable: false })
}
