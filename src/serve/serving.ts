import { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import type net from 'node:net'
import { Connection } from '../accept/connection.js'
import { inCopyOf, inOwnContext } from '../accept/delivery.js'
import { servingStateChannel } from '../accept/diagnostics.js'
import type { Listener } from '../accept/listener.js'
import { onAbort } from '../core/abort.js'
import { longestTimer } from '../core/deadline.js'
import { type CodedError, codedError, invalidArgType, runSafely, type SystemError } from '../core/errors.js'
import { type HandleClass, setHandshakeTimeout } from '../core/node-internals.js'
import { showAs } from '../core/show.js'
import { trace } from '../core/trace.js'
import * as validate from '../core/validate.js'
import type { AcceptGate } from './accept-gate.js'
import { Admission, type Deliver, type Refusal } from './admission.js'
import { Alarms } from './alarms.js'
import { handleClassOfSocket, toFunction, toServer } from './deliver-to-target.js'
import {
  Drain,
  type DrainOptions,
  type DrainReport,
  type EndOptions,
  readDrainOptions,
  readEndOptions,
} from './drain.js'
import type { CheckedServeOptions, ConnectionHandler, SecureHandler } from './options.js'
import { RateLimit } from './rate-limit.js'
import { RequestPool } from './request-pool.js'
import { ServedConnection, ServedConnections, trackUpgrades } from './served-connection.js'
import { ServedListeners } from './served-listeners.js'
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
  readonly #listeners: ServedListeners
  readonly #server: ServerHandle | undefined
  readonly #deliver: Deliver
  readonly #requests: RequestPool
  readonly #connections: ServedConnections
  readonly #rateLimit: RateLimit
  readonly #alarms: Alarms
  readonly #admission: Admission
  readonly #cleanups: (() => void)[] = []
  readonly #closed = deferred<void>()
  // As with net.Server, handlers run in the async context of the call that started listening. Each call of a handler
  // gets its own copy of that context.
  readonly #context = new AsyncResource('AsyncAcceptServing')
  #state: ServingState = 'serving'
  #maxConnections: number
  #paused = false
  #gate: AcceptGate | undefined
  #restoreHandshakeTimeout: (() => void) | undefined
  /** Whether the end of serving closes the listeners. The first call that ends serving decides. */
  #closeListener = false

  static {
    showAs(Serving, 'Serving', (serving) => ({
      state: serving.#state,
      paused: serving.#paused || undefined,
      connections: serving.connections,
      maxConnections: serving.#maxConnections,
      maxRate: serving.maxRate === Number.POSITIVE_INFINITY ? undefined : serving.maxRate,
      server: serving.#server?.server.constructor.name,
      ...serving.#listeners.shown,
    }))
  }

  /** @internal Sets the gate of a Serving. Returns a function to call when the room of the gate may have changed. */
  static limitBy(serving: Serving, gate: AcceptGate): () => void {
    for (let i = 0; i < serving.connections; i++) gate.accepted()
    serving.#gate = gate
    serving.#adjustRequests()
    return serving.#adjustRequests
  }

  /** @internal The server of a Serving; undefined if a function handles its connections. */
  static serverOf(serving: Serving): net.Server | undefined {
    return serving.#server?.server
  }

  /** @internal Starts serving. */
  static start(
    listeners: readonly Listener[],
    target: net.Server | ConnectionHandler | SecureHandler,
    options: CheckedServeOptions,
  ): Serving {
    const serving = new Serving(listeners, target, options)
    serving.#announceState(undefined)
    return serving
  }

  /** Whether an 'error' event is pending. 'close' must not be emitted before it. */
  #failing = false
  #drained: Promise<DrainReport> | undefined
  #drain: Drain | undefined

  private constructor(
    listeners: readonly Listener[],
    target: net.Server | ConnectionHandler | SecureHandler,
    options: CheckedServeOptions,
  ) {
    super()
    const {
      maxConnections = Number.POSITIVE_INFINITY,
      maxRate = Number.POSITIVE_INFINITY,
      alarm = [],
      signal,
    } = options
    const handshakeTimeout = Math.min(options.handshakeTimeout ?? defaultHandshakeTimeout, longestTimer)
    this.#listeners = new ServedListeners(listeners)
    this.#connections = new ServedConnections(this.#onConnectionReleased)
    this.#maxConnections = maxConnections
    this.#rateLimit = new RateLimit(maxRate, this.#adjustRequests)
    this.#alarms = new Alarms([alarm].flat(), (threshold, connections) =>
      this.emit('alarm', { threshold, connections }),
    )
    const admission = new Admission(handshakeTimeout, (refusal) => this.emit('refused', refusal), this.#advance)
    this.#admission = admission
    let deliver: Deliver
    const handleClasses = new Map<Listener, HandleClass>()
    if (typeof target !== 'function') {
      for (const each of listeners) handleClasses.set(each, handleClassOfSocket(each.fd))
      if (options.handshakeTimeout !== undefined && validate.isTlsServer(target)) {
        const before = setHandshakeTimeout(target, Math.max(handshakeTimeout, 0))
        this.#restoreHandshakeTimeout = () => setHandshakeTimeout(target, before)
      }
      const server = this.#listen(target, handleClasses.get(this.#listeners.first) as HandleClass)
      this.#server = server
      deliver = toServer(server, options.tls, admission)
    } else {
      deliver = toFunction(target, options.tls, admission, (error) => this.emit('error', error))
    }
    if (options.filter !== undefined) deliver = admission.withFilter(options.filter, deliver)
    this.#deliver = options.proxyProtocol === undefined ? deliver : admission.withProxyHeader(options, deliver)
    this.#requests = new RequestPool(listeners, () => this.#room(), {
      context: this.#context,
      onAccepted: (connection, from) => this.#onConnection(connection, handleClasses.get(from)),
      onFailed: this.#onAcceptError,
    })
    this.#listeners.hold((each) => this.#onListenerEnded(each))
    if (signal) this.#cleanups.push(onAbort(signal, () => void this.close()))
    this.#requests.adjust()
  }

  /** The listener, or the first of several. */
  get listener(): Listener {
    return this.#listeners.first
  }

  /** All listeners, in the order in which they were passed to `serve`, including those that are closed by now. */
  get servedListeners(): readonly Listener[] {
    return this.#listeners.all
  }

  get state(): ServingState {
    return this.#state
  }

  /** The number of open connections: accepted, and neither closed nor detached. */
  get connections(): number {
    return this.#connections.all.size
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
    validate.limit('maxConnections', value)
    this.#maxConnections = value
    this.#adjustRequests()
  }

  /**
   * The maximum number of connections that are accepted per second: an integer, or `Infinity` (default). It can be set
   * at any time. 0 accepts none. Setting it throws Node's codes for an invalid value.
   */
  get maxRate(): number {
    return this.#rateLimit.rate
  }

  set maxRate(value: number) {
    validate.limit('maxRate', value)
    this.#rateLimit.rate = value
    this.#adjustRequests()
  }

  /**
   * Serves a connection that another process, thread or Serving accepted, as if this Serving had accepted it: the PROXY
   * header, `filter`, TLS and drain apply. It is served at once, also beyond a limit or while paused, because it cannot
   * wait in an accept queue. It counts towards `maxConnections` and `maxRate`, so fewer clients are accepted. If a
   * function of another Serving has it, it stops counting there. This Serving takes ownership. If this method throws,
   * the caller still owns the connection.
   *
   * Errors: `ERR_SERVING_CLOSED` after the end of serving, `ERR_CONNECTION_CLAIMED`, `ERR_SOCKET_TYPE` (a seqpacket
   * socket, which only a function can serve), and Node's codes for an invalid argument.
   *
   * @example
   * ```js
   * serving.add(Connection.fromFd(fd)) // an fd from another process
   * ```
   */
  add(connection: Connection): void {
    if (!Connection.isConnection(connection)) throw invalidArgType('connection', 'a Connection', connection)
    if (this.#state !== 'serving') throw codedError('ERR_SERVING_CLOSED')
    if (connection.fd < 0) throw codedError('ERR_CONNECTION_CLAIMED')
    const handleClass = this.#server && handleClassOfSocket(connection.fd)
    inCopyOf(this.#context, this.#admit, this, connection, handleClass)
    this.#adjustRequests()
    this.#advance()
  }

  /** Whether `pause()` was called, and `resume()` was not called since. */
  get paused(): boolean {
    return this.#paused
  }

  /**
   * Stops accepting until `resume()`; clients wait in the accept queue. Open connections continue, and connections that
   * were accepted before are still delivered. The server keeps listening, and the Serving keeps the process alive. No
   * effect if already paused.
   */
  pause(): this {
    this.#paused = true
    this.#adjustRequests()
    return this
  }

  /** Accepts again after `pause()`. No effect if not paused. */
  resume(): this {
    this.#paused = false
    this.#adjustRequests()
    return this
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
    if (this.#drained === undefined) {
      // Set before the drain begins, because a handler of 'drain' may call this method again.
      const { promise, resolve } = deferred<DrainReport>()
      this.#drained = promise
      resolve(this.#drainWith(checked))
    }
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
    const { first: listener } = this.#listeners
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
    if (this.#state === 'serving') this.#listeners.keepAlive(keep)
  }

  /** Changes the state; no other method does. Ignores a state that is not later than the current one. */
  #changeState(state: ServingState, closeListener = false): void {
    const before = this.#state
    if (stateOrder[state] <= stateOrder[before]) return
    this.#state = state
    if (before === 'serving') {
      this.#closeListener = closeListener
      this.#stopRequesting()
    }
    // After that, because a subscriber may change the state again: it may close the Serving, for example.
    this.#announceState(before)
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
      this.#requests.adjust()
      return
    }
    // A filter or a handler of 'alarm' may have ended the serving before its own connection is delivered.
    const allDelivered = this.#requests.finished && this.#admission.waiting === 0 && this.#connections.undelivered === 0
    if (!allDelivered || this.#failing) return
    const empty = this.#connections.all.size === 0
    if (this.#state === 'draining' && empty) this.#changeState('closing')
    if (this.#state !== 'closing') return
    this.#listeners.release()
    this.#server?.close()
    if (this.#closeListener) this.#listeners.close()
    if (empty) this.#changeState('closed')
  }

  /** The number of connections that may still be accepted; negative when there are more than the limit allows. */
  #room(): number {
    const room = this.#roomOfOwn()
    return this.#gate === undefined ? room : Math.min(room, this.#gate.room(room > 0))
  }

  #roomOfOwn(): number {
    if (this.#paused) return 0
    const free = this.#maxConnections - this.#connections.all.size
    const room = this.#server === undefined ? free : Math.min(free, this.#server.room - this.#connections.undelivered)
    if (room <= 0) return room
    const { room: tokens } = this.#rateLimit
    if (tokens <= 0) this.#rateLimit.wait()
    return Math.min(room, tokens)
  }

  // Called when a limit, or the number of connections that counts against it, has changed.
  #adjustRequests = (): void => {
    if (this.#state !== 'serving') return
    this.#requests.adjust()
  }

  #stopRequesting(): void {
    this.#listeners.restore()
    this.#requests.stop()
    this.#rateLimit.stop()
  }

  #onConnection(connection: Connection, handleClass: HandleClass | undefined): void {
    this.#admit(connection, handleClass)
    this.#advance()
  }

  #onAcceptError = (error: Error): void => {
    if ((error as CodedError).code === 'ERR_LISTENER_CLOSED') this.#closeWithoutListeners()
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

  #admit(connection: Connection, handleClass: HandleClass | undefined): void {
    this.#rateLimit.take()
    // A subscriber of async-accept.connection has claimed it. Its end would not be reported, so it must not be counted.
    if (connection.fd < 0) {
      const { remoteAddress, remotePort } = connection
      const error = codedError('ERR_CONNECTION_CLAIMED')
      runSafely(() => this.emit('refused', { error, remoteAddress, remotePort }))
      return
    }
    const served = new ServedConnection(connection, this.#connections, handleClass)
    this.#gate?.accepted()
    this.#alarms.check(this.#connections.all.size)
    runSafely(() => this.#deliver(connection, served))
    this.#drain?.add(served)
  }

  #onConnectionReleased = (): void => {
    this.#gate?.released()
    if (this.#state === 'serving') this.#advance()
    // Advance in the next tick: http.Server.close() may be closing this idle connection, and must not be called
    // recursively.
    else process.nextTick(this.#advance)
  }

  // The server was closed, by this Serving or by the application, or it was moved to a worker thread.
  #onServerEnded = (how: 'closed' | 'moved'): void => {
    // Restore the timeout synchronously: the application may serve the server again in the same tick, with another
    // timeout.
    this.#restoreHandshakeTimeout?.()
    this.#listeners.release()
    this.#changeState('closing', how === 'closed')
    if (how === 'closed' && this.#closeListener) this.#listeners.close()
  }

  // Called by listener.close() and listener.detach(). Closes the server's copy of the fd, so that the port is free when
  // close() returns. The accept requests fail in the next tick, so the state changes then. A drain continues.
  #onListenerEnded(listener: Listener): void {
    if (listener === this.#listeners.first) this.#server?.releaseFd()
    process.nextTick(() => {
      if (this.#state === 'serving') this.#closeWithoutListeners()
    })
  }

  // A listener has ended. The others continue, and share the room of all.
  #closeWithoutListeners(): void {
    if (this.#listeners.ended) this.#changeState('closing', true)
    else this.#adjustRequests()
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
    const target = { server: this.#server?.server, connections: this.#connections.all, admission: this.#admission }
    const drain = new Drain(target, options)
    this.#drain = drain
    runSafely(() => this.emit('drain'))
    await this.#closed.promise
    return drain.finish()
  }
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T | PromiseLike<T>) => void } {
  let resolve: (value: T | PromiseLike<T>) => void = () => {}
  const promise = new Promise<T>((fulfil) => {
    resolve = fulfil
  })
  return { promise, resolve }
}
