import { binding } from '../core/binding.js'
import { codedError, systemError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'

const { AF_UNIX, SOL_SOCKET, SO_BUF_LOCK, SO_RCVBUF } = binding.constants as Record<Constant, number>
type Constant = 'AF_UNIX' | 'SOL_SOCKET' | 'SO_BUF_LOCK' | 'SO_RCVBUF'

// tcp(7): the default of tcp_rmem, which holds the longest look.
const largeEnough = 131_072

// The kernel charges more than the bytes. Four times as much is enough for segments of any size.
const factor = 4

// socket(7): setsockopt(2) doubles what it is given, and getsockopt(2) says the result. Linux has no smaller one.
const smallest = 2048

const sizeOf = (fd: number): number => {
  const size = binding.getOption(fd, SOL_SOCKET, SO_RCVBUF)
  if (size < 0) throw systemError('getsockopt', size)
  return size
}

const set = (fd: number, name: number, value: number): number => binding.setOption(fd, SOL_SOCKET, name, value)

/**
 * Makes the receive buffer of a TCP socket large enough for `length` bytes, if it is smaller. The function that is
 * returned makes it as small as it was, and does not touch what has been received; undefined: it was large enough. The
 * kernel tells the peer of the room at the next recv(2) that returns bytes. Borrows the fd.
 *
 * Error: `ERR_PEEK_BUFFER`, when the system allows no larger one (`net.core.rmem_max`).
 */
export function enlargeReceiveBuffer(fd: number, length: number): (() => void) | undefined {
  const wanted = Math.min(factor * length, largeEnough)
  if (wanted <= smallest) return undefined
  const before = sizeOf(fd)
  // unix(7): what is sent there is charged to the sender's buffer.
  if (before >= wanted || inspect(fd).domain === AF_UNIX) return undefined
  const lock = binding.getOption(fd, SOL_SOCKET, SO_BUF_LOCK)
  const restore = () => {
    set(fd, SO_RCVBUF, Math.floor(before / 2))
    // SO_RCVBUF also keeps the kernel from tuning the buffer. Before Linux 5.14 that cannot be undone.
    if (lock >= 0) set(fd, SO_BUF_LOCK, lock)
  }
  const error = set(fd, SO_RCVBUF, largeEnough / 2)
  const now = error < 0 ? before : binding.getOption(fd, SOL_SOCKET, SO_RCVBUF)
  // Half of the buffer is the least that Linux lets a peer fill.
  if (now >= Math.min(2 * length, largeEnough)) return restore
  restore()
  if (now < 0) throw systemError('getsockopt', now)
  throw codedError('ERR_PEEK_BUFFER', `${length} bytes need more than net.core.rmem_max allows`)
}
