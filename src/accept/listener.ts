import { EventEmitter } from 'node:events'
import type { AddressInfo } from 'node:net'
import { constants } from 'node:os'
import { type Backlog, binding, type ListenerHandle, type ListenerStats } from '../core/binding.js'
import { brand } from '../core/brand.js'
import { type CallSite, callSite } from '../core/call-site.js'
import { check, codedError, fdError, invalidArgType, runSafely, type SystemError, systemError } from '../core/errors.js'
import { adopt, inspectStream } from '../core/inspect.js'
import { showAs } from '../core/show.js'
import { trace } from '../core/trace.js'
import * as validate from '../core/validate.js'
import { warn, warningOf } from '../core/warning.js'
import { type BoundAddress, textOf } from './bound-address.js'
import type { Connection } from './connection.js'
import { type AcceptRef, type AcceptResult, inOwnContext, type Requester } from './delivery.js'
import { capacityPauseChannel } from './diagnostics.js'
import { iterateConnections } from './iterate-connections.js'
import { open, readOpenOptions } from './open.js'
import {
  type AcceptingOptions,
  type AcceptOptions,
  type ConnectionsOptions,
  type FromFdOptions,
  fromFdNames,
  type ListenOptions,
  listenNames,
  type RequestOptions,
  readAcceptingOptions,
  readConnectionsOptions,
  readRequestOptions,
  unlimitedRequest,
} from './options.js'
import { OutstandingRequests } from './outstanding-requests.js'
import { type InheritedOptions, readSocketOptions, setSocketOptions } from './sockopt.js'

/**
 * A pause in accepting, usually due to a shortage of fds or memory. Requests stay outstanding, and accepting resumes by
 * itself.
 */
export interface CapacityPause {
  /**
   * The error of accept(2): `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM` or `ENOSR`; or the last of 256 other errors in a
   * row.
   */
  error: SystemError
  /** The time in ms until the next attempt; 0 if clients are reset instead (`onFdLimit: 'reset'`). */
  delay: number
  /** The number of outstanding requests. */
  pending: number
}

/**
 * The message of the diagnostics channel `async-accept.connection`, published before the program gets the connection.
 */
export interface ConnectionMessage {
  listener: Listener
  connection: Connection
}

/** The message of the diagnostics channel `async-accept.capacity-pause`. */
export interface CapacityPauseMessage extends CapacityPause {
  listener: Listener
}

/** The events of a Listener, with the arguments of their handlers. */
export interface ListenerEvents {
  accept: [AcceptResult]
  capacityPause: [CapacityPause]
  close: []
}

// Accepting takes about 8 us per connection, so a full batch occupies the event loop for about 0.5 ms.
const defaultMaxBatch = 64

// This registry only emits a warning. The native handle is garbage collected together with its Listener, and then
// closes the fd.
const unclosed = new FinalizationRegistry((where: string) => {
  const message = `Closing a Listener that became unreachable: ${where}. Keep a reference to it until you call close()`
  warn(warningOf('ASYNC_ACCEPT_UNCLOSED_LISTENER', message))
})

/**
 * A listening socket that accepts one connection per request, and none without a request. Other clients wait in the
 * kernel's accept queue (backlog). Requests are fulfilled in the order in which they were made, regardless of the
 * method that made them.
 *
 * The listener owns the listening fd until `close()` or `detach()`. It keeps the process alive only while a request is
 * outstanding or `serve` uses it, and never after `unref()`.
 */
export class Listener extends EventEmitter<ListenerEvents> implements AsyncIterable<Connection> {
  readonly #handle: ListenerHandle
  readonly #address: BoundAddress
  readonly #requests: OutstandingRequests
  readonly #holders = new Set<() => void>()
  #fd: number
  #closed: Promise<void> | undefined

  static {
    brand(Listener, 'Listener')
    showAs(Listener, 'Listener', (listener) => ({
      fd: listener.#fd,
      address: listener.#address,
      state: listener.#closed === undefined ? 'listening' : 'closed',
      pending: listener.pending,
    }))
  }

  /**
   * @internal Returns whether a value is a Listener of this copy of the package. Returns false for a Proxy, which has
   * no private fields.
   */
  static isListener(value: unknown): value is Listener {
    return typeof value === 'object' && value !== null && #handle in value
  }

