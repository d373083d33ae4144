import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Connection, FdChannel } from '../../src/index.js'
import { pair, peerForgotten, temporary, temporaryFd } from '../descriptors.js'
import { codeOf, connect, flagsOf, gone, listen, O_CLOEXEC, O_NONBLOCK, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const claimed = { code: 'ERR_CONNECTION_CLAIMED' }

describe('Connection', () => {
  leaveNoFds()

  describe('the addresses', () => {
    it('match those that the client sees', async () => {
      const { connection, client, listener } = await pair()
      assert.equal(connection.remoteAddress, '127.0.0.1')
      assert.equal(connection.remotePort, client.localPort)
      assert.equal(connection.remoteFamily, 'IPv4')
      assert.equal(connection.localAddress, '127.0.0.1')
      assert.equal(connection.localPort, client.remotePort)
      assert.equal(connection.localPort, (listener.address() as { port: number }).port)
    })

    it('of the peer are known when the peer disconnects before the accept', async () => {
      const listener = await listen({ host: '127.0.0.1' })
      const client = await connect(listener)
      const { localPort } = client
      client.resetAndDestroy()
      await once(client, 'close')
      using connection = await listener.accept()
      await peerForgotten(connection.fd)
      assert.equal(connection.remoteAddress, '127.0.0.1')
      assert.equal(connection.remotePort, localPort)
    })

    it('of the peer are known after the connection is claimed', async () => {
      const { connection, client } = await pair()
      connection.close()
      assert.equal(connection.remoteAddress, '127.0.0.1')
      assert.equal(connection.remotePort, client.localPort)
      assert.equal(connection.remoteFamily, 'IPv4')
    })

    it('of the local end are known after the claim if they were read before it', async () => {
      const { connection, client } = await pair()
      const { localPort } = connection
      connection.close()
      assert.equal(connection.localPort, localPort)
      assert.equal(connection.localPort, client.remotePort)
      assert.equal(connection.localAddress, '127.0.0.1')
    })

    it('of the local end are undefined if they are first read after the claim', async () => {
      const { connection } = await pair()
      connection.close()
      assert.equal(connection.localAddress, undefined)
      assert.equal(connection.localPort, undefined)
    })

    it('of a unix socket are its path, and undefined for an unnamed peer', async () => {
      const path = join(temporaryDirectory(), 'socket')
      const { connection } = await pair({ path })
      assert.equal(connection.localAddress, path)
      assert.equal(connection.localPort, undefined)
      assert.equal(connection.remoteAddress, undefined)
      assert.equal(connection.remotePort, undefined)
      assert.equal(connection.remoteFamily, undefined)
    })
  })

  describe('peerCredentials', () => {
    const ours = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() }

    it('returns the credentials of the process that connected to a path', async () => {
      const { connection } = await pair({ path: join(temporaryDirectory(), 'socket') })
      assert.deepEqual(connection.peerCredentials(), ours)
    })

    it('returns the credentials for an abstract path, even after the peer disconnects', async () => {
      const path = `\0async-accept-credentials-${process.pid}`
      const listener = await listen({ path })
      FdChannel.connect(path).close()
      using connection = await listener.accept()
      assert.deepEqual(connection.peerCredentials(), ours)
    })

    it('throws for TCP', async () => {
      const { connection } = await pair()
      assert.throws(() => connection.peerCredentials(), { code: 'ERR_SOCKET_NOT_UNIX' })
    })

    it('throws after the claim', async () => {
      const { connection } = await pair({ path: join(temporaryDirectory(), 'socket') })
      connection.close()
      assert.throws(() => connection.peerCredentials(), claimed)
    })
  })

  describe('the ways out', () => {
    // Each returns the resource that must be closed, if any.
    const ways: Record<string, (connection: Connection) => unknown> = {
      toSocket: (connection) => temporary(connection.toSocket()),
      toTLS: (connection) => {
        const aborted = { signal: AbortSignal.abort() }
        return assert.rejects(connection.toTLS({}, aborted), { code: 'ABORT_ERR' })
      },
      detach: (connection) => temporaryFd(connection.detach()),
      close: (connection) => connection.close(),
      reset: (connection) => connection.reset(),
      dispose: (connection) => connection[Symbol.dispose](),
    }

    for (const [first, leave] of Object.entries(ways)) {
      it(`are no longer available after ${first}`, async () => {
        const { connection } = await pair()
        await leave(connection)
        assert.equal(connection.fd, -1)
        assert.throws(() => connection.toSocket(), claimed)
        await assert.rejects(connection.toTLS({}), claimed)
        assert.throws(() => connection.detach(), claimed)
        assert.throws(() => connection.peerCredentials(), claimed)
        connection.close()
        connection.reset()
        connection[Symbol.dispose]()
      })
    }

    it('leave the fd alone once it has another owner', async () => {
      const { connection, client } = await pair()
      const socket = temporary(connection.toSocket())
      connection.close()
      connection.reset()
      connection[Symbol.dispose]()
      socket.end('still open')
      assert.equal(await text(client), 'still open')
    })

    it('leave a new fd with the same number alone', async () => {
      const { connection, listener } = await pair()
      await connect(listener)
      const { fd } = connection
      connection.close()
      using other = await listener.accept()
      assert.equal(other.fd, fd, 'the kernel allocates the lowest free number')
      connection.close()
      connection.reset()
      assert.notEqual(flagsOf(fd), undefined)
      assert.throws(() => connection.detach(), claimed)
    })
  })

  describe('detach', () => {
    it('returns an fd that the caller must close', async () => {
      const { connection, client } = await pair()
      const { fd } = connection
      assert.equal(connection.detach(), fd)
      assert.equal((flagsOf(fd) as number) & (O_NONBLOCK | O_CLOEXEC), O_NONBLOCK | O_CLOEXEC)
      closeSync(fd)
      await gone(client)
    })

    it('returns an fd that Connection.fromFd accepts', async () => {
      const { connection, client } = await pair()
      const { remoteAddress, remotePort, remoteFamily, localPort } = connection
      const fd = connection.detach()
      using again = Connection.fromFd(fd)
      assert.equal(again.fd, fd)
      assert.equal(again.ref, undefined)
      assert.deepEqual([again.remoteAddress, again.remotePort], [remoteAddress, remotePort])
      assert.deepEqual([again.remoteFamily, again.localPort], [remoteFamily, localPort])
      temporary(again.toSocket()).end('by way of a number')
      assert.equal(await text(client), 'by way of a number')
    })
  })

  describe('close', () => {
    it('closes the fd at once', async () => {
      const { connection, client } = await pair()
      const { fd } = connection
      connection.close()
      assert.equal(flagsOf(fd), undefined)
      await gone(client)
      assert.equal(client.errored, null)
    })
  })

  describe('reset', () => {
    it('makes the client fail with ECONNRESET', async () => {
      const { connection, client } = await pair()
      const { fd } = connection
      const failed = once(client, 'error')
      connection.reset()
      assert.equal(flagsOf(fd), undefined)
      assert.equal(codeOf((await failed)[0]), 'ECONNRESET')
    })

    it('closes a unix socket', async () => {
      const { connection, client } = await pair({ path: join(temporaryDirectory(), 'socket') })
      connection.reset()
      await gone(client)
    })
  })

  describe('Symbol.dispose', () => {
    it('closes the connection at the end of its scope', async () => {
      const { connection, client } = await pair()
      const { fd } = connection
      {
        using scoped = connection
        assert.notEqual(flagsOf(scoped.fd), undefined)
      }
      assert.equal(flagsOf(fd), undefined)
      await gone(client)
    })
  })
})
