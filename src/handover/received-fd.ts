import { type ConnectionSource, OwnedFd, unclaimed } from '../accept/owned-fd.js'
import { binding } from '../core/binding.js'

const source: ConnectionSource = { what: 'received fd', where: 'over an FdChannel' }

/**
 * An fd that came over an `FdChannel`. When it becomes unreachable before it was detached, it is closed, with a warning.
 */
export class ReceivedFd {
  readonly #owned: OwnedFd

  /** @internal An FdChannel makes them of fds that the environment owns. */
  constructor(fd: number) {
    const owned = new OwnedFd(fd, undefined, source)
    owned.peer = { address: '' }
    this.#owned = owned
    unclaimed.register(this, owned)
  }

  /** Borrowed; -1 when it is detached or closed. */
  get fd(): number {
    return this.#owned.fd
  }

  /** Gives the fd to the caller: for `Listener.fromFd` or `Connection.fromFd`, or to close it. -1 when there is none. */
  detach(): number {
    const fd = this.#owned.release()
    if (fd >= 0) binding.detach(fd)
    return fd
  }

  /**
   * Closes the fd, on another thread: close(2) can take as long as the fd's sender likes, and then the fd is still open when
   * this returns. Does nothing when it is closed or detached already.
   */
  close(): void {
    this.#owned.close('close')
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** What came in one `send`. */
export interface FdMessage {
  data: Buffer
  fds: ReceivedFd[]
}
