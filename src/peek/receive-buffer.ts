import { binding } from '../core/binding.js'
import { codedError, systemError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'

const { AF_UNIX, SOL_SOCKET, SO_BUF_LOCK, SO_RCVBUF } = binding.constants as Record<Constant, number>
type Constant = 'AF_UNIX' | 'SOL_SOCKET' | 'SO_BUF_LOCK' | 'SO_RCVBUF'

// In bytes: the default size of a TCP receive buffer (tcp_rmem, tcp(7)). A buffer of this size holds the longest peek.
const largeEnough = 131_072

// The kernel charges its overhead to the buffer, too. Four times the payload is enough for segments of any size.
const overheadFactor = 4

// In bytes, as returned by getsockopt(2). Linux has no smaller receive buffer. setsockopt(2) doubles its argument
// (socket(7)).
const smallest = 2048

const sizeOf = (fd: number): number => {
  const size = binding.getOption(fd, SOL_SOCKET, SO_RCVBUF)
  if (size < 0) throw systemError('getsockopt', size)
  return size
}

const set = (fd: number, name: number, value: number): number => binding.setOption(fd, SOL_SOCKET, name, value)

/**
 * Enlarges the receive buffer of a TCP socket if it is too small for `length` bytes. Returns a function that restores
 * the original size and keeps all received bytes. Returns undefined if the buffer was large enough. The kernel
 * announces the larger receive window to the peer at the next recv(2) that returns bytes. Borrows the fd.
 *
 * Throws `ERR_PEEK_BUFFER` if `net.core.rmem_max` does not allow a large enough buffer.
 */
export function enlargeReceiveBuffer(fd: number, length: number): (() => void) | undefined {
  const wanted = Math.min(overheadFactor * length, largeEnough)
  if (wanted <= smallest) return undefined
  const before = sizeOf(fd)
  // Bytes on a unix socket count against the send buffer of the peer (unix(7)).
  if (before >= wanted || inspect(fd).domain === AF_UNIX) return undefined
  const lock = binding.getOption(fd, SOL_SOCKET, SO_BUF_LOCK)
  const restore = () => {
    set(fd, SO_RCVBUF, Math.floor(before / 2))
    // SO_RCVBUF also disables auto-tuning of the buffer. Only SO_BUF_LOCK, since Linux 5.14, can enable it again.
    if (lock >= 0) set(fd, SO_BUF_LOCK, lock)
  }
  const error = set(fd, SO_RCVBUF, largeEnough / 2)
  const now = error < 0 ? before : binding.getOption(fd, SOL_SOCKET, SO_RCVBUF)
  // Linux lets a peer fill at least half of the buffer, so twice the length is enough.
  if (now >= Math.min(2 * length, largeEnough)) return restore
  restore()
  if (now < 0) throw systemError('getsockopt', now)
  throw codedError('ERR_PEEK_BUFFER', `${length} bytes need a larger buffer than net.core.rmem_max allows`)
}
