import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'

// On a stream, a message begins with two 32-bit numbers in network byte order: how many bytes it has, and how many fds.
export const headerLength = 8

/** A message that an FdChannel sends: at once, or in parts when the socket has room again. */
export class OutgoingFdMessage {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
  readonly #bytes: Uint8Array
  // The caller's, or copies that the environment owns.
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

  /** The kernel has some of it, and all of its fds. */
  get begun(): boolean {
    return this.#sent > 0
  }

  /** Sends what the socket takes. Whether it was all, or a negative errno. */
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
   * Copies the fds, because the message must wait: the caller may close one meanwhile, and its number may become another
   * file's. Throws `EBADF` or `EMFILE`; then there are no copies.
   */
  copyFds(): void {
    const copies: number[] = []
    const fds = this.#fds
    this.#fds = copies
    this.#copied = true
    try {
      for (const fd of fds) {
        const copy = binding.copy(fd)
        check(copy, 'fcntl')
        copies.push(copy)
      }
    } catch (error) {
      this.releaseFds()
      throw error
    }
  }

  /** Closes the copies. The message is sent, or will never be. */
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
