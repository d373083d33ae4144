import { EventEmitter } from 'node:events'
import type { AddressInfo } from 'node:net'
import { constants } from 'node:os'
import { nextTick } from 'node:process'
import { onAbort } from '../core/abort.js'
import { type Backlog, binding, completion, type ListenerHandle, type ListenerStats } from '../core/binding.js'
import { brand } from '../core/brand.js'
import {
  abortError,
  check,
  codedError,
  plainError,
  runSafely,
  type SystemError,
  systemError,
  withoutStacks,
} from '../core/errors.js'
import { adopt, inspectStream } from '../core/inspect.js'
import * as validate from '../core/validate.js'
import { Connection } from './connection.js'
import { type AcceptRef, type AcceptResult, Delivery, inOwnContext, type Requester } from './delivery.js'
import { capacityPauseChannel } from './diagnostics.js'
import { iterateConnections } from './iterate-connections.js'
import { open, readOpenOptions } from './open.js'
import {
  type AcceptingOptions,
  type AcceptOptions,
  type FromFdOptions,
  type ListenOptions,
  readAcceptingOptions,
} from './options.js'
import { type ConnectionSource, OwnedFd } from './owned-fd.js'
import { type InheritedOptions, readSocketOptions, setSocketOptions } from './sockopt.js'

/** Accepting pauses for want of fds or memory. No request is lost, and it goes on by itself. */
export interface CapacityPause {
  /** `EMFILE`, `ENFILE`, `ENOBUFS` or `ENOMEM`, of accept(2). */
  error: SystemError
  /** ms until the next attempt; 0 when clients are reset meanwhile (`onFdLimit: 'reset'`). */
  delay: number
  /** Requests that wait. */
  pending: number
}

/** What the diagnostics channel `async-accept.connection` publishes: an accepted connection, before its requester has it. */
export interface ConnectionMessage {
  listener: Listener
  connection: Connection
}

/** What the diagnostics channel `async-accept.capacity-pause` publishes. */
export interface CapacityPauseMessage extends CapacityPause {
  listener: Listener
}

export interface ListenerEvents {
  accept: [AcceptResult]
  capacityPause: [CapacityPause]
  close: []
}

// About 8 us each.
const defaultMaxBatch = 64

const noErrors: readonly Error[] = []

// The handle goes with its Listener, and closes the fd: here is only what there is to say of it.
const unclosed = new FinalizationRegistry((where: string) => {
  process.emitWarning(
    `A Listener became unreachable before it was closed, and is closed: ${where}. Keep a reference to it, or close it`,
    { type: 'AsyncAcceptWarning', code: 'ASYNC_ACCEPT_UNCLOSED_LISTENER' },
  )
})

/**
 * A listening socket that accepts a connection when, and only when, somebody asks for one. Everybody else waits in the
 * kernel's backlog. Requests are served in the order in which they were made, however they were made.
 *
 * It owns the listening fd until `close()` or `detach()`. It keeps the process alive only while a request is
 * outstanding, and not even then after `unref()`.
 */
export class Listener extends EventEmitter<ListenerEvents> implements AsyncIterable<Connection> {
  readonly #handle: ListenerHandle
  readonly #address: AddressInfo | string
  readonly #source: ConnectionSource
  readonly #waiting = new Map<AcceptRef, Requester>()
  readonly #delivery = new Delivery(this, this.#waiting)
  readonly #holders = new Set<() => void>()
  #fd: number
  #closed: Promise<void> | undefined

  static {
    brand(Listener, 'Listener')
  }

  /** @internal Whether it is a listener of this copy of the package. A Proxy is not: it has no private fields. */
  static isListener(value: unknown): value is Listener {
    return typeof value === 'object' && value !== null && #handle in value
  }

