import { constants } from 'node:os'
import { getSystemErrorMap, type InspectOptions, inspect } from 'node:util'
import { fromAnotherCopy } from './brand.js'

/** An error with a stable `code`, as Node's own errors have. Match on `code`, not on the message. */
export interface CodedError extends Error {
  code: string
}

/** The error of a look at received bytes that timed out (`ERR_PEEK_TIMEOUT`). */
export interface PeekTimeoutError extends CodedError {
  code: 'ERR_PEEK_TIMEOUT'
  /** The number of bytes that had arrived. They are still unread. */
  bytesAvailable: number
}

/** The error of a failed system call. `errno` is negative, as in Node's own errors. */
export interface SystemError extends CodedError {
  errno: number
  syscall: string
  /** The IP address or the path that was passed to the call, if any. */
  address?: string
  port?: number
  path?: string
  /** The fd that was passed to the call, if the caller chose it. */
  fd?: number
}

/** The error codes that this package defines, with their messages. All other codes are those of Node and the system. */
export const codes = {
  /** No client connected before the request timed out. */
  ERR_ACCEPT_TIMEOUT: 'no connection arrived within the timeout',
  /** The peer did not send enough bytes before the timeout. */
  ERR_PEEK_TIMEOUT: 'the peer did not send enough bytes within the timeout',
  /**
   * The peer ended its side of the connection, or disconnected, before its PROXY header was complete. Health checks of
   * load balancers do this.
   */
  ERR_PEEK_ENDED: 'the peer ended the connection before its PROXY header was complete',
  /**
   * The kernel does not show bytes that follow urgent data or file descriptors before the earlier bytes have been read.
   */
  ERR_PEEK_STOPPED: 'cannot peek past urgent data or file descriptors',
  /** The receive buffer is too small for the bytes, and `net.core.rmem_max` allows no larger one. */
  ERR_PEEK_BUFFER: 'the receive buffer is too small',
  /** `peek()`, `clientHello()` or `proxyHeader()` was called while an earlier call was pending. */
  ERR_PEEK_PENDING: 'a peek(), clientHello() or proxyHeader() call is already pending on the connection',
  /** The PROXY header is malformed, or a required header is missing. */
  ERR_PROXY_HEADER: 'invalid PROXY header',
  /** A PROXY header is required, but the peer is not a trusted proxy. */
  ERR_PROXY_UNTRUSTED: 'the peer is not a trusted proxy',
  /** The Serving accepts no connections any more: it was drained or closed. */
  ERR_SERVING_CLOSED: 'the Serving has ended',
  /** The option `filter` of `serve` refused the connection. If the filter threw, `cause` is the exception. */
  ERR_CONNECTION_FILTERED: 'the filter refused the connection',
  /** The promise of the option `filter` of `serve` did not settle within `handshakeTimeout`. */
  ERR_FILTER_TIMEOUT: 'the filter did not decide within the timeout',
  /** The listener was closed or detached. Pending and later requests are rejected with this code. */
  ERR_LISTENER_CLOSED: 'the listener is closed',
  /** The connection was closed, reset, detached, turned into a socket or sent to another process. */
  ERR_CONNECTION_CLAIMED: 'the connection no longer owns its fd: it was closed, detached or handed over',
  /**
   * The fd belongs to a Listener, Connection or FdChannel of this thread, or the event loop polls it for another
   * handle.
   */
  ERR_FD_IN_USE: 'the fd is already owned by a Listener, Connection or other handle in this thread',
  /** The fd refers to a regular file, but a socket is required. */
  ERR_FD_IS_FILE: 'the fd is a regular file, not a socket',
  /** The fd refers to a pipe or FIFO, but a socket is required. */
  ERR_FD_IS_PIPE: 'the fd is a pipe or FIFO, not a socket',
  /** The fd refers to a device, directory, epoll instance or similar, but a socket is required. */
  ERR_FD_NOT_SOCKET: 'the fd is not a socket',
  /** The socket has a family other than `AF_INET`, `AF_INET6` and `AF_UNIX`, such as vsock or netlink. */
  ERR_SOCKET_FAMILY: 'the address family of the socket is not AF_INET, AF_INET6 or AF_UNIX',
  /**
   * The socket is a datagram or raw socket, but a stream or seqpacket socket is required. From `serve`: the listener is
   * a seqpacket socket, which a net.Server cannot use.
   */
  ERR_SOCKET_TYPE: 'unsupported socket type',
  /** The socket is connected, but a listening socket is required. */
  ERR_SOCKET_CONNECTED: 'the socket is connected, not listening',
  /** The socket is not listening, but a listening socket is required. */
  ERR_SOCKET_NOT_LISTENING: 'the socket is not listening',
  /** The socket is listening, but a connected socket is required. */
  ERR_SOCKET_LISTENING: 'the socket is listening, not connected',
  /** The operation requires a unix socket. */
  ERR_SOCKET_NOT_UNIX: 'the socket is not a unix socket',
  /** The activation variables (`LISTEN_PID`, `LISTEN_FDS`, ...) are malformed or do not match the inherited fds. */
  ERR_ACTIVATION: 'invalid activation environment',
  /** Inherited fds can be taken in the main thread only. */
  ERR_ACTIVATION_THREAD: 'only the main thread can take inherited fds',
  /** `NOTIFY_SOCKET` is not the address of a unix socket. */
  ERR_NOTIFY_SOCKET: 'NOTIFY_SOCKET is not the address of a unix socket',
  /** The service manager did not read the earlier notifications before the timeout. */
  ERR_NOTIFY_TIMEOUT: 'the service manager did not read the notifications within the timeout',
  /** The channel was closed, locally or by the peer. */
  ERR_CHANNEL_CLOSED: 'the channel is closed',
  /** The peer of a channel did not make room for a message before the timeout. */
  ERR_CHANNEL_TIMEOUT: 'the message was not sent within the timeout',
  /**
   * The peer of a channel violated its protocol, or bytes or fds of a message were lost. From `send`: an earlier message
   * was given up after a part of it was sent.
   */
  ERR_CHANNEL_MESSAGE: 'the message is malformed',
  /** The internals of Node.js that `serve` relies on differ from those of the supported versions. */
  ERR_NODE_INTERNALS: 'unsupported Node.js internals',
  /** The package was loaded on a system other than Linux. */
  ERR_UNSUPPORTED_PLATFORM: 'async-accept needs Node.js on Linux',
  /** The native addon could not be loaded. */
  ERR_ADDON_LOAD: 'the native addon could not be loaded',
} as const

