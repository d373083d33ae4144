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
  /** Bytes that were read, also those beneath TLS. */
  readonly bytesRead?: number
  /** Bytes that the kernel has not taken yet. */
  readonly writeQueueSize?: number
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
    binding.prepareTransfer(fd)
    socket = new net.Socket({ fd, readable: false, writable: false })
  } catch (error) {
    // Node has no handle for this address family.
    binding.close(fd)
    throw error
  }
  binding.release(fd)
  HandleClass = handleClassOf(socket)
  // Until the next turn it is among the resources of the process that are active, unless they need not be waited for.
  socket.unref().destroy()
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

/** Whether the handle is still the socket's own. */
export const hasHandle = (socket: net.Socket, handle: Handle): boolean => handleOf(socket) === handle

/** The handle of a socket, or of the one beneath a TLSSocket; also through the proxy that http2 has for a socket. */
export function handleBeneath(socket: net.Socket): Handle | undefined {
  let handle = handleOf(socket) as (Handle & { _parent?: Handle }) | null | undefined
  while (handle?._parent) handle = handle._parent
  return handle ?? undefined
}

/** Notified when the fd of a handle is closed, or has gone elsewhere. */
export interface HandleObserver {
  /** May be called more than once. Must not throw. */
  released(): void
}

const observer = Symbol('observer')
type Observed = Handle & { [observer]?: HandleObserver }

// What ends a socket comes to one of these two: destroy(), a TLSSocket or an http2 session above it, and a process that
// has sent it to another. What does not is seen by watchSocket.
function closeAndTell(this: Observed, callback?: () => void): void {
  Object.getPrototypeOf(this).close.call(this, callback)
  this[observer]?.released()
}

function resetAndTell(this: Observed, callback?: () => void): number {
  const socket = socketOn(this)
  // libuv does not reset a socket while its end is being sent (EINVAL), and Node then loses the handle with its fd open.
  if (socket?.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
    this.close(callback)
    return 0
  }
  const error = Object.getPrototypeOf(this).reset.call(this, callback)
  if (error === 0) this[observer]?.released()
  return error
}

/** Notifies `each` when the handle has closed its fd. */
export function watchHandle(handle: Handle, each: HandleObserver): void {
  const observed: Observed = handle
  observed[observer] = each
  observed.close = closeAndTell
  if (observed.reset) observed.reset = resetAndTell
}

/** Who is notified of the end of a handle. */
export const observerOf = (handle: Handle): HandleObserver | undefined => (handle as Observed)[observer]

/** What counts a socket: Node tells its end to this, the socket's `_server`. */
interface SocketCount {
  _connections: number
  _emitCloseIfDrained(): void
}

const counted = (socket: net.Socket) => socket as unknown as { _server: SocketCount | null }

// In the place of the server, so that it is told after every socket without a listener that an application could remove.
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
    // A thread takes the fd only behind the end of the socket that is moved to it.
    if (!this.#look()) process.nextTick(() => this.#look())
  }

  #look(): boolean {
    if (this.#handle.fd >= 0) return false
    observerOf(this.#handle)?.released()
    return true
  }
}

/**
 * Has the observer of a handle notified also when the socket on it loses the handle without closing it: a socket that is
 * moved to a thread does.
 */
export function watchSocket(socket: net.Socket, handle: Handle): void {
  counted(socket)._server = new WatchedCount(counted(socket)._server, handle)
}

/** Counts a socket among those of a server. */
export function countSocket(server: net.Server, socket: net.Socket): void {
  const count = server as unknown as SocketCount
  count._connections++
  counted(socket)._server = count
}

/** Replaces the peer address that sockets on a handle report. An empty `peer` means that it is unknown. */
export function setPeer(handle: Handle, peer: HandleAddress): void {
  handle.getpeername = (out) => {
    Object.assign(out, peer)
    return 0
  }
}

let ownerSymbol: symbol | undefined

