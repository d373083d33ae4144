import { statSync } from 'node:fs'
import net from 'node:net'
import { resolve } from 'node:path'
import type { BoundAddress } from '../accept/bound-address.js'

/** What a `listen()` call asks for, after Node has read its arguments and resolved the host. */
export type Asked = AskedPort | AskedPath

export interface AskedPort {
  /** 0: any free port, which is never that of an inherited socket. */
  port: number
  /** The IP address; null if the call has no host. */
  address: string | null
  ipv6Only: boolean
  /** Whether the call has `reusePort`. Then only the map gives it a socket. */
  reusePort?: boolean
}

export interface AskedPath {
  path: string
}

/** The address of an inherited socket. */
export interface SocketAddress {
  address: BoundAddress
  /** Whether an IPv6 socket accepts IPv4 clients, too. */
  dualStack: boolean
}

/** Describes what was asked for, in messages. */
export function describeAsked(asked: Asked): string {
  if ('path' in asked) return `path ${asked.path.replace('\0', '@')}`
  const port = asked.port === 0 ? 'any free port' : `port ${asked.port}`
  return asked.address === null ? port : `${port} of ${asked.address}`
}

/** The key of `ASYNC_ACCEPT_INHERIT` for what was asked. */
export const mapKey = (asked: Asked): string =>
  'path' in asked ? pathKey(asked.path.replace('\0', '@')) : String(asked.port)

/** The key for a path, which may be written in several ways. An abstract name begins with '@'. */
export const pathKey = (path: string): string => (path[0] === '@' ? path : resolve(path))

/**
 * Whether a socket accepts at most the clients that a socket at the asked address would accept. With `reusePort`, the
 * server needs a further socket, so none matches.
 */
export function isWithin({ address, dualStack }: SocketAddress, asked: Asked): boolean {
  if ('path' in asked) return typeof address === 'string' && isSamePath(address, asked.path)
  if (typeof address === 'string' || address.port !== asked.port || asked.reusePort) return false
  const isIpv6 = address.family === 'IPv6'
  if (asked.address === null || isSame(asked.address, '::')) return !asked.ipv6Only || (isIpv6 && !dualStack)
  if (isSame(asked.address, '0.0.0.0')) return !isIpv6
  return isSame(asked.address, address.address)
}

/** Whether the socket has exactly the address that was asked for. */
export function isExactly({ address }: SocketAddress, asked: Asked): boolean {
  if ('path' in asked || typeof address === 'string') return true
  return isSame(asked.address ?? '::', address.address)
}

// The same address may be written in several ways, and an IPv4 address also as an IPv6 one.
function isSame(a: string, b: string): boolean {
  if (a === b) return true
  if (net.isIP(a) === 0 || net.isIP(b) === 0 || a.includes('%') || b.includes('%')) return false
  const list = new net.BlockList()
  list.addAddress(a, familyOf(a))
  return list.check(b, familyOf(b))
}

const familyOf = (address: string) => (net.isIPv6(address) ? 'ipv6' : 'ipv4')

function isSamePath(bound: string, asked: string): boolean {
  // Node 20 pads abstract names with '\0'.
  if (bound[0] === '\0' || asked[0] === '\0') return bound.replace(/\0+$/, '') === asked.replace(/\0+$/, '')
  // For example, /var/run is a symbolic link to /run.
  return resolve(bound) === resolve(asked) || (fileAt(bound) !== undefined && fileAt(bound) === fileAt(asked))
}

/** Identifies the file at a path; undefined if there is none that this process can see. */
export function fileAt(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path)
    return `${dev}:${ino}`
  } catch {
    return undefined
  }
}
