import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { closeSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { binding } from '../../src/core/binding.js'
import { Connection, FdChannel, type FdMessage, Listener } from '../../src/index.js'
import {
  channels,
  copiesOf,
  inode,
  inodesOf,
  listenAt,
  next,
  nextText,
  openFiles,
  type SocketType,
  socketTypes,
  temporaryChannel,
} from '../channels.js'
import { openFile, pair, temporaryFd } from '../descriptors.js'
import { cleanUp, flagsOf, O_CLOEXEC, O_NONBLOCK, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

async function connected(path: string, type: SocketType): Promise<[FdChannel, FdChannel]> {
  const listener = await listenAt(path, type)
  const channel = temporaryChannel(FdChannel.connect(path, { type }))
  const connection = await listener.accept()
  cleanUp(() => connection.close())
  return [channel, temporaryChannel(FdChannel.fromConnection(connection))]
}

const kinds: [string, (type: SocketType) => Promise<[FdChannel, FdChannel]>][] = [
  ['of a pair', async (type) => channels(type)],
  ['over a path', (type) => connected(`${temporaryDirectory()}/socket`, type)],
  ['over an abstract name', (type) => connected(`\0async-accept-${randomUUID()}`, type)],
]

for (const type of socketTypes) {
  for (const [kind, open] of kinds) {
    describe(`FdChannel ${kind}, ${type}`, () => {
      lookedBefore()
      leaveNoFds()

      it('carries messages in both directions, in order', async () => {
        const [a, b] = await open(type)
        await Promise.all([a.send('one'), a.send(Buffer.from('two')), b.send('three')])
        assert.equal(await nextText(b), 'one')
        assert.equal(await nextText(b), 'two')
        assert.equal(await nextText(a), 'three')
      })

      for (const count of [0, 1, 253]) {
        it(`carries ${count} fds with a message, in order`, async () => {
          const [a, b] = await open(type)
          const files = openFiles(count)
          await a.send('files', files)
          assert.deepEqual(inodesOf(await next(b)), files.map(inode))
        })
      }

      it('delivers each message with its own fds', async () => {
        const [a, b] = await open(type)
        const [one, two, three] = openFiles(3) as [number, number, number]
        const lists = [[], [one], [], [two, three], [three, three], []]
        for (const [i, files] of lists.entries()) await a.send(`${i}`, files)
        const got: number[][] = []
        for (const _ of lists) got.push(inodesOf(await next(b)))
        assert.deepEqual(
          got,
          lists.map((files) => files.map(inode)),
        )
      })

      it('ends with its peer, after the messages of the peer were delivered', async () => {
        const [a, b] = await open(type)
        // `a` closes without reading this message, so the kernel reports ECONNRESET to `b` before any data.
        await b.send('to nobody', openFiles(1))
        await a.send('last')
        a.close()
        assert.equal(await nextText(b), 'last')
        assert.equal(await next(b), undefined)
        assert.equal(await next(b), undefined)
        await assert.rejects(b.send('too late'), { code: 'EPIPE', syscall: 'sendmsg' })
      })

      it('returns the credentials of its peer', async () => {
        const [a, b] = await open(type)
        const self = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() }
        assert.deepEqual([a.peerCredentials(), b.peerCredentials()], [self, self])
        a.close()
        assert.throws(() => a.peerCredentials(), { code: 'ERR_CHANNEL_CLOSED' })
      })
    })
  }

  describe(`FdChannel, ${type}`, () => {
    lookedBefore()
    leaveNoFds()

    it('receives close-on-exec fds, and has a close-on-exec and non-blocking socket', async () => {
      const [a, b] = channels(type)
      await a.send('file', openFiles(1))
      const message = (await next(b)) as FdMessage
      const flags = (fd: number) => (flagsOf(fd) as number) & (O_CLOEXEC | O_NONBLOCK)
      assert.equal(flags(message.fds[0]?.fd as number), O_CLOEXEC)
      inodesOf(message)
      for (const { fd } of [a, b]) assert.equal(flags(fd), O_CLOEXEC | O_NONBLOCK)
    })

    it('transfers a blocking fd for the peer to the caller of pair()', async () => {
      const { channel, fd } = FdChannel.pair({ type })
      temporaryChannel(channel)
      assert.equal((flagsOf(fd) as number) & O_NONBLOCK, 0)
      closeSync(fd)
      assert.equal(await next(channel), undefined)
    })

    it('transfers a received fd on detach(), and closes it otherwise', async () => {
      const [a, b] = channels(type)
      await a.send('files', openFiles(2))
      const [one, two] = ((await next(b)) as FdMessage).fds as [FdMessage['fds'][0], FdMessage['fds'][0]]
      const { fd } = one
      assert.equal(one.detach(), fd)
      assert.deepEqual([one.fd, one.detach()], [-1, -1])
      one.close()
      assert.notEqual(flagsOf(fd), undefined)
      closeSync(fd)
      const other = two.fd
      two[Symbol.dispose]()
      two.close()
      await until(() => flagsOf(other) === undefined)
      assert.equal(two.detach(), -1)
    })

    it('transfers a listening socket, and a connection with unread data', async () => {
      const [a, b] = channels(type)
      const { listener, connection, client } = await pair()
      client.write('hello')
      await a.send('server', [listener.fd, connection.fd])
      const { fds } = (await next(b)) as FdMessage
      connection.close()
      await listener.close()
      const [second, same] = fds.map((fd) => fd.detach()) as [number, number]
      const copy = Connection.fromFd(same)
      assert.equal(String(await copy.peek(5)), 'hello')
      copy.close()
      const heir = Listener.fromFd(second)
      cleanUp(() => heir.close())
      assert.notEqual((heir.address() as { port: number }).port, 0)
    })

    it('carries messages of up to maxMessage bytes, in both directions', async () => {
      const [a, b] = channels(type, { maxMessage: 100_000 })
      const data = Buffer.alloc(100_000, 'abc')
      await assert.rejects(a.send(Buffer.alloc(100_001)), { code: 'ERR_INVALID_ARG_VALUE' })
      const [, message] = await Promise.all([a.send(data), next(b)])
      assert.ok(message?.data.equals(data))
    })

    it('sends the data and fds as they are at the call', async () => {
      const [a, b] = channels(type)
      const data = Buffer.from('before')
      const [one, two] = openFiles(2) as [number, number]
      const fds = [one]
      const sent = a.send(data, fds)
      data.write('AFTER!')
      fds[0] = two
      await sent
      const message = (await next(b)) as FdMessage
      assert.equal(String(message.data), 'before')
      assert.deepEqual(inodesOf(message), [inode(one)])
    })

    it('delivers messages to pending receives in the order of the calls', async () => {
      const [a, b] = channels(type)
      const waiting = Array.from({ length: 40 }, () => nextText(b))
      for (let i = 0; i < 40; i++) await a.send(`${i}`)
      assert.deepEqual(
        await Promise.all(waiting),
        Array.from({ length: 40 }, (_, i) => `${i}`),
      )
    })

    it('can receive after a for await loop was left', async () => {
      const [a, b] = channels(type)
      for (const word of ['one', 'two', 'three']) await a.send(word)
      for await (const { data } of b) {
        if (String(data) === 'two') break
      }
      assert.equal(await nextText(b), 'three')
    })

    it('queues a message until the peer reads', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      let sent = 0
      const sends = Array.from({ length: 20 }, async (_, i) => {
        await a.send(Buffer.alloc(60_000, i), [file])
        sent++
      })
      for (let turn = 0; turn < 20; turn++) await nextTurn()
      assert.ok(sent < 20, `${sent} sent`)
      for (let i = 0; i < 20; i++) {
        const message = (await next(b)) as FdMessage
        assert.ok(message.data.equals(Buffer.alloc(60_000, i)))
        assert.deepEqual(inodesOf(message), [inode(file)])
      }
      await Promise.all(sends)
    })

    it('reads up to sixteen messages ahead of its consumer, and leaves the others in the kernel', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      for (let i = 0; i < 60; i++) await a.send(`${i}`, [file])
      const copies = () => copiesOf(file)
      assert.equal(await nextText(b), '0')
      // Another thread closes the fd of the message that was received.
      await until(() => copies() === 16)
      // A channel that waits until it can send also reads.
      const stuck = Array.from({ length: 20 }, () => b.send(Buffer.alloc(60_000)))
      for (let turn = 0; turn < 20; turn++) await nextTurn()
      assert.equal(copies(), 16)
      for (let i = 1; i < 60; i++) assert.equal(await nextText(b), `${i}`)
      b.close()
      for (const each of await Promise.allSettled(stuck)) if (each.status === 'rejected') codeIs(each.reason)
    })

    const codeIs = ({ code }: { code: string }) => assert.equal(code, 'ERR_CHANNEL_CLOSED')

    it('ends pending receives and closes the fds of unread messages on close()', async () => {
      const [a, b] = channels(type)
      const files = openFiles(2)
      for (let i = 0; i < 10; i++) await a.send(`${i}`, files)
      const stuck = Array.from({ length: 20 }, () => b.send(Buffer.alloc(60_000)))
      await nextText(b)
      b.close()
      b.close()
      assert.equal(b.fd, -1)
      const refused = (await Promise.allSettled(stuck)).filter(({ status }) => status === 'rejected')
      assert.notEqual(refused.length, 0)
      for (const each of refused) codeIs((each as PromiseRejectedResult).reason)
      assert.equal(await next(b), undefined)
      await assert.rejects(b.send('x'), { code: 'ERR_CHANNEL_CLOSED' })
      const [c] = channels(type)
      const waiting = next(c)
      c[Symbol.dispose]()
      assert.equal(await waiting, undefined)
    })

    it('rejects a message with a closed fd, and sends the other messages', async () => {
      const [a, b] = channels(type)
      const sends = await Promise.allSettled([a.send('one'), a.send('two', [999_999]), a.send('three')])
      assert.deepEqual(
        sends.map((each) => (each.status === 'rejected' ? each.reason.code : each.status)),
        ['fulfilled', 'EBADF', 'fulfilled'],
      )
      assert.equal(await nextText(b), 'one')
      assert.equal(await nextText(b), 'three')
      await assert.rejects(a.send('four', [a.fd, 999_999, 888_888]), {
        message: 'sendmsg EBADF: bad file descriptor, fd 999999',
        fd: 999_999,
      })
    })

    it('rejects messages after the peer has closed its socket with unread messages', async () => {
      const [a, b] = channels(type)
      await a.send('unread')
      b.close()
      const code = type === 'seqpacket' ? 'ECONNRESET' : 'EPIPE'
      await assert.rejects(a.send('x'), { code, syscall: 'sendmsg' })
      await assert.rejects(a.send('y'), { code: 'EPIPE', syscall: 'sendmsg' })
    })

    it('closes the fds of an unreachable message, and emits a warning', async () => {
      const [a, b] = channels(type)
      await a.send('file', openFiles(1))
      const warnings: Error[] = []
      const note = (warning: Error) => warnings.push(warning)
      process.on('warning', note)
      cleanUp(() => process.off('warning', note))
      const { fds } = (await next(b)) as FdMessage
      const fd = fds.pop()?.fd as number
      await until(() => {
        global.gc?.()
        return warnings.length > 0
      })
      await until(() => flagsOf(fd) === undefined)
      const expected = `Closing an unclaimed received fd that became unreachable: fd ${fd}, over an FdChannel`
      assert.equal(warnings[0]?.message, expected)
    })

    it('is closed when it becomes unreachable', async () => {
      const { fd } = FdChannel.pair({ type })
      const other = temporaryChannel(FdChannel.fromFd(fd))
      let ended = false
      const end = next(other).then(() => (ended = true))
      await until(() => {
        global.gc?.()
        return ended
      })
      await end
    })
  })
}

