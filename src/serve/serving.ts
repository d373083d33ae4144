import { EventEmitter } from 'node:events'
import type net from 'node:net'
import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import { inOwnContext } from '../accept/delivery.js'
import { servingStateChannel } from '../accept/diagnostics.js'
import { Listener } from '../accept/listener.js'
import { onAbort } from '../core/abort.js'
import { binding } from '../core/binding.js'
import { longestTimer } from '../core/deadline.js'
import { type CodedError, codedError, runSafely, type SystemError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'
import { type Handle, type HandleClass, handleClassFor, setHandshakeTimeout } from '../core/node-internals.js'
import { showAs } from '../core/show.js'
import { trace } from '../core/trace.js'
import * as validate from '../core/validate.js'
import { AcceptRequests } from './accept-requests.js'
import { Admission, type Deliver, type Refusal } from './admission.js'
import { Alarms } from './alarms.js'
import {
  Drain,
  type DrainOptions,
  type DrainReport,
  type EndOptions,
  readDrainOptions,
  readEndOptions,
} from './drain.js'
import { type CheckedServeOptions, type ConnectionHandler, checkLimit, type SecureHandler } from './options.js'
import { ServedConnection, trackUpgrades } from './served-connection.js'
import { ServerHandle } from './server-handle.js'

export interface ServingEvents {
  /** A connection was accepted, and the number of open connections has reached a threshold of the option `alarm`. */
  alarm: [{ threshold: number; connections: number }]
  /** A connection was closed before the server received it. */
  refused: [Refusal]
  /** `drain()` was called. A handler can announce shutdown in a protocol that this package does not know. */
  drain: []
  /**
   * A served function threw or rejected, or accept(2) failed permanently. If a server is served, the server emits the
   * error of accept(2) instead.
   */
  error: [Error]
  /** The last connection of this Serving has ended, and no other will be accepted. Emitted once. */
  close: []
}

const defaultHandshakeTimeout = 10_000

/**
 * The state of a {@link Serving}. It changes in this order only, and may skip states.
 *
 * - `'serving'`: accepts connections while there is room.
 * - `'draining'`: `drain()` was called. Accepts no connection; the server is still listening.
 * - `'closing'`: accepts no connection. The server closes as soon as it has received every accepted connection. Some
 *   connections are still open.
 * - `'closed'`: no connection is open.
 */
export type ServingState = 'serving' | 'draining' | 'closing' | 'closed'

/** The message of the diagnostics channel `async-accept.serving-state`, published after the state has changed. */
export interface ServingStateMessage {
  serving: Serving
  state: ServingState
  /** The state before; undefined when serving begins. */
  before: ServingState | undefined
}

const stateOrder: Record<ServingState, number> = { serving: 0, draining: 1, closing: 2, closed: 3 }

/** Passes the connections of a listener to a server or a function. Created by {@link serve}. */
export class Serving extends EventEmitter<ServingEvents> {
  readonly listener: Listener
  readonly #server: ServerHandle | undefined
  readonly #deliver: Deliver
  readonly #requests: AcceptRequests
  readonly #connections = new Set<ServedConnection>()
  readonly #alarms: Alarms
  readonly #admission: Admission
  readonly #cleanups: (() => void)[] = []
  readonly #closed = deferred()
  #state: ServingState = 'serving'
  #maxConnections: number
  /** The number of open connections that the server has not received yet. */
  #undelivered = 0
  /** Whether `unref()` was called. While serving, `ref()` and `unref()` apply to the listener too. */
  #unreferenced = false
  #releaseListener: (() => void) | undefined
  #restoreHandshakeTimeout: (() => void) | undefined

  static {
    showAs(Serving, 'Serving', (serving) => ({
      state: serving.#state,
      connections: serving.connections,
      maxConnections: serving.#maxConnections,
      server: serving.#server?.server.constructor.name,
      listener: serving.listener,
    }))
  }

  /** Whether the end of serving closes the listener. The first call that ends serving decides. */
  #closeListener = false
  /** @internal Starts serving. */
  static start(
    listener: Listener,
    target: net.Server | ConnectionHandler | SecureHandler,
    options: CheckedServeOptions,
  ): Serving {
    const serving = new Serving(listener, target, options)
    serving.#announceState(undefined)
    return serving
  }

  /** Whether an 'error' event is pending. 'close' must not be emitted before it. */
  #failing = false
  #drained: Promise<DrainReport> | undefined
  #drain: Drain | undefined

  private constructor(
    listener: Listener,
    target: net.Server | ConnectionHandler | SecureHandler,
    options: CheckedServeOptions,
  ) {
    super()
    const { maxConnections = Number.POSITIVE_INFINITY, alarm = [], signal } = options
    const handshakeTimeout = Math.min(options.handshakeTimeout ?? defaultHandshakeTimeout, longestTimer)
    this.listener = listener
    this.#maxConnections = maxConnections
    this.#alarms = new Alarms([alarm].flat(), (threshold, connections) =>
      this.emit('alarm', { threshold, connections }),
    )
    const admission = new Admission(handshakeTimeout, (refusal) => this.emit('refused', refusal), this.#advance)
    this.#admission = admission
    let deliver: Deliver
    if (typeof target !== 'function') {
      const HandleClass = handleClassFor(streamDomain(listener))
      if (options.handshakeTimeout !== undefined && validate.isTlsServer(target)) {
        const before = setHandshakeTimeout(target, Math.max(handshakeTimeout, 0))
        this.#restoreHandshakeTimeout = () => setHandshakeTimeout(target, before)
      }
      const server = this.#listen(target, HandleClass)
      this.#server = server
      // The server may have been closed since the accept. It drops the connection then, as the kernel drops those in
      // the accept queue of a closed listener.
      deliver =
        options.tls === undefined
          ? (connection, served) => {
              this.#markDelivered(served)
              if (server.listening) server.passClient(toHandle(connection, HandleClass))
              else connection.reset()
            }
          : this.#afterHandshake(options.tls, (socket, served) => {
              this.#markDelivered(served)
              if (server.listening) server.adopt(socket)
              else socket.destroy()
            })
    } else {
      const call: Deliver<never> = (argument, served) => this.#callHandler(target, argument, served)
      deliver =
        options.tls === undefined
          ? (call as Deliver)
          : this.#afterHandshake(options.tls, call as Deliver<tls.TLSSocket>)
    }
    this.#deliver = options.proxyProtocol === undefined ? deliver : admission.withProxyHeader(options, deliver)
    // The requests are created in the constructor, so that handlers run in the async context in which `serve` was
    // called.
    this.#requests = new AcceptRequests(listener, () => this.#room(), this.#onConnection, this.#onAcceptError)
    this.#releaseListener = Listener.hold(listener, this.#onListenerEnded)
    if (signal) this.#cleanups.push(onAbort(signal, () => void this.close()))
    this.#requests.refill()
  }

  get state(): ServingState {
    return this.#state
  }

  /** The number of open connections: accepted, and neither closed nor detached. */
  get connections(): number {
    return this.#connections.size
  }

  /**
   * The maximum number of open connections: an integer, or `Infinity` (default). It can be set at any time. Lowering it
   * closes no connection; no connection is accepted until fewer are open. 0 pauses accepting. Setting it throws Node's
   * codes for an invalid value.
   */
  get maxConnections(): number {
    return this.#maxConnections
  }

  set maxConnections(value: number) {
    checkLimit('maxConnections', value)
    this.#maxConnections = value
    this.#adjustRequests()
  }

  /**
   * Stops accepting and calls `server.close()`. Open connections continue. Resolves when every connection that this
   * Serving accepted has ended; other connections of the server do not delay it. Another call returns the same promise.
   *
   * The listener stays open unless `closeListener` is true. `close`, `drain`, `server.close()`, `listener.close()` and
   * `listener.detach()` all end serving, and the first of these calls decides whether the listener is closed.
   *
   * Throws Node's codes for an invalid option.
   */
  close(options: EndOptions = {}): Promise<void> {
    this.#changeState('closing', readEndOptions(options).closeListener)
    return this.#closed.promise
  }

  /**
   * Shuts down gracefully: stops accepting and lets pending requests finish. HTTP/1 requests whose handler was called
   * are answered; the last response on each connection has `Connection: close`. Connections that are idle or have no
   * complete request are ended after `idleGrace` or `unusedGrace` ms. HTTP/2 clients receive a GOAWAY and finish their
   * streams. For other protocols, the application handles the 'drain' event. At the deadline (`timeout` ms), the
   * remaining connections are destroyed. Then the server is closed; the listener too, if `closeListener` is true.
   *
   * Resolves when no connection is left. Another call has no effect and returns the same promise. A call after
   * `close()` drains the connections that are still open.
   *
   * Throws Node's codes for an invalid option.
   *
   * @example
   * ```js
   * process.once('SIGTERM', () => serving.drain({ timeout: 10_000, closeListener: true }))
   * ```
   */
  drain(options: DrainOptions = {}): Promise<DrainReport> {
    const checked = readDrainOptions(options)
    this.#drained ??= this.#drainWith(checked)
    return this.#drained
  }

  /** Keeps the process alive while serving, as a listening `net.Server` does. This is the default. */
  ref(): this {
    if (this.#server) this.#server.ref()
    else this.#keepAlive(true)
    return this
  }

  /** Lets the process exit while serving. */
  unref(): this {
    if (this.#server) this.#server.unref()
    else this.#keepAlive(false)
    return this
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #listen(server: net.Server, HandleClass: HandleClass): ServerHandle {
    const { listener } = this
    const socket = { fd: listener.fd, address: listener.address() as net.AddressInfo | string }
    const observer = {
      ref: () => this.#keepAlive(true),
      unref: () => this.#keepAlive(false),
      ended: this.#onServerEnded,
      roomChanged: this.#adjustRequests,
    }
    try {
      const handle = new ServerHandle(server, HandleClass, socket, observer)
      this.#cleanups.push(trackUpgrades(server))
      return handle
    } catch (error) {
      this.#restoreHandshakeTimeout?.()
      throw error
    }
  }

  #keepAlive(keep: boolean): void {
    if (this.#state !== 'serving') return
    this.#unreferenced = !keep
    if (keep) this.listener.ref()
    else this.listener.unref()
  }

  /** Changes the state; no other method does. Ignores a state that is not later than the current one. */
  #changeState(state: ServingState, closeListener = false): void {
    const before = this.#state
    if (stateOrder[state] <= stateOrder[before]) return
    this.#state = state
    this.#announceState(before)
    if (before === 'serving') {
      this.#closeListener = closeListener
      this.#stopRequesting()
    }
    if (state === 'closed') this.#finish()
    else this.#advance()
  }

  #announceState(before: ServingState | undefined): void {
    trace?.('serving: %s, %d connections', this.#state, this.connections)
    if (!servingStateChannel.hasSubscribers) return
    const message: ServingStateMessage = { serving: this, state: this.#state, before }
    inOwnContext(() => runSafely(() => servingStateChannel.publish(message)))
  }

  // Takes the next step, if any. Called when the state, the connections or the pending deliveries have changed.
  #advance = (): void => {
    if (this.#state === 'serving') {
      this.#requests.refill()
      return
    }
    const allDelivered = this.#requests.size === 0 && this.#admission.waiting === 0
    if (!allDelivered || this.#failing) return
    const empty = this.#connections.size === 0
    if (this.#state === 'draining' && empty) this.#changeState('closing')
    if (this.#state !== 'closing') return
    this.#releaseListener?.()
    this.#server?.close()
    if (this.#closeListener) this.listener.close()
    if (empty) this.#changeState('closed')
  }

  /** The number of connections that may still be accepted; negative when there are more than the limit allows. */
  #room(): number {
    const room = this.#maxConnections - this.#connections.size
    return this.#server === undefined ? room : Math.min(room, this.#server.room - this.#undelivered)
  }

  // Called when a limit, or the number of connections that counts against it, has changed.
  #adjustRequests = (): void => {
    if (this.#state !== 'serving') return
    this.#requests.adjust()
  }

  #stopRequesting(): void {
    // The unref() of this Serving must not affect the next Serving on the same listener.
    if (this.#unreferenced) this.listener.ref()
    this.#requests.stop()
  }

  #onConnection = (connection: Connection): void => {
    this.#admit(connection)
    this.#advance()
  }

  #onAcceptError = (error: Error): void => {
    if ((error as CodedError).code === 'ERR_LISTENER_CLOSED') this.#changeState('closing', true)
    else if (this.#state === 'serving') this.#fail(error as SystemError)
    this.#advance()
  }

  // accept(2) has failed with an error after which no accept can succeed.
  #fail(error: SystemError): void {
    this.#failing = true
    this.#changeState('closing')
    queueMicrotask(() => {
      try {
        // The server emits 'error', as after a failed accept of its own.
        if (this.#server?.listening) this.#server.failAccept(error.errno)
        else this.emit('error', error)
      } finally {
        this.#failing = false
        this.#advance()
      }
    })
  }

  #admit(connection: Connection): void {
    const served = new ServedConnection(connection, this.#connections, this.#onConnectionReleased)
    this.#undelivered++
    this.#alarms.check(this.#connections.size)
    runSafely(() => this.#deliver(connection, served))
    this.#drain?.add(served)
  }

  #markDelivered(served: ServedConnection): void {
    if (served.delivered) return
    served.delivered = true
    this.#undelivered--
  }

  #onConnectionReleased = (served: ServedConnection): void => {
    this.#markDelivered(served)
    if (this.#state === 'serving') this.#advance()
    // Advance in the next tick: http.Server.close() may be closing this idle connection, and must not be called
    // recursively.
    else process.nextTick(this.#advance)
  }

  #callHandler(handler: ConnectionHandler | SecureHandler, argument: never, served: ServedConnection): void {
    this.#markDelivered(served)
    const fail = (error: Error) => {
      // drain() has destroyed the connection, and the error is a consequence.
      if (served.destroyed) return
      served.destroy()
      queueMicrotask(() => this.emit('error', error))
    }
    try {
      // The handler may return any class of promise, and its `then` may throw.
      Promise.resolve(handler(argument)).catch(fail)
    } catch (error) {
      fail(error as Error)
    }
  }

  #afterHandshake(options: tls.TlsOptions | tls.Server, deliver: Deliver<tls.TLSSocket>): Deliver {
    return this.#admission.withTls(options, (socket, served) => {
      served.secure = socket
      deliver(socket, served)
    })
  }

  // The server was closed, by this Serving or by the application, or it was moved to a worker thread.
  #onServerEnded = (how: 'closed' | 'moved'): void => {
    // Restore the timeout synchronously: the application may serve the server again in the same tick, with another
    // timeout.
    this.#restoreHandshakeTimeout?.()
    this.#releaseListener?.()
    this.#changeState('closing', how === 'closed')
    if (how === 'closed' && this.#closeListener) this.listener.close()
  }

  // Called by listener.close() and listener.detach(). Closes the server's copy of the fd, so that the port is free when
  // close() returns. The accept requests fail in the next tick, so the state changes then. A drain continues.
  #onListenerEnded = (): void => {
    this.#server?.releaseFd()
    process.nextTick(() => {
      if (this.#state === 'serving') this.#changeState('closing', true)
    })
  }

  #finish(): void {
    for (const cleanUp of this.#cleanups) cleanUp()
    // Node emits the server's 'close' one tick after the end of its last socket. The second tick here is later.
    process.nextTick(() =>
      process.nextTick(() => {
        this.#closed.resolve()
        runSafely(() => this.emit('close'))
      }),
    )
  }

  async #drainWith(options: Required<DrainOptions>): Promise<DrainReport> {
    this.#changeState('draining', options.closeListener)
    const target = { server: this.#server?.server, connections: this.#connections, admission: this.#admission }
    const drain = new Drain(target, options)
    this.#drain = drain
    runSafely(() => this.emit('drain'))
    await this.#closed.promise
    return drain.finish()
  }
}

function toHandle(connection: Connection, HandleClass: HandleClass): Handle {
  try {
    return Connection.toHandle(connection, HandleClass)
  } catch (error) {
    connection.reset()
    throw error
  }
}

function streamDomain(listener: Listener): number {
  const { domain, type } = inspect(listener.fd)
  if (type !== binding.constants.SOCK_STREAM)
    throw codedError('ERR_SOCKET_TYPE', 'a net.Server can be served on stream sockets only')
  return domain as number
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => {}
  const promise = new Promise<void>((fulfil) => {
    resolve = fulfil
  })
  return { promise, resolve }
}