  /** @internal Listeners come from `Listener.listen` and `Listener.fromFd`. */
  constructor(fd: number, options: AcceptingOptions & InheritedOptions) {
    super()
    const { address, port, family } = check(binding.localAddress(fd), 'getsockname')
    this.#address = port === undefined ? address : ({ address, family, port } as AddressInfo)
    const where = port === undefined ? address.replace('\0', '@') : `${address} port ${port}`
    const { noDelay, keepAlive, keepAliveInitialDelay, highWaterMark } = options
    this.#source = { where: `accepted on ${where}`, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark }
    this.#handle = newHandle()
    this.#handle.deliver = (count, capacityErrno, delay) => this.#deliver(count, capacityErrno, delay)
    const { maxBatch = defaultMaxBatch, onFdLimit = 'hold' } = options
    const error = this.#handle.open(fd, maxBatch, onFdLimit === 'reset')
    // Something else of this loop, a net.Server for instance, polls the fd.
    if (error === -constants.errno.EEXIST) throw codedError('ERR_FD_IN_USE', `fd ${fd}`)
    check(error, 'poll')
    this.#fd = fd
    unclosed.register(this, `fd ${fd}, ${where}`, this)
  }

  /**
   * Opens a listening socket.
   *
   * Errors: those of socket(2), bind(2) and listen(2) (`EADDRINUSE`, `EACCES`, ...), of setsockopt(2) with the name of
   * the option, of the look-up of `host` (`ENOTFOUND`); `ERR_SOCKET_BAD_PORT`.
   */
  static async listen(options: ListenOptions = {}): Promise<Listener> {
    const wanted = { ...readOpenOptions(options), ...readAcceptingOptions(options) }
    const fd = await open(wanted)
    try {
      return new Listener(fd, wanted)
    } catch (error) {
      binding.close(fd)
      throw error
    }
  }