export type Code = keyof typeof codes

const { defineProperty } = Object

// An assignment would fail if a prototype has an accessor for the property, or if a frozen prototype has the property.
// Creating an error must not fail: the request that the error ends would stay pending forever.
function define(error: Error, name: string, value: unknown, enumerable = true): void {
  const descriptor = { __proto__: null, value, enumerable, writable: true, configurable: true }
  defineProperty(error, name, descriptor as PropertyDescriptor)
}

// Takes half the time of `define`, which matters when one event rejects thousands of requests.
function put(error: Error, name: string, value: unknown): void {
  if (name in error) define(error, name, value)
  else (error as unknown as Record<string, unknown>)[name] = value
}

/** @internal Adds the code to an error and to the first line of its stack, as in Node's own errors. */
export function withCode(error: Error, code: string): CodedError {
  define(error, 'code', code)
  const name = `${error.name} [${code}]`
  define(error, 'name', name, false)
  try {
    void error.stack // V8 formats the stack at the first access, with the current name
  } catch {
    // Error.prepareStackTrace of the application has thrown. Once a plain stack is set, the next access does not call
    // it again.
    setStack(error, `${name}: ${error.message}`)
  }
  Reflect.deleteProperty(error, 'name')
  return error as CodedError
}

// Assigns the property: in Node 20, Object.defineProperty would make V8 format the old stack first.
/** @internal */
export function setStack(error: Error, stack: string): void {
  try {
    error.stack = stack
  } catch {
    // Some hardened environments make `stack` a read-only accessor.
  }
}

