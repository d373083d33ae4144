import assert from 'node:assert/strict'
import { openSync } from 'node:fs'
import { type CodedError, Connection, FdChannel, Listener, storeFds } from '../../src/index.js'
import { pair, temporaryFd } from '../descriptors.js'
import { listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

// Above the limit of fds, so it is not open.
const closed = 2 ** 31 - 1

const takers: Record<string, (fd: number) => unknown> = {
  'Listener.fromFd': (fd) => Listener.fromFd(fd),
  'Listener.fromFd with dup': (fd) => Listener.fromFd(fd, { dup: true }),
  'Connection.fromFd': (fd) => Connection.fromFd(fd),
  'Connection.fromFd with dup': (fd) => Connection.fromFd(fd, { dup: true }),
  'FdChannel.fromFd': (fd) => FdChannel.fromFd(fd),
}

function names(fd: number, code: string, call: () => unknown): void {
  assert.throws(call, (error: CodedError & { fd?: number }) => {
    assert.equal(error.code, code)
    assert.equal(error.fd, fd)
    assert.match(error.message, new RegExp(`\\bfd ${fd}\\b`))
    return true
  })
}

describe('The error of an fd names its number', () => {
  leaveNoFds()

  for (const [name, take] of Object.entries(takers)) {
    it(`when the fd is not open: ${name}`, () => {
      names(closed, 'EBADF', () => take(closed))
      assert.throws(() => take(closed), { message: `statx EBADF: bad file descriptor, fd ${closed}`, syscall: 'statx' })
    })

    it(`when the fd is a device or a file: ${name}`, () => {
      for (const [path, code] of [
        ['/dev/null', 'ERR_FD_NOT_SOCKET'],
        ['/proc/self/exe', 'ERR_FD_IS_FILE'],
      ] as const) {
        const fd = temporaryFd(openSync(path, 'r'))
        names(fd, code, () => take(fd))
      }
    })
  }

  it('when the socket has the wrong state or family, or is in use', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const { connection } = await pair()
    names(listener.fd, 'ERR_FD_IN_USE', () => Listener.fromFd(listener.fd))
    names(listener.fd, 'ERR_SOCKET_LISTENING', () => Connection.fromFd(listener.fd))
    names(connection.fd, 'ERR_SOCKET_CONNECTED', () => Listener.fromFd(connection.fd))
    names(connection.fd, 'ERR_FD_IN_USE', () => Connection.fromFd(connection.fd))
    names(connection.fd, 'ERR_SOCKET_NOT_UNIX', () => connection.peerCredentials())
    names(connection.fd, 'ERR_SOCKET_NOT_UNIX', () => FdChannel.fromFd(connection.fd))
  })

  it('when an fd for the service manager is not open', () => names(closed, 'EBADF', () => storeFds('name', [closed])))
})
