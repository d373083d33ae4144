import { constants } from 'node:os'
import { getSystemErrorMap, type InspectOptions, inspect } from 'node:util'
import { fromAnotherCopy } from './brand.js'

/** An error as Node makes them: match on `code`. */
export interface CodedError extends Error {
  code: string
}

/** A failed system call. `errno` is negative, as everywhere in Node. */
export interface SystemError extends CodedError {
  errno: number
  syscall: string
  /** The IP address or the path that the call was about, where there was one. */
  address?: string
  port?: number
  path?: string
}

/** Every code that this package defines, with what it means. All other codes are Node's and the system's own. */
export const codes = {
  /** The request ran out before a client came. */
  ERR_ACCEPT_TIMEOUT: 'no connection came within the timeout',
  /** The peer did not send what was waited for in time. */
  ERR_PEEK_TIMEOUT: 'the peer has not sent enough within the timeout',
  /** The peer ended its side, or hung up, before all of a PROXY header was there. Load balancers do so in health checks. */
  ERR_PEEK_ENDED: 'the peer has ended its side before all of it was there',
  /** The kernel shows nothing behind the peer's urgent data or file descriptors until what is before them has been read. */
  ERR_PEEK_STOPPED: 'what the peer has sent cannot be looked at as a whole',
  /** The receive buffer has no room for the bytes, and may not be made larger. */
  ERR_PEEK_BUFFER: 'the receive buffer is too small',
  /** Another look at the connection is under way: one at a time. */
  ERR_PEEK_PENDING: 'the connection is being looked at',
  /** What begins as a PROXY header is none. */
  ERR_PROXY_HEADER: 'the PROXY header is malformed',
  /** A PROXY header is required of a peer that is not among the trusted ones. */
  ERR_PROXY_UNTRUSTED: 'the peer is not a trusted proxy',
  /** The listener is closed: pending requests are rejected with it, and so is every later one. */
  ERR_LISTENER_CLOSED: 'the listener is closed',
  /** The connection was closed, reset, detached or turned into a socket before. */
  ERR_CONNECTION_CLAIMED: 'the connection was claimed before',
  /** The fd already has a listener or a connection in this thread. */
  ERR_FD_IN_USE: 'the fd has an owner here already',
  /** A regular file where a socket is needed. */
  ERR_FD_IS_FILE: 'the fd is a file, not a socket',
  /** A pipe or FIFO where a socket is needed. */
  ERR_FD_IS_PIPE: 'the fd is a pipe, not a socket',
  /** A device, a directory, an epoll instance, ... where a socket is needed. */
  ERR_FD_NOT_SOCKET: 'the fd is not a socket',
  /** A socket of another address family than `AF_INET`, `AF_INET6` and `AF_UNIX`: vsock, netlink, ... */
  ERR_SOCKET_FAMILY: 'the socket is neither an IPv4, an IPv6 nor a unix socket',
  /** A datagram or raw socket where a stream or seqpacket one is needed. */
  ERR_SOCKET_TYPE: 'the socket is neither a stream nor a seqpacket one',
  /** A connected socket where a listening one is needed. */
  ERR_SOCKET_CONNECTED: 'the socket is connected, so it cannot listen',
  /** A socket that does not listen where a listening one is needed. */
  ERR_SOCKET_NOT_LISTENING: 'the socket does not listen',
  /** A listening socket where a connection is needed. */
  ERR_SOCKET_LISTENING: 'the socket listens, so it is not a connection',
  /** Something that only unix sockets have was asked of another. */
  ERR_SOCKET_NOT_UNIX: 'the socket is not a unix socket',
  /** `LISTEN_PID`, `LISTEN_FDS` and their kin contradict themselves, or the fds that are there. */
  ERR_ACTIVATION: 'the environment of the activation is malformed',
  /** Only the main thread may take what the process was born with. */
  ERR_ACTIVATION_THREAD: 'the fds of an activation are for the main thread',
  /** `NOTIFY_SOCKET` names no unix socket. */
  ERR_NOTIFY_SOCKET: 'NOTIFY_SOCKET is not the address of a unix socket',
  /** The service manager has not taken in time what was sent before. */
  ERR_NOTIFY_TIMEOUT: 'the service manager has not answered within the timeout',
  /** The channel is closed, by us or by the peer. */
  ERR_CHANNEL_CLOSED: 'the channel is closed',
  /** The peer of a channel does not speak its protocol, or bytes or fds of a message were lost. */
  ERR_CHANNEL_MESSAGE: 'the message is malformed',
  /** What `serve` needs of Node is not as it is in the versions that are known. */
  ERR_NODE_INTERNALS: 'this version of Node is not as expected',
  /** The package was loaded on a system other than Linux. */
  ERR_UNSUPPORTED_PLATFORM: 'async-accept needs Linux',
  /** The native addon could not be loaded. */
  ERR_ADDON_LOAD: 'the native addon could not be loaded',
} as const

export type Code = keyof typeof codes

const { defineProperty } = Object

// An assignment fails where a prototype has the property and is frozen, or has an accessor for it. Nothing may fail while
// an error is made: the request that it ends would never end.
function define(error: Error, name: string, value: unknown, enumerable = true): void {
  const descriptor = { __proto__: null, value, enumerable, writable: true, configurable: true }
  defineProperty(error, name, descriptor as PropertyDescriptor)
}

// Costs half as much, which counts where one event rejects many thousand requests.
function put(error: Error, name: string, value: unknown): void {
  if (name in error) define(error, name, value)
  else (error as unknown as Record<string, unknown>)[name] = value
}

