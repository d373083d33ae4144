import { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import type { ServerHttp2Session } from 'node:http2'
import net from 'node:net'
import tls from 'node:tls'
import { onAbort } from './abort.js'
import { Admission, type Give, type Refusal } from './admission.js'
import { inspect } from './adopt.js'
import { binding } from './binding.js'
import { Connection } from './connection.js'
import { deadline, longestTimer } from './deadline.js'
import { checkDrainOptions, type DrainOptions, type DrainReport, type EndOptions, WindDown } from './drain.js'
import { type CodedError, codedError, runSafely, type SystemError } from './errors.js'
import type { AcceptRef, AcceptResult, Listener } from './listener.js'
import {
  giveSocket,
  type Handle,
  type HandleClass,
  handleClassFor,
  listenThrough,
  type ServerHandle,
  setHandshakeTimeout,
} from './node-internals.js'
import type { ConnectionHandler, SecureHandler, ServeOptions } from './serve.js'
import { Served } from './served.js'
import * as validate from './validate.js'

export interface ServingEvents {
  alarm: [{ threshold: number; connections: number }]
  /** A connection was closed before the server got it. */
  refused: [Refusal]
  /** `drain()` was called: the time to say goodbye in a protocol that this package does not know. */
  drain: []
  /** What a handler threw or rejected with, or an error of accept(2) that ends serving. */
  error: [Error]
  /** No connection is left, and none will come. */
  close: []
}

const defaultHandshakeTimeout = 10_000
const defaultCooldown = 5_000

// Requests that are outstanding at once, at most: as many as a listener accepts before other I/O has its turn.
const mostOutstanding = 64

// ms, when there is no memory for a request.
const askAgainAfter = 100

type EventListener = Parameters<EventEmitter['on']>[1]

/** A server, or a function, that gets the connections of a listener. Made by {@link serve}. */
export class Serving extends EventEmitter<ServingEvents> {
  readonly listener: Listener
  readonly #server: net.Server | undefined
  readonly #handle: ServerHandle | undefined
  readonly #give: Give
  readonly #refs = new Set<AcceptRef>()
  readonly #live = new Set<Served>()
  readonly #sessions = new Set<ServerHttp2Session>()
  readonly #secure = new Set<tls.TLSSocket>()
  readonly #alarms: { threshold: number; cooldown: number; silentUntil: number }[]
  readonly #admission: Admission
  readonly #undo: (() => void)[] = []
  readonly #stopped = deferred()
  readonly #serverClosed = deferred()
  readonly #closed = deferred()
  #maxConnections: number
  #asking = true
  /** The server's `unref()` is the listener's for as long as it is served. */
  #unreferenced = false
  #restoreTimeout: (() => void) | undefined
  #finished = false
  #closeListener = true
  #drained: Promise<DrainReport> | undefined
  #later: NodeJS.Timeout | undefined

  /** @internal Servings come from `serve`. */
  constructor(listener: Listener, target: net.Server | ConnectionHandler | SecureHandler, options: ServeOptions) {
    super()
    const { maxConnections = Number.POSITIVE_INFINITY, alarm = [], signal } = options
    const handshakeTimeout = Math.min(options.handshakeTimeout ?? defaultHandshakeTimeout, longestTimer)
    this.listener = listener
    this.#maxConnections = maxConnections
    this.#alarms = [alarm].flat().map(({ threshold, cooldown = defaultCooldown }) => ({
      threshold,
      cooldown,
      silentUntil: Number.NEGATIVE_INFINITY,
    }))
    const admission = new Admission(handshakeTimeout, (refusal) => this.emit('refused', refusal), this.#next)
    this.#admission = admission
    let give: Give
    if (target instanceof net.Server) {
      // Now, because it needs an fd for a moment.
      const HandleClass = handleClassFor(streamDomain(listener))
      const handle = this.#listen(target, listener.address() as net.AddressInfo | string)
      if (options.handshakeTimeout !== undefined && target instanceof tls.Server) {
        const before = setHandshakeTimeout(target, Math.max(handshakeTimeout, 0))
        this.#restoreTimeout = () => setHandshakeTimeout(target, before)
      }
      this.#server = target
      this.#handle = handle
      // One that was closed meanwhile by its owner gets nobody: like the backlog then, they are reset.
      give =
        options.tls === undefined
          ? (connection) =>
              target.listening ? handle.onconnection(0, toHandle(connection, HandleClass)) : connection.reset()
          : this.#secured(options.tls, (socket) => (target.listening ? giveSocket(target, socket) : socket.destroy()))
    } else {
      const call: Give<never> = (argument, served) => this.#call(target, argument, served)
      this.#serverClosed.resolve()
      give = options.tls === undefined ? (call as Give) : this.#secured(options.tls, call as Give<tls.TLSSocket>)
    }
    this.#give = options.proxyProtocol === undefined ? give : admission.introduced(options, give)
    // A server's handlers run in the asynchronous context in which it was made to listen.
    this.#on(listener, 'accept', AsyncResource.bind(this.#onAccept) as EventListener)
    this.#on(listener, 'close', () => this.#finish(true))
    if (signal) this.#undo.push(onAbort(signal, () => void this.close()))
    this.#ask()
  }

  /** How many there are: accepted, and neither closed nor detached. */
  get connections(): number {
    return this.#live.size
  }

  /**
   * May be changed while it serves. Under a lower one nobody is cut off, and nobody is accepted until there are fewer; 0
   * pauses.
   */
  get maxConnections(): number {
    return this.#maxConnections
  }

  set maxConnections(value: number) {
    checkLimit('maxConnections', value)
    this.#maxConnections = value
    this.#withdraw(this.#live.size + this.#refs.size - this.#limit())
    this.#ask()
  }

  /**
   * Stops accepting, and closes the server (`server.close()`); its connections go on. Resolves when none is left. The
   * listener stays open unless told otherwise. The second call changes nothing, and waits for the same.
   */
  close(options: EndOptions = {}): Promise<void> {
    checkEndOptions(options)
    this.#finish(options.closeListener === true)
    return this.#closed.promise
  }

  /**
   * Stops accepting, and lets what is under way come to its end. HTTP/1 requests whose handler has run are answered, the
   * last of each connection with `Connection: close`. Idle connections, and those without a whole request, are ended after
   * a grace. HTTP/2 clients get a GOAWAY and finish their streams. For another protocol there is the 'drain' event. At the
   * deadline what is left is destroyed. Then the server is closed; the listener stays open unless told otherwise. The
   * second call changes nothing, and gives the same promise.
   */
  drain(options: DrainOptions = {}): Promise<DrainReport> {
    checkEndOptions(options)
    const checked = checkDrainOptions(options)
    this.#drained ??= this.#drain(checked)
    return this.#drained
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #listen(server: net.Server, address: net.AddressInfo | string): ServerHandle {
    const { listener } = this
    const handle = listenThrough(server, {
      get fd() {
        return listener.fd
      },
      address,
      ref: () => this.#keepAlive(true),
      unref: () => this.#keepAlive(false),
      closed: () => this.#onServerClosing(),
    })
    this.#on(server, 'close', this.#serverClosed.resolve)
    this.#on(server, 'session', (session: ServerHttp2Session) => remember(this.#sessions, session))
    if (server instanceof tls.Server) {
      this.#on(server, 'secureConnection', (socket: tls.TLSSocket) => remember(this.#secure, socket))
      // Node leaves it open.
      this.#on(server, 'tlsClientError', (error: CodedError, socket: tls.TLSSocket) => {
        if (error.code === 'ERR_TLS_HANDSHAKE_TIMEOUT') socket.destroy()
      })
    }
    return handle
  }

  #keepAlive(keep: boolean): void {
    if (!this.#asking) return
    this.#unreferenced = !keep
    if (keep) this.listener.ref()
    else this.listener.unref()
  }

  #on(emitter: EventEmitter, event: string, run: EventListener): void {
    emitter.on(event, run)
    this.#undo.push(() => emitter.off(event, run))
  }

  #limit(): number {
    return Math.min(this.#maxConnections, this.#server?.maxConnections ?? Number.POSITIVE_INFINITY)
  }

  #ask(): void {
    if (!this.#asking || this.listener.fd < 0) return
    const room = Math.min(mostOutstanding, this.#limit() - this.#live.size)
    try {
      while (this.#refs.size < room) this.#refs.add(this.listener.asyncAccept())
    } catch {
      // There is no memory for a request, and perhaps nothing left whose end would ask again.
      this.#later ??= setTimeout(() => {
        this.#later = undefined
        this.#ask()
      }, askAgainAfter)
    }
  }

  // Of requests that are being delivered at this moment the connections still come.
  #withdraw(count: number): void {
    if (count <= 0) return
    for (const ref of [...this.#refs].slice(-count)) {
      if (this.listener.cancel(ref)) this.#refs.delete(ref)
    }
  }

  #onAccept = ({ ref, connection, error }: AcceptResult): void => {
    if (!this.#refs.delete(ref)) return
    if (connection !== undefined) this.#take(connection)
    else this.#onAcceptError(error as SystemError)
    this.#next()
  }

  #onAcceptError(error: SystemError): void {
    if (!this.#asking) return
    const closed = error.code === 'ERR_LISTENER_CLOSED'
    this.#finish(closed)
    if (closed) return
    // As Node does when its own accept fails.
    queueMicrotask(() => (this.#handle ? this.#handle.onconnection(error.errno) : this.emit('error', error)))
  }

  // A connection has come or gone: there may be room, or nothing left.
  #next = (): void => {
    if (this.#asking) {
      this.#ask()
    } else if (this.#refs.size === 0) {
      if (this.#admission.waiting === 0) this.#endServer()
      if (this.#live.size === 0) this.#stopped.resolve()
    }
  }

  #take(connection: Connection): void {
    const served = new Served(connection, this.#live, this.#next)
    for (const alarm of this.#alarms) this.#sound(alarm)
    runSafely(() => this.#give(connection, served))
  }

  #sound(alarm: { threshold: number; cooldown: number; silentUntil: number }): void {
    const connections = this.#live.size
    if (connections < alarm.threshold) return
    const now = performance.now()
    if (now < alarm.silentUntil) return
    alarm.silentUntil = now + alarm.cooldown
    runSafely(() => this.emit('alarm', { threshold: alarm.threshold, connections }))
  }

  #call(handler: ConnectionHandler | SecureHandler, argument: never, served: Served): void {
    const fail = (error: Error) => {
      // Cut off by drain(): that is why.
      if (served.destroyed) return
      served.destroy()
      queueMicrotask(() => this.emit('error', error))
    }
    try {
      const result: unknown = handler(argument)
      if (result instanceof Promise) result.catch(fail)
    } catch (error) {
      fail(error as Error)
    }
  }

  #secured(options: tls.TlsOptions | tls.Server, give: Give<tls.TLSSocket>): Give {
    return this.#admission.secured(options, (socket, served) => {
      remember(this.#secure, socket)
      give(socket, served)
    })
  }

  #stop(): void {
    if (!this.#asking) return
    // Whoever serves next has a ref() and an unref() of its own.
    if (this.#unreferenced) this.#keepAlive(true)
    this.#asking = false
    clearTimeout(this.#later)
    this.#withdraw(this.#refs.size)
    this.#next()
  }

  // Somebody calls server.close(), or #endServer does.
  #onServerClosing(): void {
    // Not later: whoever hears of it may serve the server anew, with another.
    this.#restoreTimeout?.()
    if (this.#closeListener) this.listener.close()
    this.#finish(this.#closeListener)
  }

  #finish(closeListener: boolean): void {
    if (this.#finished) return
    this.#finished = true
    this.#closeListener = closeListener
    if (this.#asking) this.#stop()
    else this.#next()
    Promise.all([this.#stopped.promise, this.#serverClosed.promise]).then(() => {
      for (const undo of this.#undo) undo()
      this.#closed.resolve()
      runSafely(() => this.emit('close'))
    })
  }

  // When it has got all that was accepted.
  #endServer(): void {
    if (!this.#finished) return
    if (this.#server?.listening) this.#server.close()
    if (this.#closeListener) this.listener.close()
  }

  async #drain({ timeout, closeListener, ...graces }: Required<DrainOptions>): Promise<DrainReport> {
    const started = performance.now()
    const all = new Set(this.#live)
    let cut: Served[] = []
    this.#stop()
    const serves = {
      connections: this.#live,
      admission: this.#admission,
      sessions: this.#sessions,
      secure: this.#secure,
    }
    const windDown = new WindDown({ server: this.#server, ...serves }, graces)
    runSafely(() => this.emit('drain'))
    const cutOff = () => {
      const left = [...this.#live]
      cut = left.filter((served) => !windDown.hasEnded(served))
      this.#admission.cutOff()
      // So that a close_notify is on its way when the socket goes.
      for (const socket of this.#secure) socket.end()
      setImmediate(() => {
        for (const served of left) served.destroy()
      })
    }
    const timer = deadline(timeout, cutOff)
    // What was accepted in the event that we may be in.
    process.nextTick(() => {
      for (const served of this.#live) all.add(served)
    })
    await this.#stopped.promise
    clearTimeout(timer)
    windDown.stop()
    await this.close({ closeListener })
    for (const served of cut) all.delete(served)
    return { ...windDown.report(all), destroyed: cut.length, elapsed: performance.now() - started }
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

interface Closable {
  once(event: 'close', run: () => void): unknown
}

/** Has it in the set for as long as it is open. */
function remember<T extends Closable>(set: Set<T>, item: T): void {
  set.add(item)
  item.once('close', () => set.delete(item))
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => {}
  const promise = new Promise<void>((fulfil) => {
    resolve = fulfil
  })
  return { promise, resolve }
}

export function checkLimit(name: string, value: unknown): void {
  if (value !== Number.POSITIVE_INFINITY) validate.integer(name, value, 0, Number.MAX_SAFE_INTEGER)
}

function checkEndOptions(options: EndOptions): void {
  validate.object('options', options)
  validate.optionalBoolean('options.closeListener', options.closeListener)
}
