import { endianness } from 'node:os'
import { binding, type PlainAddress } from '../core/binding.js'
import { check, codedError } from '../core/errors.js'
import type { Handle, HandleClass } from '../core/node-internals.js'
import type { Abandon } from '../peek/look-ahead.js'
import type { Proxied } from '../peek/proxied.js'
import type { InheritedOptions } from './sockopt.js'

/** What the connections of one listener have in common. */
export interface ConnectionSource extends InheritedOptions {
  /** For people: what it is, a connection if nothing is said, and where it came to us. */
  what?: string
  where: string
  highWaterMark?: number
  /** Of a `net.Socket` made on one of them, once there was one: they are all of one address family. */
  handleClass?: HandleClass
}

/** Who wants to know what becomes of an fd. */
export interface FdObserver {
  /** Beneath the socket that has the fd now. */
  handle?: Handle | undefined
  /** What the proxy at the other end has said. */
  proxied?: Proxied | undefined
  /** The fd is closed, was detached, or has gone to another thread. May be called more than once. Must not throw. */
  released(): void
}

// struct sockaddr_in and sockaddr_in6: the family in the host's byte order, everything else in the network's.
const littleEndian = endianness() === 'LE'
const { AF_INET, AF_INET6 } = binding.constants
const PORT = 2
const IPV4 = 4
const IPV6 = 8

// The numbers of an address as text, rather than made anew for each connection.
const dotted = Array.from({ length: 256 }, (_, octet) => `${octet}.`)

// Most clients of a unix socket have no name.
const nameless: PlainAddress = { address: '' }
const FAMILY_ONLY = 2

/**
 * The fd of a Connection, and who is at the other end. It is an object of its own because it outlives the Connection:
 * when one becomes unreachable, this says whether there is something to close.
 */
export class OwnedFd {
  /** -1 once it was given away or closed. */
  fd: number
  readonly ref: number | undefined
  readonly source: ConnectionSource
  observer: FdObserver | undefined
  /** Ends the look ahead that is under way, if any. */
  abandonLook: Abandon | undefined
  // An IPv4 peer, also one of a dual-stack socket, is kept as numbers and made text when somebody asks. A copied
  // sockaddr would cost more than the rest of the Connection.
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

  /** Ends the ownership, and what waits for the fd. The fd, or -1. */
  release(): number {
    this.abandonLook?.(codedError('ERR_CONNECTION_CLAIMED'))
    const { fd } = this
    this.fd = -1
    return fd
  }

  /** Harmless when there is nothing to close any more. */
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

  /** Takes the peer from a sockaddr. */
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

/** Closes the fds whose Connection nobody can reach any more. */
export const unclaimed = new FinalizationRegistry((owned: OwnedFd) => {
  const { fd, ref, source } = owned
  if (fd < 0) return
  owned.close('close')
  let from = ''
  try {
    const { peer } = owned
    from = peer.port === undefined ? peer.address : `${peer.address} port ${peer.port}`
  } catch {
    // There is no memory for the address.
  }
  const details = [
    `fd ${fd}`,
    ...(from === '' ? [] : [`from ${from}`]),
    ...(ref === undefined ? [] : [`for request ${ref}`]),
    source.where,
  ]
  process.emitWarning(
    `A ${source.what ?? 'connection'} that nobody claimed became unreachable and is closed: ${details.join(', ')}`,
    {
      type: 'AsyncAcceptWarning',
      code: 'ASYNC_ACCEPT_UNCLAIMED_CONNECTION',
    },
  )
})