/** @internal Returns an error with one of this package's codes; `detail` is appended to the message. */
export function codedError(code: Code, detail?: string, options?: ErrorOptions): CodedError {
  return withCode(new Error(detail === undefined ? codes[code] : `${codes[code]}: ${detail}`, options), code)
}

/** @internal Returns the error of a look that ended after `timeout` ms, when `bytesAvailable` bytes had arrived. */
export function peekTimeout(bytesAvailable: number, timeout: number): PeekTimeoutError {
  const detail = `${bytesAvailable} bytes received within ${timeout} ms`
  const error = withoutStacks(() => plainError('ERR_PEEK_TIMEOUT', detail))
  put(error, 'bytesAvailable', bytesAvailable)
  return error as PeekTimeoutError
}

/** @internal Returns an error about an fd that the caller has passed. The message and the property `fd` contain it. */
export function fdError(code: Code, fd: number, detail = ''): CodedError {
  const error = codedError(code, `fd ${fd}${detail}`)
  put(error, 'fd', fd)
  return error
}

/**
 * @internal
 * Runs `make`, which creates errors for results of the event loop, without capturing stack traces. The stack traces
 * would show only this package's delivery code, and capturing them costs more than the rest of rejecting a request.
 * `make` must not run application code.
 */
export function withoutStacks<T>(make: () => T): T {
  const limit = setStackTraceLimit(0)
  try {
    return make()
  } finally {
    if (limit !== undefined) setStackTraceLimit(limit.before)
  }
}

/** Returns undefined if `Error` is frozen or the application has redefined the property; errors then have stacks. */
function setStackTraceLimit(limit: number): { before: number } | undefined {
  try {
    const { stackTraceLimit: before } = Error
    // If the limit is not a number, V8 captures no stack, so there is nothing to do.
    if (typeof before !== 'number') return undefined
    return Reflect.set(Error, 'stackTraceLimit', limit) ? { before } : undefined
  } catch {
    return undefined
  }
}

/**
 * @internal
 * Returns a minimal error, for rejecting many requests at once. Its one-line stack contains only the code and the
 * message. `detail` is appended to the message, and the properties of `about` to the error.
 */
export function plainError(code: Code, detail?: string, about?: About): CodedError {
  const message = detail === undefined ? codes[code] : `${codes[code]}: ${detail}`
  const error = new Error(message) as CodedError
  put(error, 'code', code)
  setStack(error, `Error [${code}]: ${message}`)
  if (about !== undefined) for (const [name, value] of Object.entries(about)) put(error, name, value)
  return error
}

/** @internal The known arguments of a failed system call. */
export interface About {
  address?: string
  port?: number
  path?: string
  /** The system's name of the socket option, such as `SO_REUSEPORT`. */
  option?: string
  fd?: number
}

// The name of an errno that Node does not know. Node takes names and texts from libuv, which lacks some errnos of
// Linux.
const nameOf = (errno: number) =>
  Object.entries(constants.errno).find(([, number]) => number === -errno)?.[0] ?? `E${-errno}`

