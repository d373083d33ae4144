import { EventEmitter } from 'node:events'
import type net from 'node:net'
import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import { Listener } from '../accept/listener.js'
import { onAbort } from '../core/abort.js'
import { binding } from '../core/binding.js'
import { longestTimer } from '../core/deadline.js'
import { type CodedError, codedError, runSafely, type SystemError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'
import { type Handle, type HandleClass, handleClassFor, setHandshakeTimeout } from '../core/node-internals.js'
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
import { type ConnectionHandler, checkLimit, type SecureHandler, type ServeOptions } from './options.js'
import { ServedConnection, trackUpgrades } from './served-connection.js'
import { ServerHandle } from './server-handle.js'

export interface ServingEvents {
  alarm: [{ threshold: number; connections: number }]
  /** A connection was closed before the server got it. */
  refused: [Refusal]
  /** `drain()` was called: the time to say goodbye in a protocol that this package does not know. */
  drain: []
  /** What a handler threw or rejected with, or an error of accept(2) that ends serving. */
  error: [Error]
  /** No connection of this Serving is left. */
  close: []
}

const defaultHandshakeTimeout = 10_000
/**
 * Where a {@link Serving} is in its life; it only goes forward. `'serving'`: it accepts when there is room. `'draining'`:
 * `drain()` was called; it accepts nothing, and the server still listens. `'closing'`: the server is closed, or is as soon as
 * it has got what was accepted; connections are left. `'closed'`: none is left.
 */
export type ServingState = 'serving' | 'draining' | 'closing' | 'closed'

const order: Record<ServingState, number> = { serving: 0, draining: 1, closing: 2, closed: 3 }

/** A server, or a function, that gets the connections of a listener. Made by {@link serve}. */
export class Serving extends EventEmitter<ServingEvents> {
  readonly listener: Listener
  readonly #server: ServerHandle | undefined
  readonly #deliver: Deliver
  readonly #requests: AcceptRequests
  readonly #live = new Set<ServedConnection>()
  readonly #alarms: Alarms
  readonly #admission: Admission
  readonly #undo: (() => void)[] = []
  readonly #closed = deferred()
  #state: ServingState = 'serving'
  #maxConnections: number
  /** Live connections that the server has not got yet. */
  #waiting = 0
  /** The server's `unref()` is the listener's for as long as it is served. */
  #unreferenced = false
  #release: (() => void) | undefined
  #restoreTimeout: (() => void) | undefined
  /** Whether the end of serving closes the listener; the first call that ends it decides. */
  #closeListener = false
  /** An 'error' event is to come, and 'close' must not come before it. */
  #failing = false
  #drained: Promise<DrainReport> | undefined
  #drain: Drain | undefined

  /** @internal Servings come from `serve`. */
  constructor(listener: Listener, target: net.Server | ConnectionHandler | SecureHandler, options: ServeOptions) {
    super()
    const { maxConnections = Number.POSITIVE_INFINITY, alarm = [], signal } = options
    const handshakeTimeout = Math.min(options.handshakeTimeout ?? defaultHandshakeTimeout, longestTimer)
    this.listener = listener
    this.#maxConnections = maxConnections
    this.#alarms = new Alarms([alarm].flat(), (threshold, each) => this.emit('alarm', { threshold, connections: each }))
    const admission = new Admission(handshakeTimeout, (refusal) => this.emit('refused', refusal), this.#next)
    this.#admission = admission
    let deliver: Deliver
    if (typeof target !== 'function') {
      const HandleClass = handleClassFor(streamDomain(listener))
      const server = this.#listen(target, HandleClass)
      if (options.handshakeTimeout !== undefined && validate.isTlsServer(target)) {
        const before = setHandshakeTimeout(target, Math.max(handshakeTimeout, 0))
        this.#restoreTimeout = () => setHandshakeTimeout(target, before)
      }
      this.#server = server
      // The server may have been closed since the accept. Like the backlog then, the connection is reset.
      deliver =
        options.tls === undefined
          ? (connection, served) => {
              this.#delivered(served)
              if (server.listening) server.connect(toHandle(connection, HandleClass))
              else connection.reset()
            }
          : this.#secured(options.tls, (socket, served) => {
              this.#delivered(served)
              if (server.listening) server.adopt(socket)
              else socket.destroy()
            })
    } else {
      const call: Deliver<never> = (argument, served) => this.#call(target, argument, served)
      deliver =
        options.tls === undefined ? (call as Deliver) : this.#secured(options.tls, call as Deliver<tls.TLSSocket>)
    }
    this.#deliver = options.proxyProtocol === undefined ? deliver : admission.introduced(options, deliver)
    // A server's handlers run in the asynchronous context in which it was made to listen.
    this.#requests = new AcceptRequests(listener, () => this.#room(), this.#onConnection, this.#onAcceptError)
    this.#release = Listener.hold(listener, this.#onListenerEnded)
    if (signal) this.#undo.push(onAbort(signal, () => void this.close()))
    this.#requests.ask()
  }

  /** Where it is in its life. */
  get state(): ServingState {
    return this.#state
  }

  /** How many there are: accepted, and neither closed nor detached. */
  get connections(): number {
    return this.#live.size
  }

  /**
   * The limit of open connections. It may be set at any time. A lower limit closes no connection, and none is accepted until
   * there are fewer; 0 pauses.
   */
  get maxConnections(): number {
    return this.#maxConnections
  }

  set maxConnections(value: number) {
    checkLimit('maxConnections', value)
    this.#maxConnections = value
    this.#fitRequests()
  }

  /**
   * Stops accepting, and closes the server (`server.close()`); its connections go on. Resolves when none of those that this
   * Serving accepted is left; connections that the server has from elsewhere, or from another Serving, are not waited for.
   * The listener stays open unless told otherwise. The first call that ends serving, of `close`, `drain`, `server.close()` and
   * `listener.close()`, decides what becomes of the listener. The second call waits for the same.
   */
  close(options: EndOptions = {}): Promise<void> {
    this.#enter('closing', readEndOptions(options).closeListener)
    return this.#closed.promise
  }

  /**
   * Stops accepting, and lets what is under way come to its end. HTTP/1 requests whose handler has run are answered, the
   * last of each connection with `Connection: close`. Idle connections, and those without a whole request, are ended after
   * a grace. HTTP/2 clients get a GOAWAY and finish their streams. For another protocol there is the 'drain' event. At the
   * deadline what is left is destroyed. Then the server is closed; the listener stays open unless told otherwise. The
   * second call changes nothing, and gives the same promise. Behind `close()` it does the same for the connections that are
   * left.
   */
  drain(options: DrainOptions = {}): Promise<DrainReport> {
    const checked = readDrainOptions(options)
    this.#drained ??= this.#drainWith(checked)
    return this.#drained
  }

  /** While it serves it keeps the process alive, as a listening server does; the default. */
  ref(): this {
    if (this.#server) this.#server.ref()
    else this.#keepAlive(true)
    return this
  }

  /** It does not keep the process alive. */
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
    const handle = new ServerHandle(server, HandleClass, socket, {
      ref: () => this.#keepAlive(true),
      unref: () => this.#keepAlive(false),
      ended: this.#onServerEnded,
      roomChanged: this.#fitRequests,
    })
    this.#undo.push(trackUpgrades(server))
    return handle
  }

  #keepAlive(keep: boolean): void {
    if (this.#state !== 'serving') return
    this.#unreferenced = !keep
    if (keep) this.listener.ref()
    else this.listener.unref()
  }

  /** The one place where the state changes. */
  #enter(state: ServingState, closeListener = false): void {
    const before = this.#state
    if (order[state] <= order[before]) return
    this.#state = state
    if (before === 'serving') {
      this.#closeListener = closeListener
      this.#stopAsking()
    }
    if (state === 'closed') this.#finish()
    else this.#next()
  }

  // A connection has come or gone, or the state is another one: what there is to do then.
  #next = (): void => {
    if (this.#state === 'serving') {
      this.#requests.ask()
      return
    }
    const delivered = this.#requests.size === 0 && this.#admission.waiting === 0
    if (!delivered || this.#failing) return
    const empty = this.#live.size === 0
    if (this.#state === 'draining' && empty) this.#enter('closing')
    if (this.#state !== 'closing') return
    this.#release?.()
    this.#server?.close()
    if (this.#closeListener) this.listener.close()
    if (empty) this.#enter('closed')
  }

  /** How many more connections may be accepted. */
  #room(): number {
    const room = this.#maxConnections - this.#live.size
    return this.#server === undefined ? room : Math.min(room, this.#server.room - this.#waiting)
  }

  // There is more room, or less.
  #fitRequests = (): void => {
    if (this.#state !== 'serving') return
    this.#requests.fit()
  }

  #stopAsking(): void {
    // The next Serving has a ref() and an unref() of its own.
    if (this.#unreferenced) this.listener.ref()
    this.#requests.stop()
  }

  #onConnection = (connection: Connection): void => {
    this.#take(connection)
    this.#next()
  }

  #onAcceptError = (error: Error): void => {
    if ((error as CodedError).code === 'ERR_LISTENER_CLOSED') this.#enter('closing', true)
    else if (this.#state === 'serving') this.#fail(error as SystemError)
    this.#next()
  }

  // No accept can succeed any more.
  #fail(error: SystemError): void {
    this.#failing = true
    this.#enter('closing')
    queueMicrotask(() => {
      try {
        // As Node does when its own accept fails.
        if (this.#server?.listening) this.#server.fail(error.errno)
        else this.emit('error', error)
      } finally {
        this.#failing = false
        this.#next()
      }
    })
  }

  #take(connection: Connection): void {
    const served = new ServedConnection(connection, this.#live, this.#onGone)
    this.#waiting++
    this.#alarms.check(this.#live.size)
    runSafely(() => this.#deliver(connection, served))
    this.#drain?.add(served)
  }

  #delivered(served: ServedConnection): void {
    if (!served.waiting) return
    served.waiting = false
    this.#waiting--
  }

  #onGone = (served: ServedConnection): void => {
    this.#delivered(served)
    if (this.#state === 'serving') this.#next()
    // Later, because http.Server.close() ends idle connections, and must not be called within itself.
    else process.nextTick(this.#next)
  }

  #call(handler: ConnectionHandler | SecureHandler, argument: never, served: ServedConnection): void {
    this.#delivered(served)
    const fail = (error: Error) => {
      // Cut off by drain(): that is why.
      if (served.destroyed) return
      served.destroy()
      queueMicrotask(() => this.emit('error', error))
    }
    try {
      // Any class of promises will do, and its `then` may throw.
      Promise.resolve(handler(argument)).catch(fail)
    } catch (error) {
      fail(error as Error)
    }
  }

  #secured(options: tls.TlsOptions | tls.Server, deliver: Deliver<tls.TLSSocket>): Deliver {
    return this.#admission.secured(options, (socket, served) => {
      served.secure = socket
      deliver(socket, served)
    })
  }

  // By server.close(), whether we or others call it, or by a move of the server to a thread.
  #onServerEnded = (how: 'closed' | 'moved'): void => {
    // Not later: the server may be served anew, with another deadline, before anything else happens.
    this.#restoreTimeout?.()
    this.#release?.()
    this.#enter('closing', how === 'closed')
    if (how === 'closed' && this.#closeListener) this.listener.close()
  }

  // Within listener.close(): the port is free when it returns. The requests fail in the next tick. A drain goes on.
  #onListenerEnded = (): void => {
    this.#server?.releaseFd()
    process.nextTick(() => {
      if (this.#state === 'serving') this.#enter('closing', true)
    })
  }

  #finish(): void {
    for (const undo of this.#undo) undo()
    // Node emits 'close' of the server in a tick that begins after the end of its last socket.
    process.nextTick(() =>
      process.nextTick(() => {
        this.#closed.resolve()
        runSafely(() => this.emit('close'))
      }),
    )
  }

  async #drainWith(options: Required<DrainOptions>): Promise<DrainReport> {
    this.#enter('draining', options.closeListener)
    const target = { server: this.#server?.server, connections: this.#live, admission: this.#admission }
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
  if (type !== binding.constants.SOCK_STREAM) throw codedError('ERR_SOCKET_TYPE', 'a server needs a stream')
  return domain as number
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => {}
  const promise = new Promise<void>((fulfil) => {
    resolve = fulfil
  })
  return { promise, resolve }
}
