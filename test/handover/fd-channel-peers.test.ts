import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { Connection, FdChannel, type FdMessage, Listener } from '../../src/index.js'
import {
  channels,
  framed,
  inode,
  inodesOf,
  Liar,
  listenAt,
  next,
  nextText,
  openFiles,
  type SocketType,
  socketTypes,
  temporaryChannel,
} from '../channels.js'
import { cleanUp, nodeEnvironment, runNode, startNode, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { needs } from '../needs.js'

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

/** Waits for a child to close. Returns its exit code and its output. */
async function finished(child: ChildProcess) {
  const [stdout, [code]] = await Promise.all([text(child.stdout as NodeJS.ReadableStream), once(child, 'close')])
  return { code, stdout }
}

/** Starts a program that inherits the peer of a channel as fd 3. */
function startWithChannel(type: SocketType, command: string, args: readonly string[]) {
  const { channel, fd } = FdChannel.pair({ type, maxMessage: 300_000 })
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit', fd], env: nodeEnvironment() })
  closeSync(fd)
  cleanUp(() => child.kill('SIGKILL'))
  return { channel: temporaryChannel(channel), child }
}

/** Listens on a new abstract name, and accepts a channel from a program. `start` gets the name with '@' for '\0'. */
async function acceptFrom(type: SocketType, start: (name: string) => ChildProcess) {
  const name = `async-accept-${randomUUID()}`
  const listener = await listenAt(`\0${name}`, type)
  const accepting = listener.accept()
  const child = start(`@${name}`)
  cleanUp(() => child.kill('SIGKILL'))
  const channel = temporaryChannel(FdChannel.fromConnection(await accepting))
  return { channel, child }
}

for (const type of socketTypes) {
  describe(`FdChannel with another process, ${type}`, () => {
    lookedBefore()
    leaveNoFds()

    async function isReversed(channel: FdChannel) {
      const files = openFiles(253)
      for (const count of [0, 1, 253]) {
        const data = Buffer.from(Array.from({ length: 10_000 }, (_, i) => i % 251))
        await channel.send(data, files.slice(0, count))
        const message = (await next(channel)) as FdMessage
        assert.ok(message.data.equals(data.reverse()))
        assert.deepEqual(inodesOf(message), files.slice(0, count).reverse().map(inode))
      }
    }

    it("exchanges messages with Python's socket module over an inherited fd", async () => {
      const { channel, child } = startWithChannel(type, 'python3', [fixture('channel-peer.py'), type, '3'])
      const end = finished(child)
      await isReversed(channel)
      channel.close()
      assert.equal((await end).code, 0)
    })

    it("exchanges messages with Python's socket module over a new connection, and knows its pid", async () => {
      const { channel, child } = await acceptFrom(type, (name) =>
        spawn('python3', [fixture('channel-peer.py'), type, name], { stdio: ['ignore', 'pipe', 'inherit'] }),
      )
      const end = finished(child)
      await isReversed(channel)
      assert.equal(channel.peerCredentials().pid, child.pid)
      channel.close()
      assert.equal((await end).code, 0)
    })

    it('exchanges bytes with socat', async function () {
      needs(this, 'socat', '-V')
      const { channel, child } = await acceptFrom(type, (name) => {
        const address = `ABSTRACT-CONNECT:${name.slice(1)},socktype=${type === 'stream' ? 1 : 5}`
        return spawn('socat', ['-t10', '-', address], { stdio: ['pipe', 'pipe', 'inherit'] })
      })
      const end = finished(child)
      const onWire = (message: string) => (type === 'stream' ? framed(message) : Buffer.from(message))
      child.stdin?.write(onWire('from socat'))
      assert.equal(await nextText(channel), 'from socat')
      await channel.send('to socat')
      channel.close()
      child.stdin?.end()
      assert.deepEqual(await end, { code: 0, stdout: String(onWire('to socat')) })
    })

    it('exchanges messages with a child over an inherited fd, and received fds are close-on-exec', async () => {
      const { channel, child } = startWithChannel(type, process.execPath, [fixture('channel-process.mjs'), 'echo', '3'])
      const end = finished(child)
      const files = openFiles(2)
      await channel.send('files', files)
      const message = (await next(channel)) as FdMessage
      assert.equal(String(message.data), 'files')
      assert.deepEqual(inodesOf(message), files.map(inode))
      channel.close()
      assert.deepEqual(await end, { code: 0, stdout: '[true,true]\n' })
    })

    it('does not keep a process alive without a pending receive', async () => {
      const { channel, child } = startWithChannel(type, process.execPath, [fixture('channel-process.mjs'), 'idle', '3'])
      const end = finished(child)
      assert.equal(await nextText(channel), 'hello')
      assert.equal(await nextText(channel), undefined)
      assert.deepEqual(await end, { code: 0, stdout: '' })
    })

    it('fails when the process reaches its fd limit, and leaks no received fd', async () => {
      const command = ['--nofile=64', process.execPath, fixture('channel-process.mjs'), 'exhaust', '3']
      const { channel, child } = startWithChannel(type, 'prlimit', command)
      const end = finished(child)
      assert.equal(await nextText(channel), 'ready')
      await channel.send('go on')
      assert.equal(await nextText(channel), 'full')
      await channel.send('files', openFiles(5))
      // The channel is closed (-1). The program has waited until every received fd is closed.
      assert.deepEqual(await end, { code: 0, stdout: '["ERR_CHANNEL_MESSAGE",-1]\n' })
      assert.equal(await next(channel), undefined)
    })

    it('can receive after a receive failed for lack of an fd to poll with', async () => {
      const command = ['--nofile=64', process.execPath, fixture('channel-process.mjs'), 'waitLate', '3']
      const { channel, child } = startWithChannel(type, 'prlimit', command)
      const end = finished(child)
      assert.equal(await nextText(channel), 'EMFILE')
      await channel.send('hello')
      assert.deepEqual(await end, { code: 0, stdout: '"hello"\n' })
    })

    it('sends neither a message that failed with EMFILE, nor any message after a partial one', async () => {
      const command = ['--nofile=64', process.execPath, fixture('channel-process.mjs'), 'sendLate', '3', type]
      const { channel, child } = startWithChannel(type, 'prlimit', command)
      const end = finished(child)
      await once(child.stdout as NodeJS.ReadableStream, 'data')
      const texts: (string | undefined)[] = []
      const read = async () => {
        do texts.push(await nextText(channel))
        while (texts.at(-1) !== undefined)
      }
      if (type === 'stream') await assert.rejects(read(), { code: 'ERR_CHANNEL_MESSAGE', message: /is incomplete/ })
      else await read()
      assert.equal(texts.at(-2), type === 'stream' ? undefined : 'again')
      assert.deepEqual(await end, { code: 0, stdout: `"EMFILE"\n"${type === 'stream' ? 'EMFILE' : 'sent'}"\n` })
    })
  })

  describe(`FdChannel with a peer that violates the protocol, ${type}`, () => {
    lookedBefore()
    leaveNoFds()

    const rejected = (channel: FdChannel, message: RegExp) =>
      assert.rejects(next(channel), { code: 'ERR_CHANNEL_MESSAGE', message })
    const wire = (data: string, fds = 0) => (type === 'stream' ? framed(data, fds) : data)

    it('delivers complete messages, then fails once and closes', async () => {
      const liar = new Liar(type, { maxMessage: 10 })
      const files = openFiles(3)
      liar.send(wire('one', 1), files.slice(0, 1))
      liar.send(wire('x'.repeat(11), 2), files.slice(1))
      assert.equal(await nextText(liar.channel), 'one')
      await rejected(liar.channel, /more than 10 bytes/)
      assert.equal(liar.channel.fd, -1)
      assert.equal(await next(liar.channel), undefined)
      await assert.rejects(liar.channel.send('x'), { code: 'ERR_CHANNEL_CLOSED' })
      const { EAGAIN } = constants.errno
      let received: Buffer | number = -EAGAIN
      await until(() => {
        received = liar.receive()
        return received !== -EAGAIN
      })
      assert.deepEqual(received, Buffer.alloc(0))
    })

    it('ends when the peer ends without a message', async () => {
      const liar = new Liar(type)
      const message = next(liar.channel)
      liar.end()
      assert.equal(await message, undefined)
    })

    it('receives fds of any kind, and a separate copy of an fd that is sent twice', async () => {
      const liar = new Liar(type)
      const [file] = openFiles(1) as [number]
      liar.send(wire('x', 3), [file, file, liar.channel.fd])
      const { fds } = (await next(liar.channel)) as FdMessage
      assert.equal(new Set(fds.map(({ fd }) => fd)).size, 3)
      assert.deepEqual(
        fds.map(({ fd }) => inode(fd)),
        [file, file, liar.channel.fd].map(inode),
      )
      const [wrong, , right] = fds.map(({ fd }) => fd) as [number, number, number]
      assert.throws(() => Listener.fromFd(wrong, { dup: true }), { code: 'ERR_FD_IS_FILE' })
      Connection.fromFd(right, { dup: true }).close()
      for (const fd of fds) fd.close()
    })
  })
}

describe('FdChannel with a peer that violates the stream protocol', () => {
  lookedBefore()
  leaveNoFds()

  const lies: [string, (liar: Liar, files: number[]) => void, RegExp][] = [
    ['announces no bytes', (liar) => liar.send(framed('')), /says 0 bytes/],
    ['announces too many bytes', (liar) => liar.send(Buffer.alloc(8, 'ffffffff00000000', 'hex')), /more than 65536/],
    ['announces too many fds', (liar) => liar.send(framed('x', 254)), /254 fds/],
    ['announces more fds than it sends', (liar, files) => liar.send(framed('x', 3), files), /fewer fds/],
    ['sends more fds than it announces', (liar, files) => liar.send(framed('x', 1), files), /more fds than its header/],
    [
      'sends more fds than it announces, with half a message',
      (liar, files) => liar.send(framed('xyz', 1).subarray(0, 9), files),
      /more fds than its header/,
    ],
    [
      'sends fds with each piece of a header',
      (liar, files) => {
        for (const byte of framed('x').subarray(0, 7)) {
          liar.send(Buffer.of(byte), Array(253).fill(files[0]))
        }
      },
      /more fds than its header/,
    ],
    [
      'ends in the middle of a header',
      (liar, files) => {
        liar.send(framed('x', 2).subarray(0, 5), files)
        liar.end()
      },
      /is incomplete/,
    ],
    [
      'ends in the middle of a message',
      (liar, files) => {
        liar.send(framed('xyz', 2).subarray(0, 10), files)
        liar.end()
      },
      /is incomplete/,
    ],
  ]
  for (const [what, lie, message] of lies) {
    it(`fails, and leaks no fd, when the peer ${what}`, async () => {
      const liar = new Liar()
      const waiting = assert.rejects(next(liar.channel), { code: 'ERR_CHANNEL_MESSAGE', message })
      lie(liar, openFiles(2))
      await waiting
      assert.equal(liar.channel.fd, -1)
    })
  }

  it('closes the fds of a partial message when the channel closes', async () => {
    const liar = new Liar()
    liar.send(framed('one'))
    liar.send(framed('two', 2).subarray(0, 9), openFiles(2))
    assert.equal(await nextText(liar.channel), 'one')
    liar.channel.close()
  })

  it('receives the same messages regardless of segment boundaries', async () => {
    const files = openFiles(5)
    const message = fc.record({
      data: fc.uint8Array({ minLength: 1, maxLength: 40 }),
      fds: fc.array(fc.constantFrom(...files), { maxLength: 3 }),
    })
    const property = fc.asyncProperty(
      fc.array(message, { minLength: 1, maxLength: 25 }),
      fc.array(fc.nat(400), { maxLength: 30 }),
      fc.infiniteStream(fc.boolean()),
      async (messages, cuts, pauses) => {
        const liar = new Liar()
        const starts = new Map<number, number[]>()
        let bytes = Buffer.alloc(0)
        for (const { data, fds } of messages) {
          // A peer sends fds with the first byte of their message, so the bytes are cut there.
          if (fds.length > 0) starts.set(bytes.length, fds)
          bytes = Buffer.concat([bytes, framed(data, fds.length)])
        }
        const edges = [...new Set([0, ...cuts, ...starts.keys(), bytes.length])]
          .filter((edge) => edge <= bytes.length)
          .sort((a, b) => a - b)
        const received = Promise.all(messages.map(() => next(liar.channel)))
        for (const [i, edge] of edges.slice(0, -1).entries()) {
          liar.send(bytes.subarray(edge, edges[i + 1]), starts.get(edge))
          if (pauses.next().value) await nextTurn()
        }
        liar.end()
        const got = (await received).map((each) => [each?.data.toString('hex'), inodesOf(each)])
        assert.deepEqual(
          got,
          messages.map(({ data, fds }) => [Buffer.from(data).toString('hex'), fds.map(inode)]),
        )
        assert.equal(await next(liar.channel), undefined)
      },
    )
    await fc.assert(property)
  })
})

describe('FdChannel with a peer that violates the packet protocol', () => {
  lookedBefore()
  leaveNoFds()

  it('fails on an empty packet', async () => {
    const liar = new Liar('seqpacket')
    const waiting = assert.rejects(next(liar.channel), { code: 'ERR_CHANNEL_MESSAGE', message: /is empty/ })
    liar.send('')
    await waiting
  })

  it('fails on an empty packet before other packets', async () => {
    const liar = new Liar('seqpacket')
    liar.send('')
    liar.send('x', openFiles(1))
    await assert.rejects(next(liar.channel), { code: 'ERR_CHANNEL_MESSAGE', message: /is empty/ })
  })

  it('fails on a packet that has only fds', async () => {
    const liar = new Liar('seqpacket')
    liar.send('', openFiles(2))
    await assert.rejects(next(liar.channel), { code: 'ERR_CHANNEL_MESSAGE' })
  })
})

describe('FdChannel between unrelated processes', () => {
  lookedBefore()
  leaveNoFds()

  it('carries messages and fds', async () => {
    const path = `${temporaryDirectory()}/socket`
    const listener = startNode('channel-process.mjs', ['listener', path])
    listener.stderr?.pipe(process.stderr)
    const said = finished(listener)
    await once(listener.stdout as NodeJS.ReadableStream, 'data')
    const asker = startNode('channel-process.mjs', ['ask', path])
    asker.stderr?.pipe(process.stderr)
    assert.deepEqual(await finished(asker), { code: 0, stdout: '["question",[true]]\n' })
    assert.equal((await said).code, 0)
  })
})

describe('FdChannel in a worker thread', () => {
  it('leaves no fd open when the worker ends with operations in progress', async () => {
    const { code, stdout, stderr } = await runNode('worker-channel.mjs')
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' })
    assert.deepEqual(JSON.parse(stdout), { leaked: 0, ended: true })
  })
})

describe('FdChannel with a partially sent message', () => {
  lookedBefore()
  leaveNoFds()

  it('rejects all pending sends when the peer closes', async () => {
    const [a, b] = channels('stream')
    // A regular file: copies of b's own fd in queued messages would keep that socket open.
    const [file] = openFiles(1) as [number]
    const sends = Array.from({ length: 20 }, () => a.send(Buffer.alloc(60_000), [file]))
    assert.equal((await next(b))?.fds.map((fd) => fd.close()).length, 1)
    b.close()
    const outcomes = await Promise.allSettled(sends)
    const codes = outcomes.map((each) => (each.status === 'rejected' ? each.reason.code : each.status))
    assert.deepEqual([...new Set(codes)], ['fulfilled', 'EPIPE'])
    await assert.rejects(a.send('x'), { code: 'EPIPE' })
  })
})
