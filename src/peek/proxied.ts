import { BlockList, isIP, isIPv4, type Socket } from 'node:net'
import { invalidArgType, invalidArgValue } from '../core/errors.js'
import { type Handle, type HandleAddress, handleBeneath } from '../core/node-internals.js'
import * as validate from '../core/validate.js'
import type { ProxyHeader } from './proxy-protocol.js'

/** A connection that came through a proxy which has said, by the PROXY protocol, who the client is. */
export interface Proxied {
  header: ProxyHeader
  /** Where the proxy itself connected from; undefined for a unix socket. */
  remoteAddress: string | undefined
  remotePort: number | undefined
  /** @internal What the socket says of its peer, if it is not the proxy. */
  client: HandleAddress | undefined
}

const noted = new WeakMap<Handle, Proxied>()

export function noteProxied(handle: Handle, proxied: Proxied): void {
  noted.set(handle, proxied)
}

/**
 * Of a socket that `serve` has given to a server: what its PROXY header said, and the proxy's own address. The socket may
 * be the TLSSocket above it, or what `req.socket` and `session.socket` of http and http2 are. Undefined when there was
 * no header, and when the socket is closed.
 */
export function proxyOf(socket: Socket): Proxied | undefined {
  const handle = handleBeneath(socket)
  return handle && noted.get(handle)
}

/** Networks as strings (`'192.0.2.1'`, `'2001:db8::/32'`), or a BlockList of them. */
export function networks(name: string, value: unknown): BlockList {
  if (validate.isBlockList(value)) return value
  if (!Array.isArray(value)) throw invalidArgType(name, 'a net.BlockList or an array of networks', value)
  const list = new BlockList()
  for (const network of value) {
    const [address, prefix, ...rest] = typeof network === 'string' ? network.split('/') : []
    const family = address !== undefined && isIPv4(address) ? 'ipv4' : 'ipv6'
    const bits = family === 'ipv4' ? 32 : 128
    const length = prefix === undefined ? bits : /^\d{1,3}$/.test(prefix) ? Number(prefix) : bits + 1
    if (address === undefined || isIP(address) === 0 || rest.length > 0 || length > bits) {
      throw invalidArgValue(name, 'must have addresses, or networks such as 10.0.0.0/8', network)
    }
    list.addSubnet(address, length, family)
  }
  return list
}