  /**
   * Takes `fd`, a listening stream or seqpacket socket, or with `dup` borrows it. It becomes close-on-exec and
   * non-blocking; the latter holds for every process that shares the socket. On failure the fd stays the caller's,
   * untouched.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_FAMILY`, `ERR_SOCKET_TYPE`,
   * `ERR_SOCKET_CONNECTED`, `ERR_SOCKET_NOT_LISTENING`, `ERR_FD_IN_USE`.
   */
  static fromFd(fd: number, options: FromFdOptions = {}): Listener {
    validate.object('options', options)
    const { dup } = options
    validate.optionalBoolean('options.dup', dup)
    const wanted = { ...readSocketOptions(options), ...readAcceptingOptions(options) }
    const { listening, connected, domain } = inspectStream(fd)
    if (connected) throw codedError('ERR_SOCKET_CONNECTED', `fd ${fd}`)
    if (!listening) throw codedError('ERR_SOCKET_NOT_LISTENING', `fd ${fd}`)
    let own = fd
    if (dup) own = check(binding.duplicate(fd), 'fcntl')
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
   * @internal Asks for one connection in the name of `requester`, whose methods must not throw. There is no 'accept'
   * event, and `cancel` does not withdraw it. Throws as `asyncAccept` does.
   */
  static request(listener: Listener, requester: Requester): AcceptRef {
    return listener.#ask(-1, requester)
  }

  /** @internal Withdraws a request of `request`. False: its result has come or is being delivered. */
  static withdraw(listener: Listener, ref: AcceptRef): boolean {
    return listener.#withdraw(ref)
  }

  /**
   * @internal Until the function that is returned is called, the listener keeps the process alive as a listening
   * net.Server does, with or without a request. `ended`, which must not throw, is called within `close()` and `detach()`.
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
   * Asks for one connection. The result comes later as an 'accept' event with this ref, never before this returns.
   *
   * `timeout` is in ms from now: negative (the default) waits forever, 0 takes only a client that waits already. When
   * it ends first, the result's error is `ERR_ACCEPT_TIMEOUT`; when the listener is closed, `ERR_LISTENER_CLOSED`.
   *
   * Throws `ERR_LISTENER_CLOSED`, and `ENOMEM` when there is no memory for the request.
   */
  asyncAccept(timeout = -1): AcceptRef {
    return this.#request(validate.timeout('timeout', timeout))
  }

  /**
   * Asks for one connection, as a promise. It rejects with `ERR_ACCEPT_TIMEOUT`, `ERR_LISTENER_CLOSED`, `ABORT_ERR`, or
   * with an error of accept(2) that no later attempt could survive.
   */
  accept(options?: AcceptOptions): Promise<Connection> {
    return new Promise((fulfil, fail) => {
      if (options === undefined) this.#ask(-1, { fulfil, fail, kind: 'promise' })
      else this.#askWith(options, fulfil, fail)
    })
  }

  /**
   * One request at a time. Leaving the loop does not close the listener; closing the listener ends the loop. A request
   * that is outstanding when the iterator is returned is withdrawn.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Connection> {
    return iterateConnections({
      ask: (requester) => this.#ask(-1, requester),
      withdraw: (ref) => this.#withdraw(ref),
      isClosed: () => this.#closed !== undefined,
    })
  }

  /**
   * Withdraws a request of `asyncAccept`. True: it was outstanding, and no result will come for it. False: its result has come or is
   * being delivered, or there never was such a request.
   */
  cancel(ref: AcceptRef): boolean {
    validate.integer('ref', ref, 0, Number.MAX_SAFE_INTEGER)
    // What a promise waits for is nobody's to cancel: it would never settle. That is what signals are for.
    return !this.#waiting.has(ref) && this.#handle.cancel(ref)
  }

  /** Borrowed: for options of the socket, or to hand to another thread. -1 after `close()` and `detach()`. */
  get fd(): number {
    return this.#fd
  }

  /** As `net.Server` has it: a path for a unix socket (`'\0name'` for an abstract one); null once closed. */
  address(): AddressInfo | string | null {
    return this.#closed === undefined ? this.#address : null
  }

  /** How many requests are outstanding. */
  get pending(): number {
    return this.#handle.pending()
  }

  /**
   * The kernel's accept queue: how many clients wait, and how many may. Two system calls for TCP (`TCP_INFO`), six for
   * a unix socket (sock_diag(7)).
   *
   * Errors: `ERR_LISTENER_CLOSED`; `ENOENT` for a unix socket on a kernel without unix_diag.
   */
  backlog(): Backlog {
    if (this.#closed !== undefined) throw codedError('ERR_LISTENER_CLOSED')
    return check(binding.backlog(this.#fd), typeof this.#address === 'string' ? 'sock_diag' : 'getsockopt')
  }

  /** What has happened so far; a copy. */
  get stats(): ListenerStats {
    return this.#handle.stats()
  }

  /** Outstanding requests, and servers that are served, keep the process alive; the default. */
  ref(): this {
    this.#handle.keepAlive(true)
    return this
  }

  /** Neither outstanding requests nor servers that are served keep the process alive. */
  unref(): this {
    this.#handle.keepAlive(false)
    return this
  }

  /**
   * Closes the listening fd before it returns, so that the port is free at once. The path of a unix socket that `listen`
   * made is removed, unless another process or thread has the socket, too, or the path is another file by now. Outstanding
   * requests are rejected with `ERR_LISTENER_CLOSED`, oldest first; when that is done, the promise resolves. The kernel
   * resets clients that wait in the backlog, unless another process shares the socket. The second call does nothing, and
   * gives the same promise.
   */
  close(): Promise<void> {
    return this.#end(() => {
      const error = this.#handle.close()
      // The path stays: the directory is read-only by now, or we have given up the right to it. The close goes on.
      if (error < 0) process.emitWarning(systemError('unlink', error, { path: String(this.#address) }))
    })
  }

  /**
   * Gives the listening fd to the caller, who must close it; it is still listening, and close-on-exec. Everything else
   * is as after `close()`, but that the path of a unix socket stays. Error: `ERR_LISTENER_CLOSED`.
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

  #request(timeout: number): AcceptRef {
    const ref = this.#handle.ask(timeout)
    if (ref === 0) throw codedError('ERR_LISTENER_CLOSED')
    if (ref < 0) throw systemError('accept4', ref)
    return ref
  }

  // Both throw what an executor of a promise turns into a rejection.
  #ask(timeout: number, waiting: Requester): AcceptRef {
    const ref = this.#request(timeout)
    this.#waiting.set(ref, waiting)
    return ref
  }

  #askWith(options: AcceptOptions, fulfil: Requester['fulfil'], fail: Requester['fail']): void {
    validate.object('options', options)
    const { signal, timeout = -1 } = options
    validate.optionalSignal('options.signal', signal)
    const ms = validate.timeout('options.timeout', timeout)
    if (signal === undefined) {
      this.#ask(ms, { fulfil, fail, kind: 'promise' })
      return
    }
    if (signal.aborted) throw abortError(signal)
    let ref = 0
    // Before there is a request: if the signal is none after all, nothing has happened.
    const ended = onAbort(signal, () => {
      // Once accepted it is too late: then the connection is delivered, or it would be lost.
      if (this.#withdraw(ref)) fail(abortError(signal), ref)
    })
    try {
      ref = this.#ask(ms, {
        kind: 'promise',
        fulfil: (connection) => {
          fulfil(connection)
          ended()
        },
        fail: (error) => {
          fail(error, ref)
          ended()
        },
      })
    } catch (error) {
      ended()
      throw error
    }
  }

  #withdraw(ref: AcceptRef): boolean {
    if (!this.#handle.cancel(ref)) return false
    this.#waiting.delete(ref)
    return true
  }

  #end(endHandle: () => unknown): Promise<void> {
    if (this.#closed !== undefined) return this.#closed
    const refs = this.#handle.outstanding()
    this.#fd = -1
    unclosed.unregister(this)
    this.#closed = new Promise((resolve) => {
      // Not inside the call: whoever closes is not prepared for requests of theirs to fail meanwhile.
      nextTick(() => {
        const errors = withoutStacks(() => Array.from(refs, () => plainError('ERR_LISTENER_CLOSED')))
        const last = () => {
          inOwnContext(() => runSafely(() => this.emit('close')))
          resolve()
        }
        this.#delivery.add({ refs, connections: [], errors, last }, false)
      })
    })
    // First: a copy of the socket that is still open would keep its path.
    for (const ended of this.#holders) ended()
    endHandle()
    return this.#closed
  }

  // All results of one readiness event. Nothing in here may throw, and no code of the application runs before every result
  // has been read: it could have the buffer filled anew.
  #deliver(count: number, capacityErrno: number, delay: number): void {
    const refs: AcceptRef[] = []
    const connections: Connection[] = []
    const errnos: number[] = []
    // First all fds get their owners: they come before the errors.
    for (let i = 0; i < count; i++) {
      const ref = completion.ref(i)
      const result = completion.result(i)
      refs.push(ref)
      if (result < 0) {
        errnos.push(result)
        continue
      }
      const owned = new OwnedFd(result, ref, this.#source)
      owned.readPeer(completion.view, completion.address(i), completion.addressLength(i))
      connections.push(new Connection(owned))
    }
    const errors = errnos.length === 0 ? noErrors : withoutStacks(() => errnos.map(errorOf))
    const last = capacityErrno === 0 ? undefined : () => this.#emitPause(systemError('accept4', capacityErrno), delay)
    this.#delivery.add({ refs, connections, errors, last }, true)
  }

  #emitPause(error: SystemError, delay: number): void {
    const pause: CapacityPause = { error, delay, pending: this.pending }
    inOwnContext(() => {
      if (capacityPauseChannel.hasSubscribers) {
        runSafely(() => capacityPauseChannel.publish({ listener: this, ...pause }))
      }
      runSafely(() => this.emit('capacityPause', pause))
    })
  }
}

// The one native call that cannot return an errno. Memory is all that it can lack.
function newHandle(): ListenerHandle {
  try {
    return new binding.ListenerHandle()
  } catch {
    throw systemError('poll', -constants.errno.ENOMEM)
  }
}

function errorOf(errno: number): Error {
  return errno === -constants.errno.ETIMEDOUT ? plainError('ERR_ACCEPT_TIMEOUT') : systemError('accept4', errno)
}
