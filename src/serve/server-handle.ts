// The handle that a served net.Server listens on. Like node-internals.ts, this file depends on undocumented parts of
// Node, which are the same in versions 20 to 26 except where a comment says otherwise.
import net from 'node:net'
import { binding } from '../core/binding.js'
import { check, codedError, runSafely } from '../core/errors.js'
import {
  countSocket,
  type Handle,
  type HandleAddress,
  type HandleClass,
  observerOf,
  socketOn,
  watchSocket,
} from '../core/node-internals.js'

/** The listening socket that a served server appears to listen on. */
export interface ListeningSocket {
  readonly fd: number
  /** A string for a unix socket: its path. */
  readonly address: net.AddressInfo | string
}

/** The callbacks of a {@link ServerHandle}. They must not throw. */
export interface ServerObserver {
  ref(): void
  unref(): void
  /**
   * Called once, when the server is closed or its handle is moved to another thread. From then on, no client can be
   * passed to the server through this handle.
   */
  ended(how: 'closed' | 'moved'): void
  /** Called when `room` may have changed: a connection of the server has ended, or its `maxConnections` was set. */
  roomChanged(): void
}

interface NativeServerHandle extends Handle {
  onconnection(status: number, client?: Handle): void
  ref(): void
  unref(): void
}

// Properties of net.Server that its type declarations omit.
type Internals = {
  _handle: unknown
  _connections: number
  _connectionKey: string
  _pipeName: string
  _listeningId: number
  maxConnections?: unknown
  _listen2(address: null, port: number, addressType: number): void
}

// TCPConstants.SERVER and PipeConstants.SERVER.
const SERVER = 1

// With a maxConnections of 0, Node 20 has no limit. Later versions accept no connection.
const zeroIsNoLimit = Number.parseInt(process.versions.node, 10) < 21

/**
 * Makes a server listen on a handle that never accepts. `passClient` passes a client to the server as if the handle had
 * accepted it. The server sets its socket options, counts the connection and publishes to its diagnostics channels.
 * Node has no public API for this.
 *
 * The handle has its own copy of the listening fd. The server can therefore be sent to a child process or moved to
 * another thread, like a server that called `listen()`.
 *
 * While the server listens, accessors replace three of its properties: `_handle`, `maxConnections` and `_connections`.
 * They detect that the server stops listening, or that the number of connections that it can take changes.
 */
export class ServerHandle {
  readonly server: net.Server
  readonly #observer: ServerObserver
  readonly #handle: NativeServerHandle
  readonly #restore: (() => void)[] = []
  #listening = true
  /** The server's `maxConnections`. While `#unlimited` is set, the property reads as undefined. */
  #maxConnections: unknown
  #unlimited = false

