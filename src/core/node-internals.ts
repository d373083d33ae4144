// Access to undocumented parts of Node: the handle of a socket or server, and the connection list of an http.Server.
// Only serve/server-handle.ts and inherit/intercept-listen.ts use such parts, too. All are the same in Node 20 to 26.
// Callers document what they do if a future version differs.
import type http from 'node:http'
import net from 'node:net'
import { binding } from './binding.js'
import { check, codedError } from './errors.js'

/** The object that `getsockname` and `getpeername` of a handle receive, and to which they add the address. */
export type HandleAddress = { address?: string; port?: number; family?: string }

/** The handle of a `net.Socket` or `net.Server`: a `TCP` or `Pipe` object, whose classes Node does not export. */
export interface Handle {
  readonly fd: number
  /** The number of bytes read from the fd; for TLS, the encrypted bytes. */
  readonly bytesRead?: number
  /** The number of bytes not yet written to the kernel. */
  readonly writeQueueSize?: number
  open(fd: number): number
  close(callback?: () => void): void
  reset?(callback?: () => void): number
  getpeername?(out: HandleAddress): number
}

export type HandleClass = new (type: number) => Handle

// The value of TCPConstants.SOCKET and PipeConstants.SOCKET in Node 10 to 26.
const SOCKET = 0

const handleOf = (socket: net.Socket) => (socket as unknown as { _handle?: Handle | null })._handle

/** Returns the handle class of a socket that Node created from an fd; undefined if the class is not a known one. */
export function handleClassOf(socket: net.Socket): HandleClass | undefined {
  const HandleClass = handleOf(socket)?.constructor as HandleClass | undefined
  const familiar =
    (HandleClass?.name === 'TCP' || HandleClass?.name === 'Pipe') &&
    typeof HandleClass.prototype.open === 'function' &&
    typeof HandleClass.prototype.close === 'function'
  return familiar ? HandleClass : undefined
}

const classes = new Map<number, HandleClass>()

/**
 * Returns the handle class (`TCP` or `Pipe`) for sockets of an address family. Throws `ERR_NODE_INTERNALS` if Node uses
 * an unknown class.
 */
export function handleClassFor(domain: number): HandleClass {
  let HandleClass = classes.get(domain)
  if (HandleClass !== undefined) return HandleClass
  const fd = binding.socket(domain, binding.constants.SOCK_STREAM as number)
  check(fd, 'socket')
  let socket: net.Socket
  try {
    binding.prepareTransfer(fd)
    socket = new net.Socket({ fd, readable: false, writable: false })
  } catch (error) {
    // net.Socket throws if Node has no handle class for this address family.
    binding.close(fd)
    throw error
  }
  binding.release(fd)
  HandleClass = handleClassOf(socket)
  // Without unref(), process.getActiveResourcesInfo() would list the socket until the next event loop turn.
  socket.unref().destroy()
  if (HandleClass === undefined) throw codedError('ERR_NODE_INTERNALS', 'the handle of a net.Socket')
  classes.set(domain, HandleClass)
  return HandleClass
}

/**
 * Opens a handle on an fd as `new net.Socket({ fd })` does, but without the four system calls that determine the type
 * of the fd. Takes ownership of the fd. On failure, returns undefined and the caller still owns the fd.
 */
export function openHandle(HandleClass: HandleClass, fd: number): Handle | undefined {
  const handle = new HandleClass(SOCKET)
  let opened = false
  try {
    // Throws ERR_ACCESS_DENIED where the permission model of Node restricts it.
    opened = handle.open(fd) === 0
  } finally {
    if (!opened) handle.close()
  }
  return opened ? handle : undefined
}

/** Returns whether the socket still has this handle. */
export const hasHandle = (socket: net.Socket, handle: Handle): boolean => handleOf(socket) === handle

/** Returns the handle of a socket, or of the raw socket beneath a TLSSocket. Accepts `session.socket` of http2, too. */
export function handleBeneath(socket: net.Socket): Handle | undefined {
  let handle = handleOf(socket) as (Handle & { _parent?: Handle }) | null | undefined
  while (handle?._parent) handle = handle._parent
  return handle ?? undefined
}

