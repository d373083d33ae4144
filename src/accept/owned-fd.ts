import { endianness } from 'node:os'
import { binding, type PlainAddress } from '../core/binding.js'
import { check, codedError } from '../core/errors.js'
import type { Handle, HandleClass } from '../core/node-internals.js'
import { warn, warningOf } from '../core/warning.js'
import type { Abandon } from '../peek/look-ahead.js'
import type { Proxied } from '../peek/proxied.js'
import type { InheritedOptions } from './sockopt.js'

/** Data that all connections of one listener share. */
export interface ConnectionSource extends InheritedOptions {
  /** The kind of object that owns the fd, for the warning about an unclaimed fd. Default: 'connection'. */
  what?: string
  /** How the process received the fd, for the same warning. */
  where: string
  highWaterMark?: number
  /**
   * The handle class for the sockets of these connections, which all have the same address family. The first
   * `toSocket()` sets it.
   */
  handleClass?: HandleClass
}

/** Notified when the fd is closed or handed over. */
export interface FdObserver {
  /** The handle of the socket that owns the fd now. */
  handle?: Handle | undefined
  /** The PROXY header of the connection, and the address of the proxy that sent it. */
  proxied?: Proxied | undefined
  /** Called, possibly more than once, when the fd is closed, detached or moved to another thread. Must not throw. */
  released(): void
}

// struct sockaddr_in and sockaddr_in6: the family is in host byte order, all other fields are in network byte order.
const littleEndian = endianness() === 'LE'
const { AF_INET, AF_INET6 } = binding.constants
const PORT = 2
const IPV4 = 4
const IPV6 = 8

// The text of each octet of an IPv4 address, followed by a dot. Created once instead of for each connection.
const dotted = Array.from({ length: 256 }, (_, octet) => `${octet}.`)

// Most clients of a unix socket are unnamed (unix(7)). Their sockaddr consists of the family only, which is 2 bytes
// long.
const nameless: PlainAddress = { address: '' }
const FAMILY_ONLY = 2

/**
 * The fd and the peer address of a Connection. It is a separate object because it outlives the Connection: `unclaimed`
 * uses it to close the fd of a Connection that has become unreachable.
 */
export class OwnedFd {
  /** -1 once the fd is closed or its ownership is transferred. */
  fd: number
  readonly ref: number | undefined
  readonly source: ConnectionSource
  observer: FdObserver | undefined
  /** Ends the pending peek, if any. */
  abandonLook: Abandon | undefined
  // An IPv4 address is stored as numbers and formatted on first access, also if a dual-stack socket reports it as an
  // IPv6 address. Copying the sockaddr would cost more than the rest of the Connection.
  #prefix: '' | '::ffff:' = ''
  #ipv4 = 0
  #port = -1
  #peer: PlainAddress | Uint8Array | undefined

  constructor(fd: number, ref: number | undefined, source: ConnectionSource) {
    this.fd = fd
    this.ref = ref
    this.source = source
    this.observer = undefined
    this.abandonLook = undefined
  }

  /** Gives up ownership of the fd and ends a pending peek. Returns the fd, or -1 if the fd was not owned any more. */
  release(): number {
    this.abandonLook?.(codedError('ERR_CONNECTION_CLAIMED'))
    const { fd } = this
    this.fd = -1
    return fd
  }

  /** Closes or resets the fd. Does nothing if the fd is not owned any more. */
  close(end: 'close' | 'reset'): void {
    const fd = this.release()
    if (fd < 0) return
    binding[end](fd)
    this.observer?.released()
  }

  get peer(): PlainAddress {
    if (this.#peer === undefined) {
      const ip = this.#ipv4
      this.#peer = {
        address:
          this.#prefix +
          (dotted[ip >>> 24] as string) +
          (dotted[(ip >>> 16) & 255] as string) +
          (dotted[(ip >>> 8) & 255] as string) +
          (ip & 255),
        port: this.#port,
        family: this.#prefix === '' ? 'IPv4' : 'IPv6',
      }
    } else if (ArrayBuffer.isView(this.#peer)) {
      this.#peer = check(binding.parseAddress(this.#peer), 'accept4')
    }
    return this.#peer
  }

  set peer(peer: PlainAddress) {
    this.#peer = peer
  }

  /** Reads the peer address from a sockaddr. */
  readPeer(view: DataView, at: number, length: number): void {
    const family = length < IPV4 ? 0 : view.getUint16(at, littleEndian)
    const mapped =
      family === AF_INET6 &&
      view.getUint32(at + IPV6) === 0 &&
      view.getUint32(at + IPV6 + 4) === 0 &&
      view.getUint32(at + IPV6 + 8) === 0xffff
    if (family === AF_INET || mapped) {
      this.#port = view.getUint16(at + PORT)
      this.#ipv4 = view.getUint32(mapped ? at + IPV6 + 12 : at + IPV4)
      if (mapped) this.#prefix = '::ffff:'
    } else if (length <= FAMILY_ONLY) {
      this.#peer = nameless
    } else {
      this.#peer = new Uint8Array(view.buffer.slice(at, at + length))
    }
  }
}

/** Closes the fd of a Connection that the application cannot claim, and emits a warning. */
export function closeWithWarning(owned: OwnedFd, what: string, code: string): void {
  const { fd, ref, source } = owned
  if (fd < 0) return
  owned.close('close')
  let from = ''
  try {
    const { peer } = owned
    from = peer.port === undefined ? peer.address : `${peer.address} port ${peer.port}`
  } catch {
    // There is no memory to format the address.
  }
  const details = [
    `fd ${fd}`,
    ...(from === '' ? [] : [`from ${from}`]),
    ...(ref === undefined ? [] : [`for request ${ref}`]),
    source.where,
  ]
  warn(warningOf(code, `${what}: ${details.join(', ')}`))
}

/** Closes the fd of an unclaimed Connection that has become unreachable, and emits a warning. */
export const unclaimed = new FinalizationRegistry((owned: OwnedFd) => {
  const what = `Closing an unclaimed ${owned.source.what ?? 'connection'} that became unreachable`
  closeWithWarning(owned, what, 'ASYNC_ACCEPT_UNCLAIMED_CONNECTION')
})
