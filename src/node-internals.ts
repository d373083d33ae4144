// The one place that knows what Node does not document: the handle beneath a socket or a server, and what an
// http.Server keeps of its connections. All of it is the same in Node 20 to 26, and what depends on it says what it does
// when something is not as known.
import type http from 'node:http'
import net from 'node:net'
import { binding } from './binding.js'
import { check, codedError } from './errors.js'

/** An address as `getsockname` and `getpeername` of a handle give it: as fields of what they get. */
export type HandleAddress = { address?: string; port?: number; family?: string }

/** What a `net.Socket` or a `net.Server` has beneath it: `TCP` or `Pipe`, which Node does not export. */
export interface Handle {
  readonly fd: number
  open(fd: number): number
  close(callback?: () => void): void
  reset?(callback?: () => void): number
  getpeername?(out: HandleAddress): number
}

export type HandleClass = new (type: number) => Handle

// TCPConstants.SOCKET and PipeConstants.SOCKET, from Node 10 to 26.
const SOCKET = 0

const handleOf = (socket: net.Socket) => (socket as unknown as { _handle?: Handle | null })._handle

/** Of a socket that Node made of an fd; undefined when it is not as we know it. */
export function handleClassOf(socket: net.Socket): HandleClass | undefined {
  const HandleClass = handleOf(socket)?.constructor as HandleClass | undefined
  const familiar =
    (HandleClass?.name === 'TCP' || HandleClass?.name === 'Pipe') &&
    typeof HandleClass.prototype.open === 'function' &&
    typeof HandleClass.prototype.close === 'function'
  return familiar ? HandleClass : undefined
}

const classes = new Map<number, HandleClass>()

/** `TCP` or `Pipe`, as sockets of an address family have it. Error: `ERR_NODE_INTERNALS`. */
export function handleClassFor(domain: number): HandleClass {
  let HandleClass = classes.get(domain)
  if (HandleClass !== undefined) return HandleClass
  const fd = binding.socket(domain, binding.constants.SOCK_STREAM as number)
  check(fd, 'socket')
  let socket: net.Socket
  try {
    binding.lend(fd)
    socket = new net.Socket({ fd, readable: false, writable: false })
  } catch (error) {
    // Node has no handle for this address family.
    binding.close(fd)
    throw error
  }
  binding.release(fd)
  HandleClass = handleClassOf(socket)
  socket.destroy()
  if (HandleClass === undefined) throw codedError('ERR_NODE_INTERNALS', 'the handle of a net.Socket')
  classes.set(domain, HandleClass)
  return HandleClass
}

/**
 * What `new net.Socket({ fd })` does, without the four system calls by which it finds out what the fd is. Takes the fd,
 * unless the result is undefined.
 */
export function openHandle(HandleClass: HandleClass, fd: number): Handle | undefined {
  const handle = new HandleClass(SOCKET)
  if (handle.open(fd) === 0) return handle
  handle.close()
  return undefined
}

/** The handle of a socket, or of the one beneath a TLSSocket; also through the proxy that http2 has for a socket. */
export function handleBeneath(socket: net.Socket): Handle | undefined {
  let handle = handleOf(socket) as (Handle & { _parent?: Handle }) | null | undefined
  while (handle?._parent) handle = handle._parent
  return handle ?? undefined
}

const closing = Symbol('closing')
type Watched = Handle & { [closing]?: () => void }

// Everything that ends a socket comes to one of these two: destroy(), a TLSSocket or an http2 session above it, and a
// process that has sent it to another.
function closeAndTell(this: Watched, callback?: () => void): void {
  Object.getPrototypeOf(this).close.call(this, callback)
  tell(this)
}

function resetAndTell(this: Watched, callback?: () => void): number {
  const error = Object.getPrototypeOf(this).reset.call(this, callback)
  if (error === 0) tell(this)
  return error
}

function tell(handle: Watched): void {
  const closed = handle[closing]
  handle[closing] = undefined
  closed?.()
}

/** Calls `closed`, which must not throw, once: when the handle has closed its fd. */
export function watchHandle(handle: Handle, closed: () => void): void {
  const watched: Watched = handle
  watched[closing] = closed
  watched.close = closeAndTell
  if (watched.reset) watched.reset = resetAndTell
}

/** Has the sockets on a handle say that somebody else is at the other end. Nothing of `peer`: nobody knows who. */
export function setPeer(handle: Handle, peer: HandleAddress): void {
  handle.getpeername = (out) => {
    Object.assign(out, peer)
    return 0
  }
}