/** Notified when the fd of a handle is closed, or is moved to another thread or process. */
export interface HandleObserver {
  /** May be called more than once. Must not throw. */
  released(): void
}

const observerKey = Symbol('observer')
type Observed = Handle & { [observerKey]?: HandleObserver }

// All of these call one of the two functions below: destroy(), the end of a TLSSocket or http2 session above the
// socket, and sending the socket to another process. For a move to a thread, see watchSocket.
function closeAndNotify(this: Observed, callback?: () => void): void {
  Object.getPrototypeOf(this).close.call(this, callback)
  this[observerKey]?.released()
}

function resetAndNotify(this: Observed, callback?: () => void): number {
  const socket = socketOn(this)
  // libuv cannot reset a socket while its shutdown is pending (EINVAL): Node would drop the handle and leave its fd
  // open. So the socket is closed.
  if (socket?.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
    this.close(callback)
    return 0
  }
  const error = Object.getPrototypeOf(this).reset.call(this, callback)
  if (error === 0) this[observerKey]?.released()
  return error
}

/** Notifies `observer` when the handle has closed its fd. */
export function watchHandle(handle: Handle, observer: HandleObserver): void {
  const observed: Observed = handle
  observed[observerKey] = observer
  observed.close = closeAndNotify
  if (observed.reset) observed.reset = resetAndNotify
}

/** Returns the observer of a handle. */
export const observerOf = (handle: Handle): HandleObserver | undefined => (handle as Observed)[observerKey]

/**
 * The `_server` property of a socket: a server that counts its sockets. Node calls `_emitCloseIfDrained` when the
 * socket has ended.
 */
interface SocketCount {
  _connections: number
  _emitCloseIfDrained(): void
}

const counted = (socket: net.Socket) => socket as unknown as { _server: SocketCount | null }

// Replaces the `_server` of a socket. The application can remove an event listener, but not this object.
class WatchedCount implements SocketCount {
  readonly #server: SocketCount | null
  readonly #handle: Handle

  constructor(server: SocketCount | null, handle: Handle) {
    this.#server = server
    this.#handle = handle
  }

  get _connections(): number {
    return this.#server === null ? 0 : this.#server._connections
  }

