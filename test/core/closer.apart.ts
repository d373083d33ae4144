import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { Connection, FdChannel, Listener } from '../../src/index.js'
import { next } from '../channels.js'
import { namedFds } from '../fd-room.js'
import { cleanUp, codeOf, connect, gone, listen, runNode, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { type Kind, startUntrustedPeer, stillOpen } from './strangers.js'

// Longer than the mocha timeout, so a test that waits for this fails.
const forEver = 3600
// Long enough for the event loop to work meanwhile. Short enough for the end of a test whose event loop blocks.
const long = 8

const path = () => `${temporaryDirectory()}/socket`

/** Exercises the event loop and libuv's thread pool. */
async function work(): Promise<void> {
  const listener = await listen({ host: '127.0.0.1' })
  for (let i = 0; i < 5; i++) {
    const accepting = listener.accept()
    const client = await connect(listener)
    const connection = await accepting
    connection.close()
    await gone(client)
    client.destroy()
    await delay(1)
    // More reads at once than the pool has threads.
    await Promise.all(Array.from({ length: 8 }, () => readFile('/proc/self/stat')))
  }
  await listener.close()
}

async function channelFrom(count: number, seconds: number, kind: Kind): Promise<[FdChannel, number[]]> {
  const listener = await listen({ path: path() })
  const inodes = startUntrustedPeer(listener.address() as string, seconds, count, kind)
  const channel = FdChannel.fromConnection(await listener.accept())
  cleanUp(() => channel.close())
  await listener.close()
  return [channel, await inodes]
}

describe('An fd whose close(2) can block for an hour', () => {
  lookedBefore()
  leaveNoFds()

  const ends: [string, Kind, (channel: FdChannel, inodes: number[]) => unknown][] = [
    ['by ReceivedFd.close()', 'message', async (channel) => (await next(channel))?.fds.map((fd) => fd.close())],
    [
      'by Connection.close()',
      'message',
      async (channel) => (await next(channel))?.fds.map((fd) => Connection.fromFd(fd.detach()).close()),
    ],
    [
      'by Connection.reset()',
      'message',
      async (channel) => (await next(channel))?.fds.map((fd) => Connection.fromFd(fd.detach()).reset()),
    ],
    [
      'by Connection.close() on a duplicate',
      'message',
      async (channel) => {
        for (const received of (await next(channel))?.fds ?? []) {
          const connection = Connection.fromFd(received.fd, { dup: true })
          received.close()
          connection.close()
        }
      },
    ],
    [
      'when its message is rejected as malformed',
      'malformed',
      async (channel) => assert.equal(await next(channel).catch(codeOf), 'ERR_CHANNEL_MESSAGE'),
    ],
    [
      'when its channel closes before its message is received',
      'message',
      async (channel, inodes) => {
        // A channel that waits for room to send also receives, even when the application does not receive messages.
        for (let i = 0; i < 20; i++) channel.send(Buffer.alloc(60_000)).catch(() => {})
        await until(() => inodes.every((inode) => namedFds().some((fd) => fd.endsWith(`socket:[${inode}]`))))
        channel.close()
      },
    ],
  ]
  for (const [name, kind, end] of ends) {
    it(`is closed without blocking ${name} (100 fds)`, async () => {
      const [channel, inodes] = await channelFrom(100, forEver, kind)
      assert.equal(stillOpen(inodes).length, 100)
      await end(channel, inodes)
      await work()
      await until(() => stillOpen(inodes).length === 0)
    })
  }

  it('is closed when its ReceivedFd becomes unreachable', async () => {
    const [channel, inodes] = await channelFrom(3, forEver, 'message')
    const warned: Error[] = []
    const note = (warning: Error) => warned.push(warning)
    process.on('warning', note)
    cleanUp(() => process.off('warning', note))
    await next(channel)
    await until(() => {
      global.gc?.()
      return warned.length === 3 && stillOpen(inodes).length === 0
    })
  })
})

describe('A unix socket whose receive queue holds fds whose close(2) blocks', () => {
  lookedBefore()
  leaveNoFds()

  async function accepted(seconds = long): Promise<[Connection, number[]]> {
    const listener = await listen({ path: path() })
    const inodes = startUntrustedPeer(listener.address() as string, seconds, 1, 'bare')
    const connection = await listener.accept()
    cleanUp(() => connection.close())
    await listener.close()
    return [connection, await inodes]
  }

  /** Asserts that the event loop works while the kernel closes the sockets. */
  async function workedMeanwhile(inodes: number[]) {
    await work()
    assert.equal(stillOpen(inodes).length, inodes.length, 'the event loop was blocked until close(2) returned')
  }

  it('does not block the event loop when its Connection is closed', async () => {
    const [connection, inodes] = await accepted()
    connection.close()
    await workedMeanwhile(inodes)
  })

  it('does not block the event loop when its Connection is reset', async () => {
    const [connection, inodes] = await accepted()
    connection.reset()
    await workedMeanwhile(inodes)
  })

  it('does not block the event loop when its FdChannel is closed', async () => {
    const [channel, inodes] = await channelFrom(20, long, 'message')
    channel.close()
    await workedMeanwhile(inodes)
  })

  for (const name of [path, () => `\0async-accept-closer-${process.pid}`]) {
    it(`does not block the event loop when its Listener at ${name === path ? 'a path' : 'an abstract name'} closes before it is accepted`, async () => {
      const listener = await listen({ path: name() })
      const inodes = await startUntrustedPeer(listener.address() as string, long, 1, 'bare')
      await listener.close()
      await workedMeanwhile(inodes)
    })
  }

  it('does not block the event loop when clients are reset at the fd limit', async () => {
    const { code, stdout, stderr } = await runNode('close-waits.mjs', ['limit', path()], ['prlimit', '--nofile=64'])
    assert.deepEqual([code, stdout, stderr], [0, 'worked meanwhile\n', ''])
  })

  it('does not block the event loop when the fd limit leaves no room for the fds of its message', async () => {
    const { code, stdout, stderr } = await runNode('close-waits.mjs', ['full', path()], ['prlimit', '--nofile=64'])
    assert.deepEqual([code, stdout, stderr], [0, 'ERR_CHANNEL_MESSAGE, worked meanwhile\n', ''])
  })

  it('delivers its PROXY header, and its fds are closed', async () => {
    const [connection, inodes] = await accepted(forEver)
    assert.equal((await connection.proxyHeader())?.command, 'PROXY')
    await work()
    await until(() => stillOpen(inodes).length === 0)
    connection.close()
  })
})

describe('Listener on a unix socket', () => {
  leaveNoFds()

  it('releases an abstract name before close() returns', async () => {
    const name = `\0async-accept-closed-${process.pid}`
    for (let i = 0; i < 50; i++) {
      const listener = await Listener.listen({ path: name })
      FdChannel.connect(name).close()
      listener.close()
    }
  })
})

describe('A close(2) that blocks', () => {
  it('does not delay process.exit()', async () => {
    const { code, stderr } = await runNode('close-waits.mjs', ['exit', path()])
    assert.deepEqual([code, stderr], [7, ''])
  })

  it('does not delay worker.terminate(), and its thread survives the worker', async () => {
    const { code, stdout, stderr } = await runNode('close-waits.mjs', ['worker', path()])
    assert.deepEqual([code, stdout, stderr], [0, 'terminated\nclosed\n', ''])
  })
})
