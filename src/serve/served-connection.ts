import type { ServerHttp2Session } from 'node:http2'
import type net from 'node:net'
import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import type { FdObserver, OwnedFd } from '../accept/owned-fd.js'
import type { PlainAddress } from '../core/binding.js'
import { type CodedError, runSafely } from '../core/errors.js'
import {
  type Handle,
  type HandleClass,
  handleBeneath,
  hasHandle,
  observerOf,
  socketOn,
} from '../core/node-internals.js'
import * as validate from '../core/validate.js'
import type { Proxied } from '../peek/proxied.js'
import type { ProxyHeader } from '../peek/proxy-protocol.js'

/** The open connections of a Serving. */
export class ServedConnections {
  readonly all = new Set<ServedConnection>()
  /** Called when a connection has ended. */
  readonly onReleased: () => void
  /** The number of connections that the server or function has yet to receive. */
  undelivered = 0

  constructor(onReleased: () => void) {
    this.onReleased = onReleased
  }
}

/** The record of one connection of a Serving, from its accept until its fd is closed, detached or moved to a thread. */
export class ServedConnection implements FdObserver {
  handle: Handle | undefined
  proxied: Proxied | undefined
  /** The TLS socket on top of the connection, and the HTTP/2 session; undefined before they exist. */
  secure: tls.TLSSocket | undefined
  session: ServerHttp2Session | undefined
  /** Whether `destroy()` was called. */
  destroyed = false
  readonly owned: OwnedFd
  /** The class of the handle that a server gets; undefined when a function is served. */
  readonly handleClass: HandleClass | undefined
  readonly #connections: ServedConnections
  #settled = false

  constructor(connection: Connection, connections: ServedConnections, handleClass: HandleClass | undefined) {
    this.#connections = connections
    this.handleClass = handleClass
    // Another Serving may have read the PROXY header of a connection that was passed to add().
    this.proxied = connection.proxied
    this.owned = Connection.observe(connection, this)
    connections.all.add(this)
    connections.undelivered++
  }

  /** Whether the connection is claimed, or was passed to another Serving. */
  get lost(): boolean {
    return this.owned.fd < 0 || this.owned.observer !== this
  }

  /** Called when the server or function receives the connection, or when it is certain that it never will. */
  markSettled(): void {
    if (this.#settled) return
    this.#settled = true
    this.#connections.undelivered--
  }

  setProxied(header: ProxyHeader, proxy: { remoteAddress: string | undefined; remotePort: number | undefined }): void {
    const { source, family } = header
    const known = family === 'IPv4' || family === 'IPv6' ? { ...source, family } : {}
    // A LOCAL or UNKNOWN header names no client. The address of the proxy stays the remote address.
    if (source !== undefined) this.owned.peer = { ...source, ...known } as PlainAddress
    this.proxied = { header, ...proxy, client: source && known }
  }

  released(): void {
    if (!this.#connections.all.delete(this)) return
    this.markSettled()
    this.#connections.onReleased()
  }

  /** Closes the fd, unless the connection is lost. */
  close(end: 'close' | 'reset'): void {
    if (!this.lost) this.owned.close(end)
  }

  destroy(): void {
    this.destroyed = true
    const { handle } = this
    if (handle === undefined) {
      this.close('reset')
      return
    }
    const socket = socketOn(handle)
    // After child.send(), the socket has no handle any more. The handle stays open until the child process acknowledges
    // the socket. Close the handle directly: Node has already decremented the server's connection count, and
    // socket.destroy() would decrement it again.
    if (socket === undefined || !hasHandle(socket, handle)) handle.close()
    else runSafely(() => socket.destroy())
    // After a TLS error, Node closes the handle in a microtask, so that event handlers can still use the socket. If the
    // handle is still open in the check phase, close it there.
    setImmediate(() => {
      if (this.#connections.all.has(this)) handle.close()
    })
  }
}

/** The connection beneath a socket. Undefined when the connection does not belong to a Serving, or is closed. */
function servedConnectionOn(socket: net.Socket): ServedConnection | undefined {
  const handle = handleBeneath(socket)
  const served = handle && observerOf(handle)
  return served instanceof ServedConnection ? served : undefined
}

// All Servings of a server share these event listeners. Each looks up the connection beneath the socket, whichever
// Serving has accepted it.
const upgrades = {
  session(session: ServerHttp2Session): void {
    const served = servedConnectionOn(session.socket)
    if (served !== undefined) served.session = session
  },
  secureConnection(socket: tls.TLSSocket): void {
    const served = servedConnectionOn(socket)
    if (served !== undefined) served.secure = socket
  },
  // Node leaves the connection open after a handshake timeout.
  tlsClientError(error: CodedError, socket: tls.TLSSocket): void {
    if (error.code === 'ERR_TLS_HANDSHAKE_TIMEOUT' && servedConnectionOn(socket)) socket.destroy()
  },
}

/** For each server: the number of its Servings for which `trackUpgrades` is in effect. */
const trackers = new WeakMap<net.Server, number>()

/**
 * Stores the TLS socket and the HTTP/2 session of each connection of a server in its {@link ServedConnection}. Returns
 * a function that stops the tracking for one Serving. The event listeners are removed when it has stopped for every
 * Serving of the server.
 */
export function trackUpgrades(server: net.Server): () => void {
  const events = Object.entries(upgrades).filter(([event]) => event === 'session' || validate.isTlsServer(server))
  const changeCount = (change: number) => {
    const now = (trackers.get(server) ?? 0) + change
    trackers.set(server, now)
    return now
  }
  changeCount(1)
  // An application may have removed the event listeners that an earlier Serving added.
  for (const [event, listener] of events) if (!server.listeners(event).includes(listener)) server.on(event, listener)
  return () => {
    if (changeCount(-1) === 0) for (const [event, listener] of events) server.off(event, listener)
  }
}
