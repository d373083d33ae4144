import { BlockList, isIP, isIPv4, type Socket } from 'node:net'
import { invalidArgType, invalidArgValue } from '../core/errors.js'
import { type Handle, type HandleAddress, handleBeneath } from '../core/node-internals.js'
import * as validate from '../core/validate.js'
import type { ProxyHeader } from './proxy-protocol.js'

/** The PROXY header of a connection, and the address of the proxy that sent the header. */
export interface Proxied {
  /** The PROXY header as the proxy sent it. */
  header: ProxyHeader
  /** The IP address of the proxy; undefined for a unix socket. */
  remoteAddress: string | undefined
  /** The port of the proxy; undefined for a unix socket. */
  remotePort: number | undefined
  /**
   * @internal The client's address, which the socket reports as its peer; undefined if the socket reports the proxy's
   * address.
   */
  client: HandleAddress | undefined
}

const proxiedByHandle = new WeakMap<Handle, Proxied>()

/** @internal Associates a PROXY header with a handle. {@link proxyOf} returns it for the sockets on the handle. */
export function noteProxied(handle: Handle, proxied: Proxied): void {
  proxiedByHandle.set(handle, proxied)
}

/**
 * Returns the PROXY header of a connection that `serve` passed to a server, and the address of the proxy. `socket` is
 * the socket that the server received, a TLSSocket above it, `req.socket` of http, or `session.socket` of http2.
 * Returns undefined if the connection had no PROXY header, or if the socket is closed.
 */
export function proxyOf(socket: Socket): Proxied | undefined {
  const handle = handleBeneath(socket)
  return handle && proxiedByHandle.get(handle)
}

/**
 * @internal
 * Returns a BlockList of networks given as strings (`'192.0.2.1'`, `'2001:db8::/32'`). If `value` is a BlockList,
 * returns it unchanged.
 */
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
      throw invalidArgValue(name, 'must contain IP addresses or networks such as 10.0.0.0/8', network)
    }
    list.addSubnet(address, length, family)
  }
  return list
}
