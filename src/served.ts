import type { ServerHttp2Session } from 'node:http2'
import type tls from 'node:tls'
import type { PlainAddress } from './binding.js'
import { Connection } from './connection.js'
import { runSafely } from './errors.js'
import { type Handle, socketOn } from './node-internals.js'
import type { Keeper, OwnedFd } from './owned-fd.js'
import type { Proxied } from './proxied.js'
import type { ProxyHeader } from './proxy-protocol.js'

/** A connection of a Serving while it is open. */
export class Served implements Keeper {
  handle: Handle | undefined
  proxied: Proxied | undefined
  /** The TLS socket above it, and the session with HTTP/2, as soon as there is one. */
  secure: tls.TLSSocket | undefined
  session: ServerHttp2Session | undefined
  /** The server has not got it yet: it waits for its PROXY header or its handshake. */
  waiting = true
  destroyed = false
  readonly owned: OwnedFd
  readonly #live: Set<Served>
  readonly #ended: (served: Served) => void

  constructor(connection: Connection, live: Set<Served>, ended: (served: Served) => void) {
    this.#live = live
    this.#ended = ended
    this.owned = Connection.keep(connection, this)
    live.add(this)
  }

  introduce(header: ProxyHeader, proxy: { remoteAddress: string | undefined; remotePort: number | undefined }): void {
    const { source, family } = header
    const known = family === 'IPv4' || family === 'IPv6' ? { ...source, family } : {}
    // A proxy that speaks for itself, or does not know for whom, is the client.
    if (source !== undefined) this.owned.peer = { ...source, ...known } as PlainAddress
    this.proxied = { header, ...proxy, client: source && known }
  }

  gone(): void {
    if (this.#live.delete(this)) this.#ended(this)
  }

  destroy(): void {
    this.destroyed = true
    const { handle } = this
    if (handle === undefined) {
      this.owned.close('reset')
      return
    }
    runSafely(() => socketOn(handle)?.destroy())
    // A socket that was sent to a child process has lost its handle, which stays open until the child has answered.
    setImmediate(() => {
      if (this.#live.has(this)) handle.close()
    })
  }
}