/** Adds the code to an error, and to the first line of its stack, where Node's own errors show it too. */
export function withCode(error: Error, code: string): CodedError {
  define(error, 'code', code)
  const name = `${error.name} [${code}]`
  define(error, 'name', name, false)
  try {
    void error.stack // V8 formats it at the first access, with that name
  } catch {
    // Error.prepareStackTrace belongs to the application. The next reader of the stack is spared what it throws.
    setStack(error, `${name}: ${error.message}`)
  }
  Reflect.deleteProperty(error, 'name')
  return error as CodedError
}

// An assignment: to define it would make the V8 of Node 20 format it before.
function setStack(error: Error, stack: string): void {
  try {
    error.stack = stack
  } catch {
    // Some hardened environments have a read-only accessor there.
  }
}

/** An error with one of our own codes. */
export function codedError(code: Code, detail?: string, options?: ErrorOptions): CodedError {
  return withCode(new Error(detail === undefined ? codes[code] : `${codes[code]}: ${detail}`, options), code)
}

/**
 * Makes errors for results of the event loop. Their stacks would show only our own delivery, and collecting one costs more
 * than everything else that ends a request. `make` must not run code of the application.
 */
export function withoutStacks<T>(make: () => T): T {
  const limit = setStackTraceLimit(0)
  try {
    return make()
  } finally {
    if (limit !== undefined) setStackTraceLimit(limit.before)
  }
}

/** Undefined when `Error` is frozen, or its property belongs to the application: then errors have stacks. */
function setStackTraceLimit(limit: number): { before: number } | undefined {
  try {
    const { stackTraceLimit: before } = Error
    // Without a number V8 collects none.
    if (typeof before !== 'number') return undefined
    return Reflect.set(Error, 'stackTraceLimit', limit) ? { before } : undefined
  } catch {
    return undefined
  }
}

/** An error for one of many requests: no more than a message, a code, and both as its stack. */
export function plainError(code: Code): CodedError {
  const error = new Error(codes[code]) as CodedError
  put(error, 'code', code)
  setStack(error, `Error [${code}]: ${codes[code]}`)
  return error
}

/** What a system call was about, as far as it is known. */
export interface About {
  address?: string
  port?: number
  path?: string
  /** The socket option, in its system name. */
  option?: string
}

// libuv, whose names and words Node uses, does not know every errno of Linux.
const nameOf = (errno: number) =>
  Object.entries(constants.errno).find(([, number]) => number === -errno)?.[0] ?? `E${-errno}`

/** The one place where an errno becomes an error. */
export function systemError(syscall: string, errno: number, about: About = {}): SystemError {
  const [code, message] = getSystemErrorMap().get(errno) ?? [nameOf(errno), 'unknown error']
  // A copy without a prototype: what Object.prototype may have is not about this call.
  const { path, port, option, address = path }: About = Object.assign(Object.create(null), about)
  const what = option ?? (port === undefined ? address : `${address}:${port}`)
  // A name in the abstract namespace begins with '\0', which has no place in a log.
  const at = what === undefined ? '' : ` ${what.replaceAll('\0', '@')}`
  const error = new Error(`${syscall} ${code}: ${message}${at}`)
  put(error, 'code', code)
  put(error, 'errno', errno)
  put(error, 'syscall', syscall)
  if (address !== undefined) put(error, 'address', address)
  for (const [name, value] of Object.entries(about)) if (name !== 'address') put(error, name, value)
  return error as SystemError
}

/** The result of a native call, unless it is a negative errno: that is thrown. */
export function check<T>(result: T, syscall: string, about?: About): Exclude<T, number> {
  if (typeof result === 'number' && result < 0) throw systemError(syscall, result, about)
  return result as Exclude<T, number>
}

/** What Node rejects with when a signal is aborted. */
export function abortError(signal: AbortSignal): CodedError {
  const error = new Error('The operation was aborted')
  define(error, 'cause', reasonOf(signal), false)
  define(error, 'name', 'AbortError', false)
  define(error, 'code', 'ABORT_ERR')
  return error as CodedError
}

// A signal need not be Node's own: the getter may be the application's.
function reasonOf(signal: AbortSignal): unknown {
  try {
    return signal.reason
  } catch (error) {
    return error
  }
}

// Runs code of the application (util.inspect.custom, a Proxy in the prototype chain), which may throw.
function shown(value: unknown, options: InspectOptions, length: number): string {
  try {
    return inspect(value, options).slice(0, length)
  } catch {
    return 'a value that cannot be shown'
  }
}

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

export function invalidArgValue(name: string, reason: string, received: unknown): CodedError {
  const what = name.includes('.') ? 'property' : 'argument'
  return withCode(
    new TypeError(`The ${what} '${name}' ${reason}. Received ${shown(received, {}, 128)}`),
    'ERR_INVALID_ARG_VALUE',
  )
}

export function outOfRange(name: string, range: string, received: unknown): CodedError {
  return withCode(
    new RangeError(`The value of "${name}" is out of range. It must be ${range}. Received ${shown(received, {}, 128)}`),
    'ERR_OUT_OF_RANGE',
  )
}

/**
 * Runs code of the application. What it throws becomes an uncaught exception, as from any other emitter, but the caller
 * goes on: other results are still to be handed out.
 */
export function runSafely(run: () => unknown): void {
  try {
    run()
  } catch (error) {
    // Not process.nextTick: when a tick comes to run because Node has read from an fs.Dir, Node 24 and 26 lose what it
    // throws.
    queueMicrotask(() => {
      throw error
    })
  }
}