/** The socket on a handle; undefined when the handle was never a socket's, or is closed. */
export function socketOn(handle: Handle): net.Socket | undefined {
  ownerSymbol ??= symbolOf(handle, 'owner_symbol')
  const owner = ownerSymbol && (handle as unknown as Record<symbol, unknown>)[ownerSymbol]
  // Not by `instanceof`: a tracer may have put a class of its own in the place of net.Socket.
  return typeof (owner as Partial<net.Socket> | undefined)?.destroy === 'function' ? (owner as net.Socket) : undefined
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

// What an http.Server adds to the sockets that it serves.
type HttpSocket = net.Socket & {
  /** The response at the head of the queue; null behind the last one, undefined before the first. */
  _httpMessage?: http.ServerResponse | null
  parser?: HttpParser | null
}

interface HttpParser {
  incoming?: http.IncomingMessage | null
  /** It reads from the handle itself, and not what the socket emits. */
  _consumed?: boolean
  constructor: { kOnExecute?: number }
  [callback: number]: ((this: HttpParser, ...args: unknown[]) => unknown) | null | undefined
}

const connectionsOf = (server: net.Server) =>
  hidden(server, 'http.server.connections') as Partial<ConnectionsList> | undefined

/**
 * What an HTTP/1 connection is doing. `unused`: no whole request head has come. `answering`: a request waits for its
 * response. `idle`: all requests are answered. `receiving`: the same, and the beginning of another request has come.
 */
export type HttpPhase = 'unused' | 'answering' | 'idle' | 'receiving'

/** The HTTP/1 connections of a server; undefined when Node does not list them. An upgraded one is no longer listed. */
export function httpConnections(server: net.Server): { socket: net.Socket; phase: HttpPhase }[] | undefined {
  const list = connectionsOf(server)
  const all = list?.all?.()
  if (all === undefined) return undefined
  // Node 26 also lists here the connections from which nothing has come.
  const idle = new Set(list?.idle?.().map(({ socket }) => socket))
  return all.map(({ socket }) => ({ socket, phase: phaseOf(socket, idle) }))
}

function phaseOf(socket: HttpSocket, idle: Set<net.Socket>): HttpPhase {
  if (socket._httpMessage === undefined) return 'unused'
  if (socket._httpMessage !== null) return 'answering'
  // The parser is also busy with the body of a request whose response did not wait for it.
  return idle.has(socket) || newestRequestOn(socket) !== undefined ? 'idle' : 'receiving'
}

/** Whether a server speaks HTTP: its clients speak first, and each of their requests has one response. */
export function speaksHttp(server: net.Server): boolean {
  return 'closeIdleConnections' in server || 'updateSettings' in server
}

/** The response whose turn it is on an HTTP/1 connection. Node queues the later ones out of reach. */
export function responseOn(socket: net.Socket): http.ServerResponse | undefined {
  return (socket as HttpSocket)._httpMessage ?? undefined
}

/** The newest request whose head was parsed on an HTTP/1 connection; undefined when it is answered and read. */
export function newestRequestOn(socket: net.Socket): http.IncomingMessage | undefined {
  return (socket as HttpSocket).parser?.incoming ?? undefined
}

/** Calls `run`, which must not throw, when the parser has emitted all requests of the bytes that it is reading. */
export function afterParsing(socket: net.Socket, run: () => void): void {
  const { parser } = socket as HttpSocket
  const index = parser?.constructor.kOnExecute
  const onExecute = index === undefined ? undefined : parser?.[index]
  // When the bytes come through the socket, the parser runs within an event of it.
  if (!parser || index === undefined || !onExecute || parser._consumed !== true) {
    process.nextTick(run)
    return
  }
  // Not a tick: where a request has a body, ticks run while its segment is parsed.
  parser[index] = function (...args) {
    parser[index] = onExecute
    run()
    // Unless that was the end of the connection, and the parser serves another.
    return parser[index] === onExecute ? onExecute.apply(this, args) : undefined
  }
}

/** Whether Node ends the connection behind this response, whose head is written. */
export function endsConnection(response: http.ServerResponse): boolean {
  return (response as unknown as { _last?: boolean })._last === true
}

const symbolOf = (object: object, description: string) =>
  Object.getOwnPropertySymbols(object).find((each) => each.description === description)

function hidden(object: object, description: string): unknown {
  const symbol = symbolOf(object, description)
  return symbol && (object as Record<symbol, unknown>)[symbol]
}
