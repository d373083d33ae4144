import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { binding } from '../../src/core/binding.js'
import { Connection, Listener } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { makeBlocking, openFile, pair, peerForgotten, startWithFd, temporary, temporaryFd } from '../descriptors.js'
import {
  cleanUp,
  connect,
  flagsOf,
  gone,
  listen,
  O_CLOEXEC,
  O_NONBLOCK,
  runNode,
  temporaryDirectory,
  until,
} from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const { AF_INET, AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET } = binding.constants as Record<string, number>
const SOCK_DGRAM = 2 // the same on every Linux except MIPS, where it is 1

/** A socket that only the caller owns. */
function socket(domain: number | undefined, type: number | undefined): number {
  const fd = binding.socket(domain as number, type as number)
  assert.ok(fd >= 0)
  binding.release(fd)
  return temporaryFd(fd)
}

/** The fd of a listening socket that only the caller owns. */
async function listeningFd(): Promise<number> {
  return temporaryFd((await listen({ host: '127.0.0.1' })).detach())
}

/** A `net.Server`, and its internal fd. */
async function netServer(onConnection: (socket: net.Socket) => void) {
  const server = net.createServer((socket) => onConnection(temporary(socket)))
  cleanUp(() => server.close())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as net.AddressInfo
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  return { server, fd, dial: () => temporary(net.connect(port, '127.0.0.1')) }
}

/** Creates a listener from an fd. Closes it when the current test ends. */
function adopt(...args: Parameters<typeof Listener.fromFd>): Listener {
  const listener = Listener.fromFd(...args)
  cleanUp(() => listener.close())
  return listener
}

/** Serves one client, which connects to `to`. */
async function serveOne(listener: Listener, to: Listener = listener): Promise<void> {
  const accepting = listener.accept()
  const client = await connect(to)
  temporary((await accepting).toSocket()).end('served')
  assert.equal(await text(client), 'served')
}

