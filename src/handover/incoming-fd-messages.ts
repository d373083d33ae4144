import { constants } from 'node:os'
import { binding, type ReceivedMessage } from '../core/binding.js'
import { codedError, systemError } from '../core/errors.js'
import { headerLength } from './outgoing-fd-message.js'
import { type FdMessage, ReceivedFd } from './received-fd.js'

const { ECONNRESET, ENOMEM } = constants.errno
const { maxFds, maxReceived } = binding

// A packet is received in one call, so its buffer has the maximum size, `maxReceived` (1 MiB). A unix socket sends no
// packet longer than its send buffer, 208 KiB by default (net.core.wmem_default).
const streamBuffer = 64 * 1024

const excessFds = 'it has more fds than its header announces'

/** The messages that a channel receives. Each packet of a seqpacket socket is one; on a stream, each has a header. */
export class IncomingFdMessages {
  readonly #packets: boolean
  readonly #maxMessage: number
  #bytes: Buffer = Buffer.alloc(0)
  readonly #fds: ReceivedFd[] = []

  constructor(packets: boolean, maxMessage: number) {
    this.#packets = packets
    this.#maxMessage = maxMessage
  }

  /**
   * Returns the next message, or `'end'` when the peer has closed its socket. Returns a negative errno if a later call
   * can receive the message: `EAGAIN`, `ENOMEM`. Throws if no later call can: `ERR_CHANNEL_MESSAGE` if the peer has
   * violated the protocol, or an error of recvmsg(2).
   */
  next(socket: number): FdMessage | 'end' | number {
    for (;;) {
      const message = this.#packets ? undefined : this.#parse()
      if (message !== undefined) return message
      const received = this.#receive(socket)
      // The peer has closed its socket with unread messages. The kernel reports this once, before data from the peer.
      if (received === -ECONNRESET) continue
      if (typeof received === 'number') return received
      const { bytes, truncated } = received
      if (truncated) throw malformed('some of its bytes or fds were lost')
      if (bytes.length === 0) {
        this.#checkEnd(socket)
        return 'end'
      }
      if (this.#packets) {
        this.#checkLength(bytes.length)
        return { data: bytes, fds: this.#fds.splice(0) }
      }
      this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes])
    }
  }

  /** Closes the fds of a message that is not complete. */
  close(): void {
    for (const fd of this.#fds.splice(0)) fd.close()
  }

  /** Returns EAGAIN, ENOMEM or ECONNRESET as a negative number; throws other errors. */
  #receive(socket: number): ReceivedMessage | number {
    const received = binding.receiveMessage(socket, this.#packets ? maxReceived : streamBuffer)
    if (typeof received === 'number') {
      if (!passing.has(received)) throw systemError('recvmsg', received)
      return received
    }
    for (const fd of received.fds) this.#fds.push(ReceivedFd.of(fd))
    return received
  }

  #checkEnd(socket: number): void {
    // At the end of the stream, every recvmsg(2) returns 0. For an empty packet, only one call returns 0. Two empty
    // packets in succession count as the end.
    const next = this.#packets ? this.#receive(socket) : undefined
    if (next === -ENOMEM) throw systemError('recvmsg', next)
    if (typeof next === 'number' || (next !== undefined && next.bytes.length > 0)) throw malformed('it is empty')
    if (this.#bytes.length > 0 || this.#fds.length > 0) {
      throw malformed('it is incomplete, and the peer has closed the socket')
    }
  }

  #checkLength(length: number): void {
    if (length > this.#maxMessage) throw malformed(`it has more than ${this.#maxMessage} bytes`)
  }

  /** Returns the first message in the bytes received on a stream; undefined if more bytes are needed. */
  #parse(): FdMessage | undefined {
    const bytes = this.#bytes
    // The maximum number of fds that may have arrived so far. The fds of a message arrive with its first byte.
    let maxArrived = bytes.length === 0 ? 0 : maxFds
    if (bytes.length >= headerLength) {
      const length = bytes.readUInt32BE(0)
      maxArrived = bytes.readUInt32BE(4)
      const end = headerLength + length
      if (length === 0 || maxArrived > maxFds) {
        throw malformed(`its header says ${length} bytes and ${maxArrived} fds`)
      }
      this.#checkLength(length)
      if (bytes.length >= end) {
        if (this.#fds.length < maxArrived) throw malformed('it has fewer fds than its header announces')
        if (this.#fds.length > maxArrived && bytes.length === end) throw malformed(excessFds)
        this.#bytes = bytes.subarray(end)
        return { data: bytes.subarray(headerLength, end), fds: this.#fds.splice(0, maxArrived) }
      }
    }
    if (this.#fds.length > maxArrived) throw malformed(excessFds)
    return undefined
  }
}

const passing = new Set([-constants.errno.EAGAIN, -ECONNRESET, -ENOMEM])

const malformed = (what: string) => codedError('ERR_CHANNEL_MESSAGE', what)