describe('FdChannel', () => {
  lookedBefore()
  leaveNoFds()

  it('rejects a packet that is larger than the send buffer, and continues', async () => {
    const [a, b] = channels('seqpacket', { maxMessage: 1024 * 1024 })
    await assert.rejects(a.send(Buffer.alloc(1024 * 1024), openFiles(1)), { code: 'EMSGSIZE' })
    await a.send('short')
    assert.equal(await nextText(b), 'short')
  })

  it('can receive 253 fds even if its socket adds credentials and a pidfd', async () => {
    const [a, b] = channels('stream')
    const SO_PASSCRED = 16
    const SO_PASSPIDFD = 76 // since Linux 6.5
    assert.equal(binding.setOption(b.fd, binding.constants.SOL_SOCKET as number, SO_PASSCRED, 1), 0)
    binding.setOption(b.fd, binding.constants.SOL_SOCKET as number, SO_PASSPIDFD, 1)
    const files = openFiles(253)
    await a.send('files', files)
    assert.deepEqual(inodesOf(await next(b)), files.map(inode))
  })

  it('rejects invalid arguments, and sends nothing', async () => {
    const [a, b] = channels('stream')
    const wrong = { code: 'ERR_INVALID_ARG_TYPE' }
    for (const message of [undefined, 1, {}, [1]]) await assert.rejects(a.send(message as never), wrong)
    await assert.rejects(a.send('x', 1 as never), wrong)
    await assert.rejects(a.send('x', ['1'] as never), wrong)
    await assert.rejects(a.send(''), { code: 'ERR_INVALID_ARG_VALUE' })
    await assert.rejects(a.send('x', Array(254).fill(a.fd)), { code: 'ERR_INVALID_ARG_VALUE' })
    await assert.rejects(a.send('x', [-1]), { code: 'ERR_OUT_OF_RANGE' })
    await a.send('right')
    assert.equal(await nextText(b), 'right')
    for (const options of [null, { maxMessage: 0 }, { maxMessage: 1024 * 1024 + 1 }, { type: 'dgram' }]) {
      assert.throws(() => FdChannel.pair(options as never), /TypeError|RangeError/)
    }
    assert.throws(() => FdChannel.fromConnection({} as never), wrong)
    assert.throws(() => FdChannel.connect(undefined as never), wrong)
  })

  it('reads each element of fds once, even if it is a getter', async () => {
    const [a, b] = channels('stream')
    const [file] = openFiles(1) as [number]
    let asked = 0
    const fds = Object.defineProperty([0], 0, { get: () => (asked++ === 0 ? file : 'other') })
    await a.send('x', fds)
    assert.deepEqual(inodesOf(await next(b)), [inode(file)])
  })

  it('rejects an fd that is not a connected unix socket, and leaves it to the caller', async () => {
    const { listener, connection } = await pair()
    const unix = await listenAt(`${temporaryDirectory()}/socket`, 'stream')
    const { AF_UNIX, SOCK_STREAM, SOCK_DGRAM } = binding.constants as Record<string, number>
    const alone = binding.socket(AF_UNIX as number, SOCK_STREAM as number)
    const datagram = binding.socket(AF_UNIX as number, SOCK_DGRAM as number)
    const pipe = binding.pipe() as [number, number]
    for (const fd of [alone, datagram, ...pipe]) {
      binding.release(fd)
      temporaryFd(fd)
    }
    const [a] = channels('stream')
    const codes = new Map([
      [openFile('package.json'), 'ERR_FD_IS_FILE'],
      [openFile('/dev/null'), 'ERR_FD_NOT_SOCKET'],
      [pipe[0], 'ERR_FD_IS_PIPE'],
      [datagram, 'ERR_SOCKET_TYPE'],
      [unix.fd, 'ERR_SOCKET_LISTENING'],
      [listener.fd, 'ERR_SOCKET_LISTENING'],
      [connection.fd, 'ERR_SOCKET_NOT_UNIX'],
      [alone, 'ENOTCONN'],
      [a.fd, 'ERR_FD_IN_USE'],
      [999_999, 'EBADF'],
    ])
    for (const [fd, code] of codes) {
      const flags = flagsOf(fd)
      assert.throws(() => FdChannel.fromFd(fd), { code })
      assert.equal(flagsOf(fd), flags)
    }
    assert.throws(() => FdChannel.fromConnection(connection), { code: 'ERR_SOCKET_NOT_UNIX' })
    assert.ok(connection.fd >= 0)
    connection.close()
    assert.throws(() => FdChannel.fromConnection(connection), { code: 'ERR_CONNECTION_CLAIMED' })
  })

  it('reports why connect() failed', async () => {
    const directory = temporaryDirectory()
    const missing = `${directory}/missing`
    assert.throws(() => FdChannel.connect(missing), { code: 'ENOENT', syscall: 'connect', path: missing })
    await listenAt(`${directory}/socket`, 'stream')
    assert.throws(() => FdChannel.connect(`${directory}/socket`, { type: 'seqpacket' }), { code: 'EPROTOTYPE' })
    assert.throws(() => FdChannel.connect('x'.repeat(200)), { code: 'ENAMETOOLONG' })
  })
})
