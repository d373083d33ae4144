import type { ServerHttp2Session } from 'node:http2'
import type net from 'node:net'
import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import type { FdObserver, OwnedFd } from '../accept/owned-fd.js'
import type { PlainAddress } from '../core/binding.js'
import { type CodedError, runSafely } from '../core/errors.js'
import { type Handle, handleBeneath, hasHandle, observerOf, socketOn } from '../core/node-internals.js'
import * as validate from '../core/validate.js'
import type { Proxied } from '../peek/proxied.js'
import type { ProxyHeader } from '../peek/proxy-protocol.js'

/** A connection of a Serving while it is open. */
export class ServedConnection implements FdObserver {
  handle: Handle | undefined
  proxied: Proxied | undefined
  /** The TLS socket above it, and the session with HTTP/2, as soon as there is one. */
  secure: tls.TLSSocket | undefined
  session: ServerHttp2Session | undefined
  /** The server has not got it yet: it waits for its PROXY header or its handshake. */
  waiting = true
  destroyed = false
  readonly owned: OwnedFd
  readonly #live: Set<ServedConnection>
  readonly #ended: (served: ServedConnection) => void

  constructor(connection: Connection, live: Set<ServedConnection>, ended: (served: ServedConnection) => void) {
    this.#live = live
    this.#ended = ended
    this.owned = Connection.observe(connection, this)
    live.add(this)
  }

  introduce(header: ProxyHeader, proxy: { remoteAddress: string | undefined; remotePort: number | undefined }): void {
    const { source, family } = header
    const known = family === 'IPv4' || family === 'IPv6' ? { ...source, family } : {}
    // A proxy that speaks for itself, or does not know for whom, is the client.
    if (source !== undefined) this.owned.peer = { ...source, ...known } as PlainAddress
    this.proxied = { header, ...proxy, client: source && known }
  }

  released(): void {
    if (this.#live.delete(this)) this.#ended(this)
  }

  destroy(): void {
    this.destroyed = true
    const { handle } = this
    if (handle === undefined) {
      this.owned.close('reset')
      return
    }
    const socket = socketOn(handle)
    // A socket that was sent to a child process has lost its handle, which stays open until the child has answered. Node
    // counts the socket no more, and would count it off again.
    if (socket === undefined || !hasHandle(socket, handle)) handle.close()
    else runSafely(() => socket.destroy())
    // After an error Node closes the handle a moment later.
    setImmediate(() => {
      if (this.#live.has(this)) handle.close()
    })
  }
}

/** The connection beneath a socket, while it is one of a Serving. */
function servedConnectionOn(socket: net.Socket): ServedConnection | undefined {
  const handle = handleBeneath(socket)
  const served = handle && observerOf(handle)
  return served instanceof ServedConnection ? served : undefined
}

// The same functions for all Servings that a server has had: each looks for the connection, not for the Serving.
const upgrades = {
  session(session: ServerHttp2Session): void {
    const served = servedConnectionOn(session.socket)
    if (served !== undefined) served.session = session
  },
  secureConnection(socket: tls.TLSSocket): void {
    const served = servedConnectionOn(socket)
    if (served !== undefined) served.secure = socket
  },
  // Node leaves it open.
  tlsClientError(error: CodedError, socket: tls.TLSSocket): void {
    if (error.code === 'ERR_TLS_HANDSHAKE_TIMEOUT' && servedConnectionOn(socket)) socket.destroy()
  },
}

const servings = new WeakMap<net.Server, number>()

/**
 * Has the connections of a server know what was made of them: a TLS socket, a session with HTTP/2. The function that is
 * returned ends that when it was called for each Serving that the server has had.
 */
export function trackUpgrades(server: net.Server): () => void {
  const events = Object.entries(upgrades).filter(([event]) => event === 'session' || validate.isTlsServer(server))
  const count = (change: number) => {
    const now = (servings.get(server) ?? 0) + change
    servings.set(server, now)
    return now
  }
  count(1)
  // An application may have removed them.
  for (const [event, note] of events) if (!server.listeners(event).includes(note)) server.on(event, note)
  return () => {
    if (count(-1) === 0) for (const [event, note] of events) server.off(event, note)
  }
}
