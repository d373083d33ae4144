import { type ConnectionSource, OwnedFd, unclaimed } from '../accept/owned-fd.js'
import { binding } from '../core/binding.js'
import { showAs } from '../core/show.js'

const source: ConnectionSource = { what: 'received fd', where: 'over an FdChannel' }

/**
 * An fd received over an `FdChannel`. Owns the fd until `detach()` or `close()` is called. If the object becomes
 * unreachable before that, the fd is closed and a process warning is emitted (`ASYNC_ACCEPT_UNCLAIMED_CONNECTION`).
 */
export class ReceivedFd {
  readonly #owned: OwnedFd

  static {
    showAs(ReceivedFd, 'ReceivedFd', ({ fd }) => ({ fd, state: fd < 0 ? 'released' : 'owned' }))
  }

  private constructor(fd: number) {
    const owned = new OwnedFd(fd, undefined, source)
    owned.peer = { address: '' }
    this.#owned = owned
    unclaimed.register(this, owned)
  }

  /** @internal Takes ownership of `fd`, which the addon has received. */
  static of(fd: number): ReceivedFd {
    return new ReceivedFd(fd)
  }

  /** The fd, borrowed; -1 after `detach()` or `close()`. */
  get fd(): number {
    return this.#owned.fd
  }

  /**
   * Transfers the fd to the caller, which passes it to `Listener.fromFd` or `Connection.fromFd`, or closes it. Returns
   * -1 if the fd was already detached or closed.
   */
  detach(): number {
    const fd = this.#owned.release()
    if (fd >= 0) binding.detach(fd)
    return fd
  }

  /**
   * Closes the fd on another thread, because the sender of an fd can make close(2) block for any time. The fd may still
   * be open when this method returns. Has no effect if the fd was already detached or closed.
   */
  close(): void {
    this.#owned.close('close')
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** A message received over an `FdChannel`: the data and fds of one `send()`. */
export interface FdMessage {
  data: Buffer
  fds: ReceivedFd[]
}
