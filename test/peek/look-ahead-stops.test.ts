import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { binding } from '../../src/core/binding.js'
import { Connection, type ListenOptions, type LookAheadOptions } from '../../src/index.js'
import { awaitBytes, pair, temporary } from '../descriptors.js'
import { extension, helloMessage, inRecords, vector } from '../hellos.js'
import { cleanUp, listen, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { countLooks, lookedBefore } from '../looked-before.js'
import { needsFamilyOf, skip } from '../needs.js'
import { type ScriptedPeer, scriptedPeer } from './scripted-peer.js'

const forever = { timeout: -1 }
const line = 'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n'
const hello = inRecords(helloMessage({ extensions: vector(2, extension(21, Buffer.alloc(1500))) }))

const { POLLPRI } = binding.constants as { POLLPRI: number }

// From socket(7), for sockets that were not made here.
const SOL_SOCKET = 1
const SO_ERROR = 4
const SO_RCVBUF = 8
const SO_OOBINLINE = 10
const SO_PEEK_OFF = 42

const looks: Record<
  string,
  { bytes: Buffer; look: (connection: Connection, o?: LookAheadOptions) => Promise<unknown> }
> = {
  peek: { bytes: Buffer.alloc(60_000, 'abc'), look: (connection, options) => connection.peek(60_000, options) },
  clientHello: { bytes: hello, look: (connection, options) => connection.clientHello(options) },
  proxyHeader: { bytes: Buffer.from(line), look: (connection, options) => connection.proxyHeader(options) },
}

const ways: Record<string, () => ListenOptions> = {
  'TCP over IPv4': () => ({ host: '127.0.0.1' }),
  'TCP over IPv6': () => ({ host: '::1' }),
  'a unix path': () => ({ path: join(temporaryDirectory(), 'socket') }),
}

/** A connection to a peer with abilities that Node's sockets lack. `option` is set on the listening socket. */
async function scripted(options: ListenOptions = { host: '127.0.0.1' }, option?: [name: number, value: number]) {
  const listener = await listen(options)
  if (option) assert.equal(binding.setOption(listener.fd, SOL_SOCKET, ...option), 0)
  const peer = scriptedPeer(listener)
  const accepting = listener.accept()
  await peer.connect()
  const connection = await accepting
  cleanUp(() => connection.close())
  return { connection, peer }
}

/** Reads the remaining bytes until the peer half-closes. */
async function rest(connection: Connection, peer: ScriptedPeer): Promise<Buffer> {
  const received = buffer(temporary(connection.toSocket()))
  await peer.end()
  return received
}

for (const [way, options] of Object.entries(ways)) {
  describe(`A look-ahead over ${way}`, () => {
    lookedBefore()
    leaveNoFds()

    beforeEach(function () {
      needsFamilyOf(this, way.endsWith('IPv6') ? '::1' : '127.0.0.1')
    })

    for (const [name, { bytes, look }] of Object.entries(looks)) {
      const part = bytes.subarray(0, 10)

      it(`by ${name} rejects at once when urgent data blocks the remaining bytes, and consumes nothing`, async () => {
        const { connection, peer } = await scripted(options())
        const refused = assert.rejects(look(connection, forever), {
          code: 'ERR_PEEK_STOPPED',
          message: /: urgent data after 10 bytes$/,
        })
        await peer.send(part)
        await peer.send('!', 'urgent')
        await refused
        await peer.send(bytes.subarray(10))
        await assert.rejects(look(connection, forever), { code: 'ERR_PEEK_STOPPED' })
        await assert.rejects(look(connection, { timeout: 0 }), { code: 'ERR_PEEK_STOPPED' })
        assert.ok((await connection.peek(10)).equals(part))
        // Urgent data is not part of the stream.
        assert.ok((await rest(connection, peer)).equals(bytes))
      })

      it(`by ${name} rejects with the same reason when urgent data arrives after the readiness event`, async () => {
        const { connection, peer } = await scripted(options())
        const { receive } = binding
        let sent: Promise<void> | undefined
        // The event reported the first bytes. When the look-ahead reads, the urgent byte has arrived as well.
        binding.receive = (...args: Parameters<typeof receive>) => {
          if (sent === undefined) {
            sent = peer.send('!', 'urgent')
            while (!(binding.poll(connection.fd) & POLLPRI));
          }
          return receive(...args)
        }
        cleanUp(() => {
          binding.receive = receive
        })
        const refused = assert.rejects(look(connection, forever), {
          code: 'ERR_PEEK_STOPPED',
          message: /: urgent data after 10 bytes$/,
        })
        await peer.send(part)
        await refused
        await sent
      })

      it(`by ${name} rejects with ERR_PEEK_STOPPED when the peer half-closes after urgent data`, async () => {
        const { connection, peer } = await scripted(options())
        await peer.send(part)
        await peer.send('!', 'urgent')
        await peer.end()
        await assert.rejects(look(connection, forever), { code: 'ERR_PEEK_STOPPED' })
      })

      it(`by ${name} skips urgent data that comes first`, async () => {
        const { connection, peer } = await scripted(options())
        const looked = look(connection)
        await peer.send('!', 'urgent')
        await peer.send(part)
        await peer.send(bytes.subarray(10))
        assert.ok(await looked)
      })

      it(`by ${name} starts at the first byte regardless of the socket's SO_PEEK_OFF`, async function () {
        const { connection, peer } = await scripted(options())
        const error = binding.setOption(connection.fd, SOL_SOCKET, SO_PEEK_OFF, 3)
        if (error !== 0) skip(this, `the kernel has no SO_PEEK_OFF for such a socket (${error})`)
        await peer.send(bytes)
        using again = Connection.fromFd(connection.detach())
        const seen = await look(again)
        assert.ok(seen)
        if (name !== 'proxyHeader') assert.deepEqual(await look(again), seen)
        assert.equal((await rest(again, peer)).length, name === 'proxyHeader' ? 0 : bytes.length)
      })
    }

    it('rejects at urgent data that stays in the stream (SO_OOBINLINE)', async () => {
      const { connection, peer } = await scripted(options(), [SO_OOBINLINE, 1])
      // A unix socket does not inherit the option.
      assert.equal(binding.setOption(connection.fd, SOL_SOCKET, SO_OOBINLINE, 1), 0)
      const refused = assert.rejects(connection.peek(10, forever), { code: 'ERR_PEEK_STOPPED' })
      await peer.send('hel')
      await peer.send('!', 'urgent')
      await refused
      await peer.send('lo')
      await assert.rejects(connection.peek(10, forever), { code: 'ERR_PEEK_STOPPED' })
      assert.equal(String(await rest(connection, peer)), 'hel!lo')
    })

    it("starts at the first byte regardless of the listening socket's SO_PEEK_OFF", async function () {
      const { connection, peer } = await scripted(options())
      if (binding.setOption(connection.fd, SOL_SOCKET, SO_PEEK_OFF, -1) !== 0) {
        skip(this, 'the kernel has no SO_PEEK_OFF for such a socket')
      }
      const second = await scripted(options(), [SO_PEEK_OFF, 3])
      await second.peer.send('hello')
      assert.equal(String(await second.connection.peek(5)), 'hello')
      await peer.end()
    })

    it('resolves when enough bytes precede the urgent data', async () => {
      const { connection, peer } = await scripted(options())
      await peer.send(`${line}hello`)
      await peer.send('!', 'urgent')
      assert.equal(String(await connection.peek(5)), 'PROXY')
      assert.equal((await connection.proxyHeader())?.source?.address, '192.0.2.1')
      await assert.rejects(connection.peek(6, forever), { code: 'ERR_PEEK_STOPPED' })
      assert.equal(String(await rest(connection, peer)), 'hello')
    })
  })
}

describe('A look-ahead over a unix socket', () => {
  lookedBefore()
  leaveNoFds()

  for (const [name, { bytes, look }] of Object.entries(looks)) {
    it(`by ${name} rejects at once when file descriptors block the remaining bytes`, async () => {
      const { connection, peer } = await scripted({ path: join(temporaryDirectory(), 'socket') })
      const refused = assert.rejects(look(connection, forever), {
        code: 'ERR_PEEK_STOPPED',
        message: /: file descriptors after 10 bytes$/,
      })
      await peer.sendFds(bytes.subarray(0, 10))
      await peer.send(bytes.subarray(10))
      await refused
      await assert.rejects(look(connection, { timeout: 0 }), { code: 'ERR_PEEK_STOPPED' })
      assert.ok((await rest(connection, peer)).equals(bytes))
    })
  }
})

for (const host of ['127.0.0.1', '::1']) {
  describe(`A look-ahead through a small receive buffer at ${host}`, () => {
    lookedBefore()
    leaveNoFds()

    beforeEach(function () {
      needsFamilyOf(this, host)
    })

    const bufferOf = ({ fd }: Connection) => binding.getOption(fd, SOL_SOCKET, SO_RCVBUF)

    // The smallest size, as the kernel doubles it, and some sizes between it and the default.
    for (const size of [1, 1500, 8000, 30_000]) {
      it(`of ${size} bytes sees more bytes than fit, and restores the buffer size`, async () => {
        for (const { bytes, look } of Object.values(looks)) {
          const { connection, peer } = await scripted({ host }, [SO_RCVBUF, size])
          const before = bufferOf(connection)
          const looked = look(connection, forever)
          // The peer can send the last bytes when there is room.
          const sent = peer.send(bytes)
          assert.ok(await looked)
          assert.equal(bufferOf(connection), before)
          await sent.then(() => connection.close())
        }
      })
    }

    it('leaves all bytes that it saw to the next reader', async () => {
      const { connection, peer } = await scripted({ host }, [SO_RCVBUF, 1])
      const { bytes, look } = looks.peek as (typeof looks)[string]
      const sent = peer.send(Buffer.concat([bytes, bytes, bytes, bytes]))
      assert.ok(bytes.equals((await look(connection)) as Buffer))
      const received = buffer(temporary(connection.toSocket()))
      await sent
      await peer.end()
      assert.ok((await received).equals(Buffer.concat([bytes, bytes, bytes, bytes])))
    })

    it('restores the buffer size when it is aborted or times out', async () => {
      const { connection, peer } = await scripted({ host }, [SO_RCVBUF, 1])
      const before = bufferOf(connection)
      await peer.send('x'.repeat(500))
      const controller = new AbortController()
      const counted = countLooks()
      const looked = connection.peek(30_000, { timeout: -1, signal: controller.signal })
      await until(() => counted.count > 0)
      assert.ok(bufferOf(connection) > before)
      controller.abort()
      await assert.rejects(looked, { code: 'ABORT_ERR' })
      assert.equal(bufferOf(connection), before)
      await assert.rejects(connection.peek(30_000, { timeout: 0 }), { code: 'ERR_PEEK_TIMEOUT' })
      assert.equal(bufferOf(connection), before)
    })

    it('rejects at once when the system allows no larger buffer', async () => {
      const { connection, peer } = await scripted({ host }, [SO_RCVBUF, 1])
      const { setOption } = binding
      // As with a small net.core.rmem_max: the call succeeds, and the kernel sets a smaller size.
      binding.setOption = (fd, level, name, value) =>
        setOption(fd, level, name, name === SO_RCVBUF ? Math.min(Number(value), 4000) : value)
      cleanUp(() => Object.assign(binding, { setOption }))
      const refused = assert.rejects(connection.peek(10_000, forever), { code: 'ERR_PEEK_BUFFER' })
      await peer.send('x'.repeat(500))
      await refused
      assert.equal((await connection.peek(500)).length, 500)
    })

    it('does not resize the default buffer', async () => {
      const { connection, client } = await pair({ host })
      const names: number[] = []
      const { setOption } = binding
      binding.setOption = (fd, level, name, value) => {
        names.push(name)
        return setOption(fd, level, name, value)
      }
      cleanUp(() => Object.assign(binding, { setOption }))
      client.write(Buffer.alloc(60_000))
      const looked = connection.peek(65_536, forever)
      awaitBytes(connection.fd)
      client.write(Buffer.alloc(10_000))
      await looked
      assert.deepEqual(names, [SO_PEEK_OFF])
    })
  })
}

describe('A look-ahead at the end of a connection', () => {
  lookedBefore()
  leaveNoFds()

  for (const [end, how] of [
    ['end', 'a half-close'],
    ['reset', 'a reset'],
  ] as const) {
    it(`consumes a complete PROXY header before ${how}`, async () => {
      const { connection, peer } = await scripted()
      await peer.send(line)
      await peer[end]()
      assert.equal((await connection.proxyHeader(forever))?.source?.address, '192.0.2.1')
    })

    it(`rejects with ERR_PEEK_ENDED when ${how} truncates a PROXY header`, async () => {
      const { connection, peer } = await scripted()
      await peer.send(line.slice(0, 20))
      await peer[end]()
      await assert.rejects(connection.proxyHeader(forever), { code: 'ERR_PEEK_ENDED', message: /: 20 bytes/ })
      await assert.rejects(connection.proxyHeader({ timeout: 0 }), { code: 'ERR_PEEK_ENDED' })
      assert.equal(String(await connection.peek(100, forever)), line.slice(0, 20))
      assert.equal(await connection.clientHello(forever), null)
    })
  }

  it('leaves the error of a reset to the next reader', async () => {
    const { connection, peer } = await scripted()
    await peer.send('hello')
    await peer.reset()
    assert.equal(String(await connection.peek(10, forever)), 'hello')
    assert.equal(binding.getOption(connection.fd, SOL_SOCKET, SO_ERROR), constants.errno.ECONNRESET)
  })

  it('does not mistake an event for the end of the stream', async () => {
    const { connection, client } = await pair()
    client.write('PROXY')
    const counted = countLooks()
    const looked = connection.proxyHeader(forever)
    await until(() => counted.count > 0)
    // As for another fd that had this number before.
    binding.watchers?.get(connection.fd)?.(true, false)
    client.write(line.slice(5))
    assert.equal((await looked)?.source?.address, '192.0.2.1')
  })

  it('does not mistake a message in the error queue for the end of the stream', async function () {
    const { connection, client } = await pair()
    // MSG_ZEROCOPY of send(2): the kernel notifies the sender with such a message when it no longer needs the bytes.
    const script = 'import socket; s = socket.socket(fileno=3); s.setsockopt(1, 60, 1); s.send(b"x", 0x4000000)'
    const sent = spawnSync('python3', ['-c', script], { stdio: ['ignore', 'ignore', 'pipe', connection.fd] })
    if (sent.status !== 0) skip(this, `MSG_ZEROCOPY is not supported: ${sent.stderr}`)
    const POLLERR = 8
    await until(() => binding.poll(connection.fd) & POLLERR)
    for (const look of ['proxyHeader', 'peek', 'clientHello'] as const) {
      const looked = look === 'peek' ? connection.peek(5, { timeout: 0 }) : connection[look]({ timeout: 0 })
      await assert.rejects(looked, { code: 'ERR_PEEK_TIMEOUT' })
    }
    const looked = connection.proxyHeader(forever)
    client.write(line.slice(0, 20))
    client.write(line.slice(20))
    assert.equal((await looked)?.source?.address, '192.0.2.1')
  })

  it('rejects with EBADF at its deadline when other code has closed the fd', async () => {
    const { connection } = await pair()
    const looked = connection.peek(5, { timeout: 20 })
    closeSync(connection.fd)
    await assert.rejects(looked, { code: 'EBADF' })
    connection.detach()
  })
})
