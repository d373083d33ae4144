import { constants } from 'node:os'
import { getSystemErrorMap, inspect } from 'node:util'

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
  /** Somebody looks at the connection already: one at a time. */
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

type ErrorClass = new (message: string) => Error

// Node's own errors carry their code in the stack's first line, so that a log shows it.
export function withCode<Fields extends object>(error: Error, code: string, fields?: Fields): CodedError & Fields {
  const { name } = error
  error.name = `${name} [${code}]`
  void error.stack // is computed now, with that name
  error.name = name
  return Object.assign(error, { code }, fields) as CodedError & Fields
}

/** An error with one of our own codes. */
export function codedError(code: Code, detail?: string, Class: ErrorClass = Error): CodedError {
  return withCode(new Class(detail === undefined ? codes[code] : `${codes[code]}: ${detail}`), code)
}

/**
 * Makes errors that the event loop brings. Their stacks would show only our own delivery, and to look for them costs more
 * than everything else that ends a request. `make` must not run code of others.
 */
export function withoutStacks<T>(make: () => T): T {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return make()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** An error for one of many requests: no more than a message and a code. */
export function plainError(code: Code): CodedError {
  const error = new Error(codes[code]) as CodedError
  error.code = code
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
  const { path, port, option, address = path } = about
  const what = option ?? (port === undefined ? address : `${address}:${port}`)
  // A name in the abstract namespace begins with '\0', which has no place in a log.
  const at = what === undefined ? '' : ` ${what.replaceAll('\0', '@')}`
  const error = new Error(`${syscall} ${code}: ${message}${at}`)
  return Object.assign(error, { code, errno, syscall }, address === undefined ? {} : { address }, about)
}

/** The result of a native call, unless it is a negative errno: that is thrown. */
export function check<T>(result: T, syscall: string, about?: About): Exclude<T, number> {
  if (typeof result === 'number' && result < 0) throw systemError(syscall, result, about)
  return result as Exclude<T, number>
}

/** What Node rejects with when a signal is aborted. */
export function abortError(signal: AbortSignal): CodedError {
  const error = new Error('The operation was aborted', { cause: signal.reason })
  error.name = 'AbortError'
  return Object.assign(error, { code: 'ABORT_ERR' })
}

export function invalidArgType(name: string, expected: string, received: unknown): CodedError {
  const what = name.includes('.') ? 'property' : 'argument'
  const seen =
    received === null || received === undefined
      ? String(received)
      : `type ${typeof received} (${inspect(received, { depth: 0, breakLength: Infinity }).slice(0, 64)})`
  return withCode(new TypeError(`The "${name}" ${what} must be ${expected}. Received ${seen}`), 'ERR_INVALID_ARG_TYPE')
}

export function invalidArgValue(name: string, reason: string, received: unknown): CodedError {
  const what = name.includes('.') ? 'property' : 'argument'
  return withCode(
    new TypeError(`The ${what} '${name}' ${reason}. Received ${inspect(received).slice(0, 128)}`),
    'ERR_INVALID_ARG_VALUE',
  )
}

export function outOfRange(name: string, range: string, received: unknown): CodedError {
  return withCode(
    new RangeError(`The value of "${name}" is out of range. It must be ${range}. Received ${inspect(received)}`),
    'ERR_OUT_OF_RANGE',
  )
}

/**
 * Runs what others wrote. What they throw becomes an uncaught exception, as it would from any other emitter, but the
 * caller goes on: it has more to do than to tell this one.
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