  /** Borrows `socket.fd`. Errors: `ERR_SERVER_ALREADY_LISTEN`, `ERR_NODE_INTERNALS`, `EMFILE`. */
  constructor(server: net.Server, HandleClass: HandleClass, socket: ListeningSocket, observer: ServerObserver) {
    this.server = server
    this.#observer = observer
    if (server.listening) net.Server.prototype.listen.call(server, 0) // throws
    const handle = openServerHandle(HandleClass, socket.fd)
    this.#handle = handle
    const { address } = socket
    const native = Object.getPrototypeOf(handle) as NativeServerHandle
    const methods = {
      listen: () => 0,
      // Node calls getsockname() if the handle has it. Without it, `address()` returns the server's `_pipeName`.
      getsockname: typeof address === 'string' ? undefined : getsocknameOf(address),
      ref: callThen(native.ref, () => observer.ref()),
      unref: callThen(native.unref, () => observer.unref()),
      close: callThen(native.close, () => this.#end('closed')),
    }
    for (const [name, value] of Object.entries(methods)) define(handle, name, { value, configurable: true })
    try {
      listenOn(server, handle, address)
      if (typeof handle.onconnection !== 'function')
        throw codedError('ERR_NODE_INTERNALS', 'the handle of a net.Server')
    } catch (error) {
      native.close.call(handle)
      throw error
    }
    this.#observe()
  }

  /** Whether the server listens on this handle. False when it listens on another one. */
  get listening(): boolean {
    return this.#listening
  }

  /** The number of connections that the server's own `maxConnections` still allows; negative when it has too many. */
  get room(): number {
    return limitOf(this.#maxConnections) - internals(this.server)._connections
  }

  /**
   * Passes a client to the server as if the server had accepted it. Takes ownership of the handle. The server does not
   * drop the client when `maxConnections` is reached, because the limit was checked before the accept.
   */
  passClient(client: Handle): void {
    this.#unlimited = this.room <= 0
    try {
      this.#handle.onconnection(0, client)
    } finally {
      this.#unlimited = false
      const socket = socketOn(client)
      // An event handler may have moved the socket to a thread already.
      if (client.fd < 0) observerOf(client)?.released()
      else if (socket !== undefined) watchSocket(socket, client)
    }
  }

  /** Passes a socket that the server did not create. The server counts the socket like its own. */
  adopt(socket: net.Socket): void {
    countSocket(this.server, socket)
    this.server.emit('connection', socket)
  }

  /** Makes the server emit 'error', as after a failed accept of its own. `errno` is negative. */
  failAccept(errno: number): void {
    this.#handle.onconnection(errno)
  }

  ref(): void {
    if (this.#listening) this.server.ref()
  }

  unref(): void {
    if (this.#listening) this.server.unref()
  }

  /** Closes the copy of the listening fd. The server is still `listening` until it is closed. */
  releaseFd(): void {
    Object.getPrototypeOf(this.#handle).close.call(this.#handle)
  }

  /** Closes the server if it still listens on this handle. */
  close(): void {
    if (this.#listening) runSafely(() => this.server.close())
  }

  #observe(): void {
    const { server } = this
    let handle: unknown = this.#handle
    this.#replace('_handle', {
      get: () => handle,
      set: (next: unknown) => {
        handle = next
        // server.close() first calls handle.close(), which reports the end, and then sets `_handle` to null. A move to
        // a thread only sets `_handle`.
        if (next !== this.#handle) this.#end('moved')
      },
    })
    this.#maxConnections = internals(server).maxConnections
    this.#replace('maxConnections', {
      get: () => (this.#unlimited ? undefined : this.#maxConnections),
      set: (next: unknown) => {
        this.#maxConnections = next
        this.#observer.roomChanged()
      },
    })
    // Sending a socket to a child process decrements the count and has no other visible effect.
    let connections = internals(server)._connections
    this.#replace('_connections', {
      get: () => connections,
      set: (next: number) => {
        const fewer = next < connections
        connections = next
        if (fewer) this.#observer.roomChanged()
      },
    })
  }

  /**
   * Replaces a property of the server by an accessor while the server listens on this handle. Afterwards, it is a data
   * property again and keeps its current value.
   */
  #replace(name: keyof Internals, property: PropertyDescriptor): void {
    const { server } = this
    const before = Object.getOwnPropertyDescriptor(server, name)
    define(server, name, { ...property, configurable: true, enumerable: before?.enumerable ?? false })
    this.#restore.push(() => {
      const value = property.get === undefined ? before?.value : property.get()
      delete (server as unknown as Partial<Internals>)[name]
      if (before !== undefined || value !== undefined) {
        define(server, name, { configurable: true, enumerable: true, writable: true, value })
      }
    })
  }

  #end(how: 'closed' | 'moved'): void {
    if (!this.#listening) return
    this.#listening = false
    this.#unlimited = false
    for (const restore of this.#restore) restore()
    this.#observer.ended(how)
  }
}

function openServerHandle(HandleClass: HandleClass, listeningFd: number): NativeServerHandle {
  const fd: number = check(binding.duplicate(listeningFd), 'fcntl')
  const handle = new HandleClass(SERVER) as NativeServerHandle
  let opened = false
  try {
    // Throws ERR_ACCESS_DENIED where the permission model of Node restricts it.
    opened = handle.open(fd) === 0
  } finally {
    if (!opened) {
      handle.close()
      binding.close(fd)
    }
  }
  if (!opened) throw codedError('ERR_NODE_INTERNALS', 'the handle of a net.Server')
  binding.release(fd)
  return handle
}

// The descriptor gets no prototype. Otherwise, a property such as `get` of Object.prototype would become a part of it.
function define(object: object, name: string, property: PropertyDescriptor): void {
  Object.defineProperty(object, name, Object.assign(Object.create(null), property))
}

/** Returns a method of a handle that calls Node's `method` and then `run`. */
function callThen(method: (this: NativeServerHandle) => void, run: () => void) {
  return function (this: NativeServerHandle): void {
    method.call(this)
    run()
  }
}

const getsocknameOf = (address: net.AddressInfo) => (out: HandleAddress) => {
  Object.assign(out, address)
  return 0
}

// Does what listen({ _handle }) does for a TCP handle. That call would pass through a listen() that a framework or a
// tracer has replaced, and for a Pipe it would create another handle from the fd.
function listenOn(server: net.Server, handle: NativeServerHandle, address: net.AddressInfo | string): void {
  const internal = internals(server)
  internal._listeningId++
  internal._handle = handle
  internal._listen2(null, -1, -1)
  if (typeof address === 'string') {
    internal._pipeName = address
    internal._connectionKey = `-1:${address}:-1`
  } else {
    // The key under which a child process counts the sockets of this server that it has received.
    internal._connectionKey = `${address.family === 'IPv6' ? 6 : 4}:${address.address}:${address.port}`
  }
}

const internals = (server: net.Server) => server as unknown as Internals

/** The smallest number of connections at which a server with this `maxConnections` drops the next one. */
function limitOf(maxConnections: unknown): number {
  if (maxConnections === undefined || maxConnections === null) return Number.POSITIVE_INFINITY
  if (zeroIsNoLimit && !maxConnections) return Number.POSITIVE_INFINITY
  // Node compares the count with `maxConnections`. This comparison converts `maxConnections` as Number() does.
  const limit = Math.ceil(Number(maxConnections))
  return Number.isNaN(limit) ? Number.POSITIVE_INFINITY : Math.max(limit, 0)
}