  set _connections(count: number) {
    if (this.#server !== null) this.#server._connections = count
  }

  _emitCloseIfDrained(): void {
    this.#server?._emitCloseIfDrained()
    // When a socket is moved to a thread, the handle loses the fd only after this call.
    if (!this.#notifyIfReleased()) process.nextTick(() => this.#notifyIfReleased())
  }

  #notifyIfReleased(): boolean {
    if (this.#handle.fd >= 0) return false
    observerOf(this.#handle)?.released()
    return true
  }
}

/**
 * Notifies the observer of a handle also when the socket gives up the handle without closing it. This happens when the
 * socket is moved to a thread.
 */
export function watchSocket(socket: net.Socket, handle: Handle): void {
  counted(socket)._server = new WatchedCount(counted(socket)._server, handle)
}

/** Adds a socket to the connection count of a server. */
export function countSocket(server: net.Server, socket: net.Socket): void {
  const count = server as unknown as SocketCount
  count._connections++
  counted(socket)._server = count
}

/** Replaces the peer address that sockets on a handle report. An empty `peer` means an unknown address. */
export function setPeer(handle: Handle, peer: HandleAddress): void {
  handle.getpeername = (out) => {
    Object.assign(out, peer)
    return 0
  }
}

let ownerSymbol: symbol | undefined

/** Returns the socket on a handle; undefined if the handle never had a socket, or is closed. */
export function socketOn(handle: Handle): net.Socket | undefined {
  ownerSymbol ??= symbolOf(handle, 'owner_symbol')
  const owner = ownerSymbol && (handle as unknown as Record<symbol, unknown>)[ownerSymbol]
  // `instanceof` would fail if a tracer has replaced net.Socket with its own class.
  return typeof (owner as Partial<net.Socket> | undefined)?.destroy === 'function' ? (owner as net.Socket) : undefined
}

/**
 * Sets the handshake timeout of a tls.Server in ms, which Node's public API sets only at creation; 0: no timeout.
 * Returns the previous timeout. Throws `ERR_NODE_INTERNALS` if the server has no such property.
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

// The properties that an http.Server adds to its sockets.
type HttpSocket = net.Socket & {
  /** The response that is due next; null after the last response, undefined before the first request. */
  _httpMessage?: http.ServerResponse | null
  parser?: HttpParser | null
}

interface HttpParser {
  incoming?: http.IncomingMessage | null
  /** Whether the parser reads from the handle directly instead of through 'data' events of the socket. */
  _consumed?: boolean
  constructor: { kOnExecute?: number }
  [callback: number]: ((this: HttpParser, ...args: unknown[]) => unknown) | null | undefined
}

const connectionsOf = (server: net.Server) =>
  hidden(server, 'http.server.connections') as Partial<ConnectionsList> | undefined

/**
 * The state of an HTTP/1 connection. `unused`: no complete request head has arrived. `answering`: a request awaits its
 * response. `idle`: all requests are answered. `receiving`: all requests are answered, and part of another has arrived.
 */
export type HttpPhase = 'unused' | 'answering' | 'idle' | 'receiving'

/** Returns the HTTP/1 connections of a server, except upgraded ones; undefined if Node does not list them. */
export function httpConnections(server: net.Server): { socket: net.Socket; phase: HttpPhase }[] | undefined {
  const list = connectionsOf(server)
  const all = list?.all?.()
  if (all === undefined) return undefined
  // In Node 26, idle() also returns connections on which nothing has been received.
  const idle = new Set(list?.idle?.().map(({ socket }) => socket))
  return all.map(({ socket }) => ({ socket, phase: phaseOf(socket, idle) }))
}

function phaseOf(socket: HttpSocket, idle: Set<net.Socket>): HttpPhase {
  if (socket._httpMessage === undefined) return 'unused'
  if (socket._httpMessage !== null) return 'answering'
  // The parser may still be receiving the body of a request that has been answered already.
  return idle.has(socket) || newestRequestOn(socket) !== undefined ? 'idle' : 'receiving'
}

/** Returns whether a server is an HTTP server. With HTTP, the client sends first, and each request has one response. */
export function speaksHttp(server: net.Server): boolean {
  return 'closeIdleConnections' in server || 'updateSettings' in server
}

/** Returns the response that is due next on an HTTP/1 connection. Node keeps later ones in an inaccessible queue. */
export function responseOn(socket: net.Socket): http.ServerResponse | undefined {
  return (socket as HttpSocket)._httpMessage ?? undefined
}

/** Returns the last parsed request of an HTTP/1 connection; undefined once it has been answered and read. */
export function newestRequestOn(socket: net.Socket): http.IncomingMessage | undefined {
  return (socket as HttpSocket).parser?.incoming ?? undefined
}

/** Calls `run`, which must not throw, after the parser has emitted all requests in the bytes that it is parsing. */
export function afterParsing(socket: net.Socket, run: () => void): void {
  const { parser } = socket as HttpSocket
  const index = parser?.constructor.kOnExecute
  const onExecute = index === undefined ? undefined : parser?.[index]
  // If the parser is fed by 'data' events of the socket, the next tick runs after the event.
  if (!parser || index === undefined || !onExecute || parser._consumed !== true) {
    process.nextTick(run)
    return
  }
  // If the parser reads from the handle, the next tick is too early: if a request has a body, ticks run while the
  // parser is still parsing the segment.
  parser[index] = function (...args) {
    parser[index] = onExecute
    run()
    // `run` may have ended the connection, and the parser may already belong to another one. Then the callback must not
    // run.
    return parser[index] === onExecute ? onExecute.apply(this, args) : undefined
  }
}

/** Returns whether Node ends the connection after this response. The head of the response must have been written. */
export function endsConnection(response: http.ServerResponse): boolean {
  return (response as unknown as { _last?: boolean })._last === true
}

const symbolOf = (object: object, description: string) =>
  Object.getOwnPropertySymbols(object).find((each) => each.description === description)

function hidden(object: object, description: string): unknown {
  const symbol = symbolOf(object, description)
  return symbol && (object as Record<symbol, unknown>)[symbol]
}