/** @internal Returns the error for a negative errno. Every system error of this package is created here. */
export function systemError(syscall: string, errno: number, about: About = {}): SystemError {
  const [code, message] = getSystemErrorMap().get(errno) ?? [nameOf(errno), 'unknown error']
  // A copy without a prototype, so that properties added to Object.prototype do not count as arguments of the call.
  const { path, port, option, fd, address = path }: About = Object.assign(Object.create(null), about)
  const what = option ?? (port === undefined ? address : `${address}:${port}`)
  // An abstract socket name begins with '\0', which would be unreadable in a log.
  const at = what === undefined ? '' : ` ${what.replaceAll('\0', '@')}`
  const which = fd === undefined ? '' : `, fd ${fd}`
  const error = new Error(`${syscall} ${code}: ${message}${at}${which}`)
  put(error, 'code', code)
  put(error, 'errno', errno)
  put(error, 'syscall', syscall)
  if (address !== undefined) put(error, 'address', address)
  for (const [name, value] of Object.entries(about)) if (name !== 'address') put(error, name, value)
  return error as SystemError
}

/** @internal Returns the result of a native call. Throws a system error if the result is a negative errno. */
export function check<T>(result: T, syscall: string, about?: About): Exclude<T, number> {
  if (typeof result === 'number' && result < 0) throw systemError(syscall, result, about)
  return result as Exclude<T, number>
}

/** @internal As `abortError`, without the stack of the event loop callback that calls this function. */
export function plainAbortError(signal: AbortSignal): CodedError {
  return abortError(
    signal,
    withoutStacks(() => new Error()),
  )
}

/** @internal Turns `error` into the `AbortError` that Node's own APIs reject with when a signal is aborted. */
export function abortError(signal: AbortSignal, error: Error = new Error()): CodedError {
  define(error, 'message', 'The operation was aborted', false)
  define(error, 'cause', reasonOf(signal), false)
  define(error, 'name', 'AbortError', false)
  define(error, 'code', 'ABORT_ERR')
  return error as CodedError
}

// The signal may be of an application class whose `reason` getter throws.
function reasonOf(signal: AbortSignal): unknown {
  try {
    return signal.reason
  } catch (error) {
    return error
  }
}

// inspect() runs application code (util.inspect.custom, a Proxy in the prototype chain), which may throw.
function shown(value: unknown, options: InspectOptions, length: number): string {
  try {
    return inspect(value, options).slice(0, length)
  } catch {
    return 'a value that cannot be inspected'
  }
}

/** @internal */
export function invalidArgType(name: string, expected: string, received: unknown): CodedError {
  const what = name.includes('.') ? 'property' : 'argument'
  return withCode(
    new TypeError(`The "${name}" ${what} must be ${expected}. Received ${kindOf(received)}`),
    'ERR_INVALID_ARG_TYPE',
  )
}

function kindOf(received: unknown): string {
  if (received === null || received === undefined) return String(received)
  const foreign = fromAnotherCopy(received)
  if (foreign !== undefined) return foreign
  return `type ${typeof received} (${shown(received, { depth: 0, breakLength: Infinity }, 64)})`
}

/** @internal */
export function invalidArgValue(name: string, reason: string, received: unknown): CodedError {
  return invalidArg(name, `${reason}. Received ${shown(received, {}, 128)}`)
}

/** @internal As `invalidArgValue`, for a reason that is clear without the received value. */
export function invalidArg(name: string, reason: string): CodedError {
  const what = name.includes('.') ? 'property' : 'argument'
  return withCode(new TypeError(`The ${what} '${name}' ${reason}`), 'ERR_INVALID_ARG_VALUE')
}

/** @internal */
export function outOfRange(name: string, range: string, received: unknown): CodedError {
  return withCode(
    new RangeError(`The value of "${name}" is out of range. It must be ${range}. Received ${shown(received, {}, 128)}`),
    'ERR_OUT_OF_RANGE',
  )
}

/**
 * @internal Runs application code. An exception becomes an uncaught exception, as with any EventEmitter, but the caller
 * continues: it still has results to deliver.
 */
export function runSafely(run: () => unknown): void {
  try {
    run()
  } catch (error) {
    // In a tick, Node 24 and 26 would lose the exception if the tick runs after a read from an fs.Dir.
    queueMicrotask(() => {
      throw error
    })
  }
}