/** What has been made of a handle. Error: `ERR_NODE_INTERNALS`. */
export function socketOn(handle: Handle): net.Socket {
  const socket = hidden(handle, 'owner_symbol')
  if (socket instanceof net.Socket) return socket
  throw codedError('ERR_NODE_INTERNALS', 'the owner of a handle')
}

/** Gives a server a socket that was made outside, and is to be counted like those that it makes. */
export function giveSocket(server: net.Server, socket: net.Socket): void {
  const counting = server as unknown as { _connections: number }
  counting._connections++
  ;(socket as unknown as { _server: net.Server })._server = server
  server.emit('connection', socket)
}

/** What a server that listens through us has beneath it. `onconnection` is Node's own: what it does for a client. */
export interface ServerHandle {
  onconnection(status: number, client?: Handle): void
}

/** The listening socket, as a server sees it. */
export interface ListeningSocket {
  readonly fd: number
  /** A path for a unix socket. */
  readonly address: net.AddressInfo | string
  ref(): void
  unref(): void
  /** The server is closed. */
  closed(): void
}

/**
 * Makes `server` listen on a handle that never accepts; what is given to its `onconnection` is treated as if it had.
 * Node has no public way to hand a client to a server so that its socket options, its count of connections, and its
 * diagnostics channels are those of a client that it has accepted.
 *
 * Errors: `ERR_SERVER_ALREADY_LISTEN`, `ERR_NODE_INTERNALS`.
 */
export function listenThrough(server: net.Server, socket: ListeningSocket): ServerHandle {
  const { address } = socket
  const handle = new (handleClassFor(binding.constants.AF_INET as number))(SOCKET)
  const close = () => {
    Object.getPrototypeOf(handle).close.call(handle)
    socket.closed()
  }
  const getsockname = (out: HandleAddress) => {
    Object.assign(out, address)
    return 0
  }
  Object.defineProperties(handle, {
    fd: { get: () => socket.fd },
    listen: { value: () => 0 },
    // A server asks for the name of what has one, and else knows the path it was told.
    getsockname: { value: typeof address === 'string' ? undefined : getsockname },
    ref: { value: () => socket.ref() },
    unref: { value: () => socket.unref() },
    close: { value: close, configurable: true },
  })
  try {
    // Not the server's own, by which a framework may have come here.
    net.Server.prototype.listen.call(server, { _handle: handle } as net.ListenOptions)
    if (typeof (handle as unknown as ServerHandle).onconnection !== 'function') {
      throw codedError('ERR_NODE_INTERNALS', 'the handle of a net.Server')
    }
  } catch (error) {
    Object.getPrototypeOf(handle).close.call(handle)
    throw error
  }
  if (typeof address === 'string') (server as unknown as { _pipeName: string })._pipeName = address
  return handle as unknown as ServerHandle
}

/**
 * Sets the deadline of a tls.Server's handshakes, in ms, which can otherwise be told only when it is made; 0: none. The one
 * it had.
 */
export function setHandshakeTimeout(server: net.Server, ms: number): number {
  const symbol = symbolOf(server, 'handshake-timeout')
  if (symbol === undefined) throw codedError('ERR_NODE_INTERNALS', 'the handshake timeout of a tls.Server')
  const timeouts = server as unknown as Record<symbol, number>
  const before = timeouts[symbol] as number
  timeouts[symbol] = ms
  return before
}

interface ConnectionsList {
  all(): { socket: net.Socket }[]
  idle(): { socket: net.Socket }[]
}

const connectionsOf = (server: net.Server) =>
  hidden(server, 'http.server.connections') as Partial<ConnectionsList> | undefined

/** The connections with HTTP/1 that a server has; undefined when they cannot be had. */
export function httpSockets(server: net.Server): net.Socket[] | undefined {
  return connectionsOf(server)
    ?.all?.()
    .map(({ socket }) => socket)
}

/** Those that have answered and wait for another request, of which nothing has come. */
export function idleHttpSockets(server: net.Server): net.Socket[] | undefined {
  return (
    connectionsOf(server)
      ?.idle?.()
      .map(({ socket }) => socket)
      // To Node 26 also one from which nothing has come yet is idle.
      .filter((socket) => socket.bytesRead > 0 && responseOn(socket)?.writableEnded !== false)
  )
}

/** The response that is being made on a connection with HTTP/1. */
export function responseOn(socket: net.Socket): http.ServerResponse | undefined {
  return (socket as unknown as { _httpMessage?: http.ServerResponse | null })._httpMessage ?? undefined
}

const symbolOf = (object: object, description: string) =>
  Object.getOwnPropertySymbols(object).find((each) => each.description === description)

function hidden(object: object, description: string): unknown {
  const symbol = symbolOf(object, description)
  return symbol && (object as Record<symbol, unknown>)[symbol]
}