  private constructor(fd: number, options: AcceptingOptions & InheritedOptions) {
    super()
    const { address, port, family } = check(binding.localAddress(fd), 'getsockname')
    this.#address = port === undefined ? address : ({ address, family, port } as AddressInfo)
    const where = textOf(this.#address)
    const { noDelay, keepAlive, keepAliveInitialDelay, highWaterMark } = options
    this.#handle = newHandle()
    this.#requests = new OutstandingRequests({
      emitter: this,
      handle: this.#handle,
      address: this.#address,
      source: { where: `accepted on ${where}`, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark },
      onCapacityPause: (error, delay) => this.#emitPause(error, delay),
    })
    const { maxBatch = defaultMaxBatch, onFdLimit = 'hold' } = options
    const error = this.#requests.open(fd, maxBatch, onFdLimit === 'reset')
    // EEXIST: another handle of this event loop, for example of a net.Server, already polls the fd.
    if (error === -constants.errno.EEXIST) throw fdError('ERR_FD_IN_USE', fd)
    check(error, 'poll')
    this.#fd = fd
    unclosed.register(this, `fd ${fd}, ${where}`, this)
    trace?.('listener on %s: open, fd %d', where, fd)
  }

  /**
   * Opens a listening socket, which the returned listener owns. A number is the `port`, with the defaults of all other
   * options.
   *
   * Errors: those of socket(2), bind(2) and listen(2), such as `EADDRINUSE` and `EACCES`; those of setsockopt(2), with
   * the name of the option; those of resolving `host`, such as `ENOTFOUND`; `ERR_SOCKET_BAD_PORT`.
   *
   * @example
   * ```js
   * const listener = await Listener.listen({ port: 3000 })
   * ```
   */
  static async listen(options: ListenOptions | number = {}): Promise<Listener> {
    const given = typeof options === 'number' ? { port: options } : options
    if (typeof given !== 'object') throw invalidArgType('options', 'an object or a port number', options)
    validate.options('options', given, listenNames)
    const wanted = { ...readOpenOptions(given), ...readAcceptingOptions(given) }
    const fd = await open(wanted)
    try {
      return new Listener(fd, wanted)
    } catch (error) {
      binding.close(fd)
      throw error
    }
  }

  /**
   * Takes ownership of `fd`, a listening stream or seqpacket socket. With `dup: true`, borrows the fd and owns a
   * duplicate. Makes the fd close-on-exec and non-blocking; non-blocking mode affects all processes that share the
   * socket. On failure the caller still owns the fd. If setsockopt(2) has failed, these flags and the options that were
   * set before the failure remain.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_FAMILY`, `ERR_SOCKET_TYPE`,
   * `ERR_SOCKET_CONNECTED`, `ERR_SOCKET_NOT_LISTENING`, `ERR_FD_IN_USE`; with `dup` `EMFILE`; those of setsockopt(2),
   * with the name of the option.
   *
   * @example
   * ```js
   * const listener = Listener.fromFd(3) // the first socket of systemd socket activation
   * ```
   */
  static fromFd(fd: number, options: FromFdOptions = {}): Listener {
    validate.options('options', options, fromFdNames)
    const { dup } = options
    validate.optionalBoolean('options.dup', dup)
    const wanted = { ...readSocketOptions(options), ...readAcceptingOptions(options) }
    const { listening, connected, domain } = inspectStream(fd)
    if (connected) throw fdError('ERR_SOCKET_CONNECTED', fd)
    if (!listening) throw fdError('ERR_SOCKET_NOT_LISTENING', fd)
    let own = fd
    if (dup) own = check(binding.duplicate(fd), 'fcntl', { fd })
    else adopt(fd)
    try {
      const { AF_UNIX, AF_INET6 } = binding.constants
      if (domain !== AF_UNIX) setSocketOptions(own, wanted, domain === AF_INET6)
      return new Listener(own, wanted)
    } catch (error) {
      if (dup) binding.close(own)
      else binding.release(own)
      throw error
    }
  }

  /**
   * @internal Requests one connection for `requester`, whose methods must not throw. No 'accept' event is emitted for
   * the request, and `cancel` does not cancel it. Throws the errors of `asyncAccept`.
   */
  static request(listener: Listener, requester: Requester): AcceptRef {
    return listener.#requests.askFor(unlimitedRequest, requester)
  }

  /** @internal Withdraws a request made with `request`. Returns false if its result has been or is being delivered. */
  static withdraw(listener: Listener, ref: AcceptRef): boolean {
    return listener.#requests.withdraw(ref)
  }

  /**
   * @internal Makes the listener keep the process alive even without a request, as a listening net.Server does, until
   * the returned function is called. `close()` and `detach()` call `ended`, which must not throw.
   */
  static hold(listener: Listener, ended: () => void): () => void {
    const holders = listener.#holders
    holders.add(ended)
    listener.#handle.hold(true)
    return () => {
      holders.delete(ended)
      if (holders.size === 0) listener.#handle.hold(false)
    }
  }

  /**
   * Requests one connection and returns the ref of the request. The result is emitted later as an 'accept' event with
   * this ref, never before this method returns.
   *
   * `timeout` is in ms from the call. Negative (the default): no timeout. 0: accept only a client that is already in
   * the backlog.
   *
   * Errors in the result: `ERR_ACCEPT_TIMEOUT` after the timeout; `ERR_LISTENER_CLOSED` if the listener is closed
   * first; a fatal error of accept(2), after which no further attempt can succeed.
   *
   * Throws `ERR_LISTENER_CLOSED`, or `ENOMEM` if there is no memory for the request.
   *
   * @example
   * ```js
   * listener.on('accept', ({ ref, connection, error }) => {})
   * const ref = listener.asyncAccept(10_000)
   * ```
   */
  asyncAccept(timeout = -1): AcceptRef {
    return this.#requests.ask(validate.timeout('timeout', timeout))
  }

  /**
   * Requests one connection. The promise resolves to a connection that owns its fd. It rejects with
   * `ERR_ACCEPT_TIMEOUT`, `ERR_LISTENER_CLOSED`, `ABORT_ERR`, `ENOMEM`, or a fatal error of accept(2), after which no
   * further attempt can succeed.
   *
   * @example
   * ```js
   * const connection = await listener.accept({ timeout: 10_000 })
   * ```
   */
  accept(options?: AcceptOptions): Promise<Connection> {
    return new Promise((fulfil, fail) => {
      const request = options === undefined ? unlimitedRequest : readRequestOptions(options)
      this.#requests.askFor(request, { fulfil, fail, kind: 'promise' }, callSiteOf(request, this.accept))
    })
  }

  /**
   * Iterates over connections, with one request per `next()`. Leaving the loop withdraws an outstanding request and
   * leaves the listener open. Closing the listener ends the loop, and so does the limit.
   *
   * `next()` rejects as `accept()` with the same `timeout` and `signal` does, which ends a `for await` loop. The
   * iterator can be used again after a timeout; after an abort, every `next()` rejects.
   *
   * Throws Node's codes for invalid options.
   *
   * @example
   * ```js
   * for await (const connection of listener.connections({ timeout: 60_000, signal })) {}
   * ```
   */
  connections(options: ConnectionsOptions = {}): AsyncIterableIterator<Connection> {
    const { request, limit } = readConnectionsOptions(options)
    return this.#iterate(request, callSiteOf(request, this.connections), limit)
  }

  /** The same as `connections()` without options. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Connection> {
    return this.#iterate(unlimitedRequest, undefined, Number.POSITIVE_INFINITY)
  }

  /**
   * Withdraws a request made with `asyncAccept`. Returns true if the request was outstanding; no result is emitted for
   * it. Returns false if its result has been or is being delivered, or if there is no such request.
   */
  cancel(ref: AcceptRef): boolean {
    validate.integer('ref', ref, 0, Number.MAX_SAFE_INTEGER)
    // A request with a requester, such as one of accept(), cannot be cancelled by ref: its promise would never settle.
    // A signal aborts accept() instead.
    return !this.#requests.hasRequester(ref) && this.#requests.withdraw(ref)
  }

  /**
   * The listening fd, borrowed: the caller must not close it. Use it to set socket options, or to share the socket with
   * a thread. -1 after `close()` and `detach()`.
   */
  get fd(): number {
    return this.#fd
  }

  /**
   * Returns the bound address as `net.Server` does; for a unix socket, its path or abstract name (`'\0name'`). Returns
   * null after `close()` and `detach()`.
   */
  address(): AddressInfo | string | null {
    return this.#closed === undefined ? this.#address : null
  }

  /** The local TCP port, also after `close()` and `detach()`. 0 for a unix socket. */
  get port(): number {
    return typeof this.#address === 'string' ? 0 : this.#address.port
  }

  /** The number of outstanding requests. */
  get pending(): number {
    return this.#handle.pending()
  }

  /**
   * Returns the length and the limit of the kernel's accept queue. Takes two system calls for TCP (`TCP_INFO`, tcp(7)),
   * six for a unix socket (sock_diag(7)).
   *
   * Errors: `ERR_LISTENER_CLOSED`; `ENOENT` for a unix socket if the kernel lacks unix_diag.
   */
  backlog(): Backlog {
    if (this.#closed !== undefined) throw codedError('ERR_LISTENER_CLOSED')
    return check(binding.backlog(this.#fd), typeof this.#address === 'string' ? 'sock_diag' : 'getsockopt')
  }

  /** A copy of the counters since the listener was created. */
  get stats(): ListenerStats {
    return this.#handle.stats()
  }

  /** Makes outstanding requests, and servers that `serve` drives, keep the process alive. This is the default. */
  ref(): this {
    this.#handle.keepAlive(true)
    return this
  }

  /** Lets the process exit despite outstanding requests, and despite servers that `serve` drives. */
  unref(): this {
    this.#handle.keepAlive(false)
    return this
  }

  /**
   * Closes the listening fd before it returns, so that the port is free at once. Removes the path of a unix socket that
   * `listen` created. The path stays if another process or thread shares the socket, or if it refers to another file
   * by now. The kernel resets clients in the backlog, unless another process shares the socket.
   *
   * Rejects outstanding requests with `ERR_LISTENER_CLOSED`, oldest first; afterwards the promise resolves. Later calls
   * do nothing and return the same promise.
   */
  close(): Promise<void> {
    return this.#end(() => {
      const error = this.#handle.close()
      // unlink(2) has failed: for example, the directory has become read-only, or the process has dropped privileges.
      // The path stays, and closing continues.
      if (error < 0) warn(systemError('unlink', error, { path: String(this.#address) }))
    })
  }

  /**
   * Transfers ownership of the listening fd to the caller, which must close it. The socket keeps listening, its fd is
   * close-on-exec, and the path of a unix socket stays. Everything else is as after `close()`: outstanding requests are
   * rejected. Error: `ERR_LISTENER_CLOSED`.
   */
  detach(): number {
    if (this.#closed !== undefined) throw codedError('ERR_LISTENER_CLOSED')
    const fd = this.#fd
    this.#end(() => this.#handle.detach())
    return fd
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #iterate(request: RequestOptions, site: CallSite | undefined, limit: number): AsyncIterableIterator<Connection> {
    return iterateConnections(
      {
        ask: (requester) => this.#requests.askFor(request, requester, site),
        withdraw: (ref) => this.#requests.withdraw(ref),
        isClosed: () => this.#closed !== undefined,
      },
      limit,
    )
  }

  #end(endHandle: () => unknown): Promise<void> {
    if (this.#closed !== undefined) return this.#closed
    const { refs } = this.#requests
    trace?.('listener on %s: closed, %d requests outstanding', textOf(this.#address), refs.length)
    this.#fd = -1
    unclosed.unregister(this)
    this.#closed = new Promise((resolve) => {
      // The requests are rejected on the next tick: the caller does not expect its own requests to be rejected during
      // close().
      process.nextTick(() => {
        this.#requests.reject(refs, () => {
          inOwnContext(() => runSafely(() => this.emit('close')))
          resolve()
        })
      })
    })
    // Holders are notified before the handle is closed. A holder may own a duplicate of the socket, and the path is
    // removed only if the socket has no duplicate.
    for (const ended of this.#holders) ended()
    endHandle()
    return this.#closed
  }

  #emitPause(error: SystemError, delay: number): void {
    const pause: CapacityPause = { error, delay, pending: this.pending }
    trace?.('listener on %s: pause of %d ms, %d pending: %s', textOf(this.#address), delay, pause.pending, error.code)
    inOwnContext(() => {
      if (capacityPauseChannel.hasSubscribers) {
        runSafely(() => capacityPauseChannel.publish({ listener: this, ...pause }))
      }
      runSafely(() => this.emit('capacityPause', pause))
    })
  }
}

// Creates a native handle. Its constructor is the only native function that throws instead of returning an errno, and
// it throws only for lack of memory.
function newHandle(): ListenerHandle {
  try {
    return new binding.ListenerHandle()
  } catch {
    throw systemError('poll', -constants.errno.ENOMEM)
  }
}

// Only a request with a timeout or a signal fails in normal operation. The stacks of its errors lead to the caller of
// `entry`.
const callSiteOf = ({ timeout, signal }: RequestOptions, entry: (...args: never[]) => unknown): CallSite | undefined =>
  timeout < 0 && signal === undefined ? undefined : callSite(entry)