describe('Listener.fromFd', () => {
  leaveNoFds()

  it('takes ownership of a listening fd', async () => {
    const fd = await listeningFd()
    const listener = adopt(fd)
    assert.equal(listener.fd, fd)
    await serveOne(listener)
    await listener.close()
    assert.equal(flagsOf(fd), undefined)
  })

  it('serves clients that connected before it was created', async () => {
    const first = await listen({ host: '127.0.0.1' })
    const [client] = (await fillBacklog(first, 1)) as [net.Socket]
    const listener = adopt(first.detach())
    using connection = await listener.accept({ timeout: 0 })
    assert.equal(connection.remotePort, client.localPort)
  })

  it('takes a unix socket, and leaves its path when it closes', async () => {
    const path = join(temporaryDirectory(), 'socket')
    const listener = adopt((await listen({ path })).detach())
    assert.equal(listener.address(), path)
    await serveOne(listener)
    await listener.close()
    const left = await listen({ path, unlinkStale: true })
    await serveOne(left)
  })

  it('takes a seqpacket socket', async () => {
    const name = `async-accept-${randomUUID()}`
    const fd = socket(AF_UNIX, SOCK_SEQPACKET)
    assert.equal(binding.bindPath(fd, `\0${name}`), 0)
    assert.equal(binding.listen(fd, 1), 0)
    const listener = adopt(fd)
    const accepting = listener.accept()
    const program = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect('\\0' + sys.argv[1])
s.recv(1)`
    const client = spawn('python3', ['-c', program, name], { stdio: 'ignore' })
    cleanUp(() => client.kill('SIGKILL'))
    const exited = once(client, 'exit')
    const connection = await accepting
    const accepted = connection.fd
    // Node has no sockets of this type. A failed toSocket() leaves the connection as it was.
    assert.throws(() => connection.toSocket(), { code: 'ERR_INVALID_FD_TYPE' })
    assert.equal(connection.fd, accepted)
    assert.equal(connection.peerCredentials().uid, process.getuid?.())
    connection.close()
    assert.deepEqual(await exited, [0, null])
  })

  it('makes a blocking socket non-blocking', async () => {
    const fd = await listeningFd()
    makeBlocking(fd)
    const listener = adopt(fd)
    assert.equal((flagsOf(fd) as number) & O_NONBLOCK, O_NONBLOCK)
    await serveOne(listener)
  })

  it('makes an inherited, blocking fd non-blocking and close-on-exec', async () => {
    const holder = await listen({ host: '127.0.0.1' })
    makeBlocking(holder.fd)
    const finished = startWithFd(holder.fd, 'inherited-fd.mjs', ['Listener'])
    const client = await connect(holder)
    assert.equal(await text(client), 'from the child')
    client.destroy()
    const { stdout, code } = await finished
    const off = { nonBlocking: false, closeOnExec: false }
    assert.deepEqual(JSON.parse(stdout), { before: off, after: { nonBlocking: true, closeOnExec: true } })
    assert.equal(code, 0)
  })

  it('sets options that connections inherit', async () => {
    const listener = adopt(await listeningFd(), { noDelay: true, highWaterMark: 77 })
    const accepting = listener.accept()
    await connect(listener)
    assert.equal(temporary((await accepting).toSocket()).readableHighWaterMark, 77)
  })

  describe('with dup', () => {
    it('leaves the original open and usable', async () => {
      const original = await listen({ host: '127.0.0.1' })
      const flags = flagsOf(original.fd)
      const copy = adopt(original.fd, { dup: true })
      assert.notEqual(copy.fd, original.fd)
      assert.deepEqual(copy.address(), original.address())
      await serveOne(copy, original)
      await copy.close()
      assert.equal(flagsOf(original.fd), flags)
      await serveOne(original)
    })

    it('keeps accepting when the original closes', async () => {
      const original = await listen({ host: '127.0.0.1' })
      const copy = adopt(original.fd, { dup: true })
      await serveOne(original)
      await original.close()
      await serveOne(copy)
    })

    it('shares the socket of a net.Server', async () => {
      const served: net.Socket[] = []
      const { server, fd } = await netServer((socket) => served.push(socket))
      const listener = adopt(fd, { dup: true })
      // Without a request of the listener, the server accepts all clients.
      await connect(listener)
      await until(() => served.length === 1)
      server.close()
      await serveOne(listener)
      assert.equal(served.length, 1)
    })

    it('does not disturb a net.Server when it closes', async () => {
      const served: net.Socket[] = []
      const { fd, dial } = await netServer((socket) => served.push(socket))
      await adopt(fd, { dup: true }).close()
      dial()
      await until(() => served.length === 1)
    })
  })

  describe('with an fd that is already owned in this thread', () => {
    it('rejects the fd of another listener, which keeps accepting', async () => {
      const listener = await listen({ host: '127.0.0.1' })
      const waiting = listener.accept()
      assert.throws(() => Listener.fromFd(listener.fd), { code: 'ERR_FD_IN_USE' })
      assert.throws(() => Listener.fromFd(listener.fd), { code: 'ERR_FD_IN_USE' })
      const client = await connect(listener)
      using connection = await waiting
      assert.equal(connection.remotePort, client.localPort)
      await serveOne(listener)
    })

    it('rejects the fd of a net.Server, which loses no client', async () => {
      const served: net.Socket[] = []
      const { fd, dial } = await netServer((socket) => served.push(socket))
      const flags = flagsOf(fd)
      const client = dial()
      assert.throws(() => Listener.fromFd(fd), { code: 'ERR_FD_IN_USE' })
      assert.throws(() => Listener.fromFd(fd), { code: 'ERR_FD_IN_USE' })
      assert.equal(flagsOf(fd), flags)
      await until(() => served.length === 1)
      assert.equal((served[0] as net.Socket).remotePort, client.localPort)
      dial()
      await until(() => served.length === 2)
    })

    it('takes the fd after its owner has detached it', async () => {
      const first = await listen({ host: '127.0.0.1' })
      const fd = first.detach()
      const second = adopt(fd)
      assert.equal(second.detach(), fd)
      await serveOne(adopt(fd))
    })
  })

  describe('with a listening fd that other code closes', () => {
    // Each in a separate process, because the kernel soon reuses the number of a closed fd.
    const moments = {
      'before the first request': 'fresh',
      'after a client was served': 'idle',
      'while a request is outstanding': 'outstanding',
      'in the same turn as the request': 'same-turn',
    }
    for (const [moment, name] of Object.entries(moments)) {
      it(`rejects the next request with EBADF: ${moment}`, async () => {
        const { code, signal, stdout, stderr } = await runNode('closed-behind.mjs', [name])
        assert.deepEqual({ code, signal }, { code: 0, signal: null }, stderr)
        assert.match(stdout, /^(EBADF\n)+$/)
      })
    }
  })
})

describe('Connection.fromFd', () => {
  leaveNoFds()

  it('takes ownership of a connected fd', async () => {
    const { connection, client } = await pair()
    const fd = connection.detach()
    const taken = Connection.fromFd(fd)
    assert.equal(taken.fd, fd)
    assert.equal(taken.remotePort, client.localPort)
    taken.close()
    assert.equal(flagsOf(fd), undefined)
    await gone(client)
  })

  it('takes an fd whose peer has disconnected', async () => {
    const { connection, client } = await pair()
    const fd = connection.detach()
    client.resetAndDestroy()
    await once(client, 'close')
    await peerForgotten(fd)
    using taken = Connection.fromFd(fd)
    assert.equal(taken.remoteAddress, undefined)
  })

  it('makes an inherited, blocking fd non-blocking and close-on-exec', async () => {
    const { connection, client } = await pair()
    makeBlocking(connection.fd)
    const finished = startWithFd(connection.fd, 'inherited-fd.mjs', ['Connection'])
    connection.close()
    assert.equal(await text(client), 'from the child')
    client.destroy()
    const { stdout, code } = await finished
    const off = { nonBlocking: false, closeOnExec: false }
    assert.deepEqual(JSON.parse(stdout), { before: off, after: { nonBlocking: true, closeOnExec: true } })
    assert.equal(code, 0)
  })

  it('rejects the fd of another connection, which stays usable', async () => {
    const { connection, client } = await pair()
    assert.throws(() => Connection.fromFd(connection.fd), { code: 'ERR_FD_IN_USE' })
    temporary(connection.toSocket()).end('usable')
    assert.equal(await text(client), 'usable')
  })

  it('with dup owns a duplicate, which is independent of the original', async () => {
    const { connection, client } = await pair()
    const copy = Connection.fromFd(connection.fd, { dup: true })
    cleanUp(() => copy.close())
    assert.notEqual(copy.fd, connection.fd)
    assert.equal((flagsOf(copy.fd) as number) & (O_NONBLOCK | O_CLOEXEC), O_NONBLOCK | O_CLOEXEC)
    assert.equal(copy.remotePort, client.localPort)
    connection.close()
    temporary(copy.toSocket()).end('from the copy')
    assert.equal(await text(client), 'from the copy')
  })

  it('with dup leaves the original with its owner', async () => {
    const { connection, client } = await pair()
    Connection.fromFd(connection.fd, { dup: true }).close()
    temporary(connection.toSocket()).end('still there')
    assert.equal(await text(client), 'still there')
  })

  it('rejects a dup that is not a boolean', async () => {
    const { connection } = await pair()
    for (const dup of [1, 'yes', null]) {
      assert.throws(() => Connection.fromFd(connection.fd, { dup } as object), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })

  it('rejects a listening fd', async () => {
    const fd = await listeningFd()
    makeBlocking(fd)
    const flags = flagsOf(fd)
    assert.throws(() => Connection.fromFd(fd), { code: 'ERR_SOCKET_LISTENING' })
    assert.throws(() => Connection.fromFd(fd, { dup: true }), { code: 'ERR_SOCKET_LISTENING' })
    assert.equal(flagsOf(fd), flags)
  })
})

describe('fromFd', () => {
  leaveNoFds()

  interface Refused {
    code: string
    open(): number | Promise<number>
    /** Present where Connection.fromFd accepts the fd. */
    listener?: true
  }

  const refused: Record<string, Refused> = {
    'a file': { code: 'ERR_FD_IS_FILE', open: () => openFile(process.execPath) },
    'a pipe': {
      code: 'ERR_FD_IS_PIPE',
      open: () => {
        const path = join(temporaryDirectory(), 'fifo')
        assert.equal(spawnSync('mkfifo', [path]).status, 0)
        return openFile(path, 'r+')
      },
    },
    'a device': { code: 'ERR_FD_NOT_SOCKET', open: () => openFile('/dev/null') },
    'a directory': { code: 'ERR_FD_NOT_SOCKET', open: () => openFile('/') },
    'a UDP socket': { code: 'ERR_SOCKET_TYPE', open: () => socket(AF_INET, SOCK_DGRAM) },
    'a unix datagram socket': { code: 'ERR_SOCKET_TYPE', open: () => socket(AF_UNIX, SOCK_DGRAM) },
    'a connected socket': {
      code: 'ERR_SOCKET_CONNECTED',
      listener: true,
      open: async () => temporaryFd((await pair()).connection.detach()),
    },
    'a bound socket that does not listen': {
      code: 'ERR_SOCKET_NOT_LISTENING',
      listener: true,
      open: () => {
        const fd = socket(AF_INET, SOCK_STREAM)
        assert.equal(binding.bindIp(fd, '127.0.0.1', 0), 0)
        return fd
      },
    },
    'a unix socket that does not listen': {
      code: 'ERR_SOCKET_NOT_LISTENING',
      listener: true,
      open: () => socket(AF_UNIX, SOCK_STREAM),
    },
  }

  for (const [what, { code, open, listener }] of Object.entries(refused)) {
    it(`rejects ${what} with ${code}, and leaves it untouched`, async () => {
      const fd = await open()
      makeBlocking(fd)
      const flags = flagsOf(fd)
      const says = { code, message: new RegExp(`: fd ${fd}\\b`) }
      assert.throws(() => Listener.fromFd(fd), says)
      assert.throws(() => Listener.fromFd(fd, { dup: true }), says)
      if (!listener) {
        assert.throws(() => Connection.fromFd(fd), says)
        assert.throws(() => Connection.fromFd(fd, { dup: true }), says)
      }
      assert.equal(flagsOf(fd), flags)
    })
  }

  it('rejects a closed fd with EBADF', () => {
    const fd = openFile('/dev/null')
    closeSync(fd)
    for (const call of [Listener.fromFd, Connection.fromFd]) {
      assert.throws(() => call(fd), { code: 'EBADF', errno: -9, syscall: 'statx' })
    }
    assert.throws(() => Listener.fromFd(fd, { dup: true }), { code: 'EBADF' })
  })

  it('rejects -1 with ERR_OUT_OF_RANGE', () => {
    for (const call of [Listener.fromFd, Connection.fromFd]) {
      assert.throws(() => call(-1), { code: 'ERR_OUT_OF_RANGE', message: /"fd".*>= 0.*Received -1$/ })
    }
  })
})

describe('A listening socket that another process has made blocking', () => {
  it('does not block the event loop when there are fewer clients than requests', async () => {
    const { code, stdout } = await runNode('made-blocking.mjs')
    assert.equal(stdout, 'blocks\n1 accepted\n2 ERR_LISTENER_CLOSED\n')
    assert.equal(code, 0)
  })
})
