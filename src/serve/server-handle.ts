// What a served net.Server has beneath it. Like node-internals.ts, it knows what Node does not document; the versions 20
// to 26 are alike in it, but for what is said here.
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

/** The listening socket that a server is to listen on. */
export interface ListeningSocket {
  readonly fd: number
  /** A path for a unix socket. */
  readonly address: net.AddressInfo | string
}

/** What a {@link ServerHandle} reports. None of them may throw. */
export interface ServerObserver {
  ref(): void
  unref(): void
  /** The server is closed, or its handle was moved to another thread: it gets nothing more from here. Once. */
  ended(how: 'closed' | 'moved'): void
  /** The server may have more room, or less: a connection of it has ended, or its `maxConnections` was set. */
  roomChanged(): void
}

interface NativeServerHandle extends Handle {
  onconnection(status: number, client?: Handle): void
  ref(): void
  unref(): void
}

// What net.Server keeps and its types leave out.
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

// Node 20 takes a maxConnections of 0 for none; later versions accept no connection then.
const zeroIsNoLimit = Number.parseInt(process.versions.node, 10) < 21

/**
 * Makes a server listen on a handle that never accepts. What is given to `connect` is treated as if the handle had accepted
 * it. Node has no public way to hand a client to a server so that its socket options, its count of connections, and its
 * diagnostics channels are those of a client that it has accepted.
 *
 * The handle has a copy of the listening fd. So the server can be sent to a child process or moved to another thread, as one
 * that listens itself.
 *
 * While the server listens, three properties of it are accessors of ours: `_handle`, `maxConnections` and
 * `_connections`. Whatever ends the listening, or changes how many connections the server takes, goes through them.
 */
export class ServerHandle {
  readonly server: net.Server
  readonly #observer: ServerObserver
  readonly #handle: NativeServerHandle
  readonly #restore: (() => void)[] = []
  #listening = true
  /** What the server has as its `maxConnections`; while `#unlimited` is set, it reads none. */
  #maxConnections: unknown
  #unlimited = false

  /** Borrows the fd. Errors: `ERR_SERVER_ALREADY_LISTEN`, `ERR_NODE_INTERNALS`, `EMFILE`. */
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
      // A server asks for the name of what has one, and else knows the path that it was told.
      getsockname: typeof address === 'string' ? undefined : nameOf(address),
      ref: after(native.ref, () => observer.ref()),
      unref: after(native.unref, () => observer.unref()),
      close: after(native.close, () => this.#end('closed')),
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

  /** Whether the server listens on this handle; false as well when it listens anew, on another. */
  get listening(): boolean {
    return this.#listening
  }

  /** How many more connections the server takes by its own `maxConnections`; negative when it has too many. */
  get room(): number {
    return limitOf(this.#maxConnections) - internals(this.server)._connections
  }

  /**
   * Gives a client to the server, as one that it has accepted. Takes the handle. The server drops none: one that was
   * accepted before `maxConnections` was lowered is within the limit of that time.
   */
  connect(client: Handle): void {
    this.#unlimited = this.room <= 0
    try {
      this.#handle.onconnection(0, client)
    } finally {
      this.#unlimited = false
      const socket = socketOn(client)
      // A handler may have moved it to a thread already.
      if (client.fd < 0) observerOf(client)?.released()
      else if (socket !== undefined) watchSocket(socket, client)
    }
  }

  /** Gives the server a socket that was made outside, counted like those that it makes. */
  adopt(socket: net.Socket): void {
    countSocket(this.server, socket)
    this.server.emit('connection', socket)
  }

  /** Has the server emit 'error' as when its own accept fails. `errno` is negative. */
  fail(errno: number): void {
    this.#handle.onconnection(errno)
  }

  ref(): void {
    if (this.#listening) this.server.ref()
  }

  unref(): void {
    if (this.#listening) this.server.unref()
  }

  /** Closes the copy of the listening fd. The server still counts as listening, until it is closed. */
  releaseFd(): void {
    Object.getPrototypeOf(this.#handle).close.call(this.#handle)
  }

  /** Closes the server, if it still listens on this handle. */
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
        // By close(), behind handle.close(); or by the move to a thread, without it.
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
    // Also the sending of a socket to a child process lowers it, and nothing else is called then.
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

  /** Replaces a property of the server until the listening ends; then it is what it was, with the value that it has. */
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
  const handle = new HandleClass(SERVER) as NativeServerHandle
  const fd: number = check(binding.duplicate(listeningFd), 'fcntl')
  const error = handle.open(fd)
  if (error === 0) {
    binding.release(fd)
    return handle
  }
  handle.close()
  binding.close(fd)
  throw codedError('ERR_NODE_INTERNALS', 'the handle of a net.Server')
}

// What Object.prototype may have is not about this property.
function define(object: object, name: string, property: PropertyDescriptor): void {
  Object.defineProperty(object, name, Object.assign(Object.create(null), property))
}

/** A method of a handle that also runs `run`, behind Node's. */
function after(method: (this: NativeServerHandle) => void, run: () => void) {
  return function (this: NativeServerHandle): void {
    method.call(this)
    run()
  }
}

const nameOf = (address: net.AddressInfo) => (out: HandleAddress) => {
  Object.assign(out, address)
  return 0
}

function listenOn(server: net.Server, handle: NativeServerHandle, address: net.AddressInfo | string): void {
  const inside = internals(server)
  if (typeof address === 'string') {
    // listen() would make a handle of its own from the fd of a Pipe.
    inside._listeningId++
    inside._handle = handle
    inside._listen2(null, -1, -1)
    inside._pipeName = address
    inside._connectionKey = `-1:${address}:-1`
  } else {
    // Not the server's own, by which a framework may have come here.
    net.Server.prototype.listen.call(server, { _handle: handle } as net.ListenOptions)
    // The name by which a child process counts the sockets of a server that are sent to it.
    inside._connectionKey = `${address.family === 'IPv6' ? 6 : 4}:${address.address}:${address.port}`
  }
}

const internals = (server: net.Server) => server as unknown as Internals

/** The smallest number of connections at which a server with this `maxConnections` drops the next one. */
function limitOf(maxConnections: unknown): number {
  if (maxConnections === undefined || maxConnections === null) return Number.POSITIVE_INFINITY
  if (zeroIsNoLimit && !maxConnections) return Number.POSITIVE_INFINITY
  // Node compares a number with it, so it converts it as Number() does.
  const limit = Math.ceil(Number(maxConnections))
  return Number.isNaN(limit) ? Number.POSITIVE_INFINITY : Math.max(limit, 0)
}
