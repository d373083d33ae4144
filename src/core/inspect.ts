import { constants } from 'node:os'
import { binding, type InspectedFd } from './binding.js'
import { check, fdError, systemError } from './errors.js'
import * as validate from './validate.js'

/**
 * Returns the kind of file behind the fd, and for a socket its family, type and state. Borrows the fd. Every error
 * names statx(2), the first of several system calls, even if a later one failed.
 */
export function inspect(fd: number): InspectedFd {
  return check(binding.inspect(fd), 'statx', { fd })
}

/**
 * Inspects an fd that must refer to a TCP or unix socket of type stream or seqpacket. Otherwise throws a coded error:
 * Node can neither read from sockets of other families (vsock, netlink, ...) nor report their addresses. Borrows the
 * fd.
 */
export function inspectStream(fd: number): InspectedFd {
  validate.fd('fd', fd)
  const inspected = inspect(fd)
  const { SOCK_STREAM, SOCK_SEQPACKET, AF_INET, AF_INET6, AF_UNIX } = binding.constants
  switch (inspected.kind) {
    case 'file':
      throw fdError('ERR_FD_IS_FILE', fd)
    case 'fifo':
      throw fdError('ERR_FD_IS_PIPE', fd)
    case 'other':
      throw fdError('ERR_FD_NOT_SOCKET', fd)
    case 'socket':
      if (![AF_INET, AF_INET6, AF_UNIX].includes(inspected.domain)) {
        throw fdError('ERR_SOCKET_FAMILY', fd, ` has address family ${inspected.domain}`)
      }
      if (inspected.type === SOCK_STREAM || inspected.type === SOCK_SEQPACKET) return inspected
      throw fdError('ERR_SOCKET_TYPE', fd, ' is not a stream or seqpacket socket')
  }
}

/** Takes ownership of the fd. On failure the caller still owns the fd, and its flags are unchanged. */
export function adopt(fd: number): void {
  const error = binding.adopt(fd)
  if (error === 0) return
  throw error === -constants.errno.EEXIST ? fdError('ERR_FD_IN_USE', fd) : systemError('fcntl', error, { fd })
}
