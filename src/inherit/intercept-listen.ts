// Like core/node-internals.ts and serve/server-handle.ts, this file depends on undocumented parts of Node. They are the
// same in versions 20 to 26. It stands here because it changes a prototype, and nothing else may do that.
//
// Node calls `_listen2` of the server when it has read the arguments of listen(), resolved the host and added the
// callback and the signal. So everything before that is Node's own, in every version, and a program or a tracer may
// replace listen() at any time. If a later Node does not call `_listen2`, no server gets an inherited socket, and the
// warning about unserved sockets says so.
import cluster from 'node:cluster'
import net from 'node:net'
import type { Asked } from './asked-address.js'

export interface ListenHandler {
  /**
   * Called before Node opens a socket. Returns true if the server listens on inherited sockets now; an error if it
   * cannot; undefined if Node shall open a socket. Must not throw.
   */
  onListen(server: net.Server, asked: Asked): true | Error | undefined
  /** Called when the program listens on an fd itself. Must not throw. */
  onListenFd(fd: number): void
}

// Properties of net.Server that its type declarations omit.
type Internals = net.Server & { _handle: unknown; _listen2: Listen2 }
type Listen2 = (
  this: Internals,
  address: string | null,
  port: number | null,
  addressType: number | null,
  backlog: number,
  fd: number | null | undefined,
  flags: number | undefined,
) => void

// UV_TCP_IPV6ONLY and UV_TCP_REUSEPORT of libuv. Node 20 has no `reusePort`: it ignores the option.
const IPV6_ONLY = 1
const REUSE_PORT = 2

/**
 * Calls `handler` for every listen() call in this thread that makes Node open a listening socket. Throws if the method
 * of net.Server cannot be replaced.
 */
export function interceptListen(handler: ListenHandler): void {
  const prototype = serverPrototype()
  if (prototype === undefined) return
  if (Object.isFrozen(prototype)) throw new Error('an earlier preload has frozen net.Server.prototype')
  const { _listen2: listen2 } = prototype
  const intercepted: Listen2 = function (...args) {
    const [address, port, addressType, backlog, fd, flags] = args
    // With a handle, the server listens on a socket that exists already. serve() calls this method in this way.
    if (this._handle) return listen2.apply(this, args)
    if (typeof fd === 'number' && fd >= 0) handler.onListenFd(fd)
    // Workers of `cluster` are other processes, and would not get the connections.
    const asked = acceptsForCluster(this) ? undefined : readAsked(address, port, flags)
    const served = asked && handler.onListen(this, asked)
    if (served === undefined) return listen2.apply(this, args)
    if (served === true) {
      keepMode(this._handle)
      return
    }
    const { errno } = served as { errno?: number }
    if (typeof errno !== 'number') {
      process.nextTick(() => this.emit('error', served))
      return
    }
    // Node itself makes the error, publishes it and emits it, as if listen(2) had failed.
    this._handle = { listen: () => errno, close() {} }
    listen2.call(this, address ?? '::', port, addressType, backlog, undefined, flags)
  }
  // Its name, its length and the attributes of the property stay.
  const { name, length } = listen2
  Object.defineProperties(intercepted, { name: { value: name }, length: { value: length } })
  const attributes = Object.getOwnPropertyDescriptor(prototype, '_listen2')
  Object.defineProperty(prototype, '_listen2', { ...attributes, value: intercepted })
}

/** The prototype that has Node's own methods. A tracer may have replaced net.Server by its own class. */
function serverPrototype(): Internals | undefined {
  let prototype = net.Server.prototype as Internals | null
  while (prototype !== null && !Object.hasOwn(prototype, '_listen2')) prototype = Object.getPrototypeOf(prototype)
  return prototype ?? undefined
}

function readAsked(address: string | null, port: number | null, flags = 0): Asked | undefined {
  if (port === -1 && typeof address === 'string') return { path: address }
  if (typeof port !== 'number' || port < 0) return undefined
  return { port, address, ipv6Only: (flags & IPV6_ONLY) !== 0, reusePort: (flags & REUSE_PORT) !== 0 }
}

// listen() with `readableAll` or `writableAll` changes the mode of the path. The mode of an inherited socket is that of
// its unit (SocketMode=), and the process often has no right to change it.
function keepMode(handle: unknown): void {
  if (typeof handle === 'object' && handle !== null) {
    // Without a prototype, a property such as `get` of Object.prototype does not become a part of the descriptor.
    const property: PropertyDescriptor = Object.create(null)
    Object.defineProperty(handle, 'fchmod', Object.assign(property, { value: () => 0, configurable: true }))
  }
}

// With the scheduling policy of a cluster that is its default, the primary listens for its workers by a server whose
// only handler fails, and takes the handle from the server.
function acceptsForCluster(server: net.Server): boolean {
  if (!cluster.isPrimary || Object.keys(cluster.workers ?? {}).length === 0) return false
  const handlers = server.listeners('connection')
  return handlers.length === 1 && handlers[0]?.name === 'fail'
}
