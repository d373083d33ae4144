import type { PlainAddress } from './binding.js'
import { Connection } from './connection.js'
import { type Handle, socketOn } from './node-internals.js'
import type { Keeper, OwnedFd } from './owned-fd.js'
import type { Proxied } from './proxied.js'
import type { ProxyHeader } from './proxy-protocol.js'

/** A connection while it is open. */
export class Served implements Keeper {
  handle: Handle | undefined
  proxied: Proxied | undefined
  destroyed = false
  readonly owned: OwnedFd
  readonly #live: Set<Served>
  readonly #ended: () => void

  constructor(connection: Connection, live: Set<Served>, ended: () => void) {
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
    if (this.#live.delete(this)) this.#ended()
  }

  destroy(): void {
    this.destroyed = true
    if (this.handle === undefined) this.owned.close('reset')
    else socketOn(this.handle).destroy()
  }
}
