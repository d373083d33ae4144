import { onAbort } from '../core/abort.js'
import { binding } from '../core/binding.js'
import { type CallSite, leadTo } from '../core/call-site.js'
import { deadlineAfterPoll } from '../core/deadline.js'
import { check, plainAbortError } from '../core/errors.js'

// On a stream, each message begins with two 32-bit integers in network byte order: the number of bytes, and of fds.
export const headerLength = 8

/** A message that an FdChannel sends: at once, or in parts whenever the socket becomes writable. */
export class OutgoingFdMessage {
  readonly #resolve: () => void
  readonly #reject: (error: Error) => void
  readonly #site: CallSite | undefined
  readonly #bytes: Uint8Array
  // The fds borrowed from the caller, or copies that this object owns.
  #fds: readonly number[]
  #copied = false
  #sent = 0
  #stopTimer: (() => void) | undefined
  #stopWatching: (() => void) | undefined

  /** The stacks of errors lead to `site`. */
  constructor(
    data: Buffer,
    fds: readonly number[],
    framed: boolean,
    resolve: () => void,
    reject: (error: Error) => void,
    site?: CallSite,
  ) {
    this.#bytes = framed ? Buffer.concat([header(data.length, fds.length), data]) : data
    this.#fds = fds
    this.#resolve = resolve
    this.#reject = reject
    this.#site = site
  }

  /** Whether the kernel has accepted a part of the message. This part includes all of its fds. */
  get begun(): boolean {
    return this.#sent > 0
  }

  /** The first of its fds that is not open. */
  get closedFd(): number | undefined {
    return this.#fds.find((fd) => binding.checkOpen(fd) < 0)
  }

  /** Sends as much as the socket accepts. Returns true when the whole message is sent, or a negative errno. */
  send(socket: number): boolean | number {
    while (this.#sent < this.#bytes.length) {
      const sent = binding.sendMessage(socket, this.#bytes.subarray(this.#sent), this.#fds)
      if (sent < 0) return sent
      this.#sent += sent
      this.#releaseFds()
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
      this.#releaseFds()
      throw error
    }
  }

  /**
   * Calls `giveUp` when the signal is aborted before the message is sent or has failed. Throws what the
   * `addEventListener` of the signal throws.
   */
  giveUpOnAbort(signal: AbortSignal, giveUp: (error: Error) => void): void {
    this.#stopWatching = onAbort(signal, () => giveUp(plainAbortError(signal)))
  }

  /** Calls `giveUp` after `ms` milliseconds, unless the message is sent or has failed before. */
  giveUpAfter(ms: number, giveUp: () => void): void {
    this.#stopTimer = deadlineAfterPoll(ms, giveUp)
  }

  /** The message is sent. */
  succeed(): void {
    this.#settle()
    this.#resolve()
  }

  /** The message has failed. Closes the duplicates of its fds. */
  fail(error: Error): void {
    this.#settle()
    this.#reject(leadTo(this.#site, error))
  }

  // Calls the signal's removeEventListener, which may be application code.
  #settle(): void {
    this.#releaseFds()
    this.#stopTimer?.()
    this.#stopWatching?.()
  }

  #releaseFds(): void {
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
