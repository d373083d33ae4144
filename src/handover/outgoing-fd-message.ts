import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'

// On a stream, each message begins with two 32-bit integers in network byte order: the number of bytes, and of fds.
export const headerLength = 8

/** A message that an FdChannel sends: at once, or in parts whenever the socket becomes writable. */
export class OutgoingFdMessage {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
  readonly #bytes: Uint8Array
  // The fds borrowed from the caller, or copies that this object owns.
  #fds: readonly number[]
  #copied = false
  #sent = 0

  constructor(
    data: Buffer,
    fds: readonly number[],
    framed: boolean,
    resolve: () => void,
    reject: (error: Error) => void,
  ) {
    this.#bytes = framed ? Buffer.concat([header(data.length, fds.length), data]) : data
    this.#fds = fds
    this.resolve = resolve
    this.reject = reject
  }

  /** Whether the kernel has accepted a part of the message. This part includes all of its fds. */
  get begun(): boolean {
    return this.#sent > 0
  }

  /** Sends as much as the socket accepts. Returns true when the whole message is sent, or a negative errno. */
  send(socket: number): boolean | number {
    while (this.#sent < this.#bytes.length) {
      const sent = binding.sendMessage(socket, this.#bytes.subarray(this.#sent), this.#fds)
      if (sent < 0) return sent
      this.#sent += sent
      this.releaseFds()
    }
    return true
  }

  /**
   * Duplicates the fds of a message that must wait. The caller may close its fds in the meantime, and their numbers may
   * be reused. Throws `EBADF` or `EMFILE` after it has closed the duplicates made so far.
   */
  copyFds(): void {
    const copies: number[] = []
    const fds = this.#fds
    this.#fds = copies
    this.#copied = true
    try {
      for (const fd of fds) {
        const copy = binding.copy(fd)
        check(copy, 'fcntl', { fd })
        copies.push(copy)
      }
    } catch (error) {
      this.releaseFds()
      throw error
    }
  }

  /** Closes the duplicates, after the message has been sent or has failed. */
  releaseFds(): void {
    if (this.#copied) for (const fd of this.#fds) binding.close(fd)
    this.#copied = false
    this.#fds = []
  }
}

function header(length: number, fds: number): Buffer {
  const bytes = Buffer.alloc(headerLength)
  bytes.writeUInt32BE(length, 0)
  bytes.writeUInt32BE(fds, 4)
  return bytes
}
