import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'
import { onReady } from '../core/readiness.js'

// Larger than any notification of this package. systemd reads at most 4,096 bytes.
const maxMessage = 4096

/** Receives the notifications of one worker: the protocol of sd_notify(3). */
export class NotifySocket {
  readonly #fd: number
  readonly #unwatch: () => void

  /** Binds the socket at `path`. `close` removes it. Errors: those of socket(2) and bind(2). */
  constructor(path: string, onNotification: (fields: ReadonlyMap<string, string>) => void) {
    const { AF_UNIX, SOCK_DGRAM } = binding.constants
    const fd = binding.socket(AF_UNIX as number, SOCK_DGRAM as number)
    check(fd, 'socket')
    this.#fd = fd
    try {
      check(binding.bindPath(fd, path, path), 'bind', { path })
      this.#unwatch = onReady(fd, 'read', () => {
        for (;;) {
          const message = binding.receiveMessage(fd, maxMessage)
          if (typeof message === 'number') return
          // Closing the fd of a BARRIER=1 is the answer. Workers cannot store fds.
          for (const received of message.fds) binding.close(received)
          onNotification(fieldsOf(message.bytes.toString()))
          // onNotification() may have closed this socket.
          if (this.#closed) return
        }
      })
    } catch (error) {
      binding.close(fd)
      throw error
    }
  }

  #closed = false

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#unwatch()
    binding.close(this.#fd)
  }
}

function fieldsOf(text: string): ReadonlyMap<string, string> {
  const assignments = text.split('\n').map((line) => /^([A-Z_]+)=(.*)$/.exec(line))
  return new Map(assignments.flatMap((match) => (match === null ? [] : [[match[1] as string, match[2] as string]])))
}
