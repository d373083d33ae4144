import { constants } from 'node:os'
import { binding, type InspectedFd } from './binding.js'
import { check, codedError, systemError } from './errors.js'
import * as validate from './validate.js'

/** What the fd is. Borrows it. Its errors are called statx(2), which asks first; the rest asks a socket what it is. */
export function inspect(fd: number): InspectedFd {
  return check(binding.inspect(fd), 'statx')
}

/**
 * What the fd is, if it is a TCP or unix socket, stream or seqpacket; a code for everything else. Borrows the fd. Node
 * cannot read from sockets of other families (vsock, netlink, ...), nor tell their addresses.
 */
export function inspectStream(fd: number): InspectedFd {
  validate.fd('fd', fd)
  const inspected = inspect(fd)
  const { SOCK_STREAM, SOCK_SEQPACKET, AF_INET, AF_INET6, AF_UNIX } = binding.constants
  switch (inspected.kind) {
    case 'file':
      throw codedError('ERR_FD_IS_FILE', `fd ${fd}`)
    case 'fifo':
      throw codedError('ERR_FD_IS_PIPE', `fd ${fd}`)
    case 'other':
      throw codedError('ERR_FD_NOT_SOCKET', `fd ${fd}`)
    case 'socket':
      if (![AF_INET, AF_INET6, AF_UNIX].includes(inspected.domain)) {
        throw codedError('ERR_SOCKET_FAMILY', `fd ${fd} has address family ${inspected.domain}`)
      }
      if (inspected.type === SOCK_STREAM || inspected.type === SOCK_SEQPACKET) return inspected
      throw codedError('ERR_SOCKET_TYPE', `fd ${fd}`)
  }
}

/** Takes the fd; on failure it stays the caller's, untouched. */
export function adopt(fd: number): void {
  const error = binding.adopt(fd)
  if (error === 0) return
  throw error === -constants.errno.EEXIST ? codedError('ERR_FD_IN_USE', `fd ${fd}`) : systemError('fcntl', error)
}
