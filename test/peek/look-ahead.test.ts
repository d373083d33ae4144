import assert from 'node:assert/strict'
import { once } from 'node:events'
import type net from 'node:net'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { buffer, text } from 'node:stream/consumers'
import tls from 'node:tls'
import { Connection, type ListenOptions } from '../../src/index.js'
import { dial } from '../backlog.js'
import { certificates } from '../certificates.js'
import { awaitBytes, pair, standStill, temporary, temporaryFd } from '../descriptors.js'
import { extension, helloMessage, helloOfNode, inRecords } from '../hellos.js'
import { runNode, startNode, target, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { countLooks, lookedBefore } from '../looked-before.js'
import { header2, ipv4Addresses, tlv } from '../proxy-headers.js'
import { localhost, upgraded } from '../tls-peers.js'

const forever = { timeout: -1 }
const claimed = { code: 'ERR_CONNECTION_CLAIMED' }

// The kernel accounts about 768 bytes for each byte that is sent alone. A unix socket holds at most 208 KiB unread.
const mostUnixPieces = 200

const ways: Record<string, () => ListenOptions> = {
  TCP: () => ({ host: '127.0.0.1' }),
  'a unix path': () => ({ path: join(temporaryDirectory(), 'socket') }),
}

/** Sends byte by byte. Waits until each byte was looked at before it sends the next. */
async function drip(client: net.Socket, bytes: Buffer, looks: { count: number }): Promise<void> {
  client.setNoDelay(true)
  for (const byte of bytes) {
    const before = looks.count
    client.write(Buffer.from([byte]))
    await until(() => looks.count > before)
  }
}

/** Reads the remaining bytes. The client half-closes after `last`. */
function rest(connection: Connection, client: net.Socket, last?: Buffer | string): Promise<Buffer> {
  const socket = temporary(connection.toSocket())
  if (last === undefined) client.end()
  else client.end(last)
  return buffer(socket)
}

describe('A look-ahead', () => {
  lookedBefore()
  leaveNoFds()

  for (const [way, options] of Object.entries(ways)) {
    describe(`over ${way}`, () => {
      it('waits for the requested number of bytes, and leaves them unread', async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const peeked = connection.peek(5)
        await drip(client, Buffer.from('hell'), looks)
        client.write('o, world')
        assert.equal(String(await peeked), 'hello')
        assert.equal(String(await connection.peek(4)), 'hell')
        assert.equal(String(await connection.peek(12)), 'hello, world')
        assert.equal(String(await rest(connection, client, '!')), 'hello, world!')
      })

      it('sees bytes that have already arrived', async () => {
        const { connection, client } = await pair(options())
        client.end('hello')
        assert.equal(String(await connection.peek(5)), 'hello')
        assert.equal(String(await connection.peek(1)), 'h')
      })

      it('sees all bytes when the peer half-closes early', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(10)
        client.end('hello')
        assert.equal(String(await peeked), 'hello')
        assert.equal(String(await connection.peek(10)), 'hello')
        assert.equal(String(await text(temporary(connection.toSocket()))), 'hello')
      })

      it('sees what is there once at least `min` bytes are', async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const peeked = connection.peek(100, { min: 3 })
        client.write('he')
        awaitBytes(connection.fd, 2)
        await until(() => looks.count > 0)
        client.write('llo')
        assert.match(String(await peeked), /^hello?$/)
        awaitBytes(connection.fd, 5)
        assert.equal(String(await connection.peek(100, { min: 1, timeout: 0 })), 'hello')
        assert.equal(String(await connection.peek(4, { min: 1 })), 'hell', 'no more than `length`')
        assert.equal(String(await connection.peek(5, { min: 5 })), 'hello')
        await assert.rejects(connection.peek(100, { min: 6, timeout: 0 }), {
          code: 'ERR_PEEK_TIMEOUT',
          bytesAvailable: 5,
        })
        client.end()
        assert.equal(String(await connection.peek(100, { min: 6 })), 'hello', 'fewer when the peer ends')
        assert.equal(String(await text(temporary(connection.toSocket()))), 'hello')
      })

      it('sees nothing when the peer half-closes at once', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(10)
        client.end()
        assert.equal((await peeked).length, 0)
        assert.equal((await connection.peek(10)).length, 0)
        assert.equal(await connection.clientHello(), null)
        assert.equal(await connection.proxyHeader(), null)
      })

      it('sees up to 65,536 bytes', async () => {
        const { connection, client } = await pair(options())
        const sent = Buffer.alloc(65_536, 'abc')
        client.write(sent)
        assert.ok((await connection.peek(65_536)).equals(sent))
        assert.ok((await rest(connection, client, 'd')).equals(Buffer.concat([sent, Buffer.from('d')])))
      })

      it('times out when the peer sends too few bytes', async () => {
        const { connection, client } = await pair(options())
        client.write('hell')
        await assert.rejects(connection.peek(5, { timeout: 20 }), { code: 'ERR_PEEK_TIMEOUT' })
        client.write('o')
        assert.equal(String(await connection.peek(5)), 'hello')
      })

      it('sees bytes that arrived before the deadline although the event loop was blocked', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(5, { timeout: 1 })
        client.write('hello')
        awaitBytes(connection.fd)
        standStill(20)
        assert.equal(String(await peeked), 'hello')
        assert.equal(String(await connection.peek(5, { timeout: 0 })), 'hello')
      })

      it('leaves the connection unchanged when it is aborted', async () => {
        const { connection, client } = await pair(options())
        const signal = AbortSignal.abort(new Error('why'))
        await assert.rejects(connection.peek(5, { signal }), { code: 'ABORT_ERR', cause: signal.reason })
        const controller = new AbortController()
        const peeked = connection.peek(5, { signal: controller.signal })
        controller.abort(new Error('because'))
        await assert.rejects(peeked, { code: 'ABORT_ERR', cause: controller.signal.reason })
        const header = connection.proxyHeader(forever)
        client.write('hello')
        assert.equal(await header, null)
        assert.equal(String(await rest(connection, client)), 'hello')
      })

      it('rejects while another look-ahead of the connection is pending', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(5)
        await assert.rejects(connection.peek(5), { code: 'ERR_PEEK_PENDING' })
        await assert.rejects(connection.clientHello(), { code: 'ERR_PEEK_PENDING' })
        await assert.rejects(connection.proxyHeader(), { code: 'ERR_PEEK_PENDING' })
        client.write('hello')
        assert.equal(String(await peeked), 'hello')
      })

      it('runs on many connections at once', async () => {
        const pairs = await Promise.all(Array.from({ length: 100 }, () => pair(options())))
        const peeked = pairs.map(({ connection }) => connection.peek(3))
        for (const [index, { client }] of pairs.entries()) client.write(String(index).padStart(3, '0'))
        assert.deepEqual(
          (await Promise.all(peeked)).map(String),
          pairs.map((_, index) => String(index).padStart(3, '0')),
        )
      })

      const claims: Record<string, (connection: Connection) => unknown> = {
        close: (connection) => connection.close(),
        reset: (connection) => connection.reset(),
        detach: (connection) => temporaryFd(connection.detach()),
        toSocket: (connection) => temporary(connection.toSocket()),
      }
      for (const [name, claim] of Object.entries(claims)) {
        it(`rejects when ${name}() claims the connection`, async () => {
          const { connection } = await pair(options())
          const peeked = connection.peek(5, forever)
          claim(connection)
          await assert.rejects(peeked, claimed)
          await assert.rejects(connection.peek(5), claimed)
          await assert.rejects(connection.clientHello(), claimed)
          await assert.rejects(connection.proxyHeader(), claimed)
        })
      }

      it('loses no bytes of a socket that toSocket() makes meanwhile', async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const peeked = connection.peek(50, forever)
        client.write('hello')
        await until(() => looks.count > 0)
        const received = rest(connection, client, ', world')
        await assert.rejects(peeked, claimed)
        assert.equal(String(await received), 'hello, world')
      })

      it('works again on an fd that was detached meanwhile', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(5, forever)
        using again = Connection.fromFd(connection.detach())
        await assert.rejects(peeked, claimed)
        const second = again.peek(5)
        client.write('hello')
        assert.equal(String(await second), 'hello')
      })

      it('calls recv(2) once for each arrival of a client that sends byte by byte', async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const drops = Buffer.alloc(way === 'TCP' ? 2000 : mostUnixPieces, 'x')
        const peeked = connection.peek(drops.length + 1, forever)
        await drip(client, drops, looks)
        assert.ok(looks.count <= drops.length, `${looks.count} looks`)
        client.write('y')
        assert.equal((await peeked).length, drops.length + 1)
        assert.equal((await rest(connection, client)).length, drops.length + 1)
      })

      it('does not poll while too few bytes have arrived', async () => {
        const { connection, client } = await pair(options())
        client.write('x')
        await connection.peek(1)
        const looks = countLooks()
        const turns = loopTurns()
        await assert.rejects(connection.peek(2, { timeout: 300 }), { code: 'ERR_PEEK_TIMEOUT' })
        // With level-triggered polling there would be thousands of turns.
        if (turns !== undefined) assert.ok((loopTurns() as number) - turns < 50)
        assert.ok(looks.count <= 2, `${looks.count} looks`)
      })
    })
  }

  it('rejects when the peer resets the connection', async () => {
    for (const look of ['clientHello', 'proxyHeader', 'peek'] as const) {
      const { connection, client } = await pair()
      const looked = look === 'peek' ? connection.peek(5) : connection[look]()
      client.resetAndDestroy()
      await assert.rejects(looked, { code: 'ECONNRESET', syscall: 'recv' })
      connection.close()
    }
  })

  it('rejects when the peer has already reset the connection', async () => {
    const { connection, client } = await pair()
    client.resetAndDestroy()
    await once(client, 'close')
    await assert.rejects(connection.peek(5), { code: 'ECONNRESET', syscall: 'recv' })
  })

  it('rejects invalid lengths and options', async () => {
    const { connection } = await pair()
    for (const length of [0, -1, 1.5, Number.NaN, 70_000]) {
      await assert.rejects(connection.peek(length), { code: 'ERR_OUT_OF_RANGE' })
    }
    for (const length of ['5', undefined, null, 5n] as never[]) {
      await assert.rejects(connection.peek(length), { code: 'ERR_INVALID_ARG_TYPE' })
    }
    for (const options of [null, 5, { signal: {} }, { timeout: '5' }] as never[]) {
      await assert.rejects(connection.peek(5, options), { code: 'ERR_INVALID_ARG_TYPE' })
    }
    await assert.rejects(connection.peek(5, { timeout: Number.NaN }), { code: 'ERR_OUT_OF_RANGE' })
    // A rejected call leaves no pending look-ahead.
    await assert.rejects(connection.peek(5, { timeout: 1 }), { code: 'ERR_PEEK_TIMEOUT' })
  })

  it('does not keep the process alive', async () => {
    const child = startNode('looking.mjs')
    const closed = once(child, 'close')
    child.stderr?.pipe(process.stderr)
    const lines: string[] = []
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => lines.push(line))
    const says = async (line: string) => {
      await until(() => lines.includes(line) || child.exitCode !== null)
      assert.ok(lines.includes(line), `the process ended without "${line}": ${lines.join(', ')}`)
    }
    await until(() => lines.length > 0 || child.exitCode !== null)
    const client = await dial({ host: '127.0.0.1', port: Number(lines[0]) })
    await says('looking')
    client.write('12')
    for (const word of ['alive', 'still alive']) {
      child.stdin?.write(`${word}\n`)
      await says(word)
    }
    client.write('3')
    // The client is still connected.
    assert.deepEqual(await closed, [0, null])
    assert.deepEqual(lines.slice(1), ['looking', 'alive', 'still alive', 'saw 123', 'nothing to do'])
  })

  it('ends with its worker thread, and leaks no fd', async function () {
    this.timeout(120_000)
    const { code, signal, stdout, stderr } = await runNode('worker-peeks.mjs')
    assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
    const codes = { terminate: Array(5).fill(1), exit: Array(5).fill(7) }
    const quiet = { 'terminate after': Array(5).fill(1), 'fall off': Array(5).fill(0) }
    assert.deepEqual(JSON.parse(stdout), { codes: { ...codes, ...quiet }, leaked: 0 })
  })
})

/** The number of event loop turns; undefined where Node does not count them. */
function loopTurns(): number | undefined {
  const { uvMetricsInfo } = performance.nodeTiming as { uvMetricsInfo?: { loopCount: number } }
  return uvMetricsInfo?.loopCount
}

for (const [way, options] of Object.entries(ways)) {
  describe(`clientHello over ${way}`, () => {
    lookedBefore()
    leaveNoFds()

    it("returns the client's offer, and leaves the bytes for toTLS", async () => {
      const { connection, listener, client } = await pair(options())
      client.destroy()
      connection.close()
      const accepting = listener.accept()
      const { ca } = await certificates()
      const secureClient = tls.connect({
        ...target(listener),
        ca: ca.cert,
        servername: 'localhost',
        ALPNProtocols: ['h2', 'http/1.1'],
      } as tls.ConnectionOptions)
      temporary(secureClient)
      const second = await accepting
      const hello = await second.clientHello()
      assert.equal(hello?.serverName, 'localhost')
      assert.deepEqual(hello?.alpnProtocols, ['h2', 'http/1.1'])
      assert.equal(hello?.versions[0], 'TLSv1.3')
      assert.deepEqual(await second.clientHello(), hello)
      const secure = await upgraded(second, await localhost({ ALPNProtocols: ['http/1.1'] }))
      assert.equal(secure.alpnProtocol, 'http/1.1')
      secureClient.end('hello')
      assert.equal(await text(secure), 'hello')
    })

    it('waits for the whole ClientHello, in any number of segments and records', async () => {
      const { connection, client } = await pair(options())
      const message = (await helloOfNode({ servername: 'a.test' })).subarray(5)
      const bytes = inRecords(message, [1, 3, 4, 50, 200])
      const looks = countLooks()
      const hello = connection.clientHello()
      const first = bytes.length - mostUnixPieces
      client.write(bytes.subarray(0, first))
      await until(() => looks.count > 0)
      await drip(client, bytes.subarray(first, -1), looks)
      client.write(bytes.subarray(-1))
      assert.equal((await hello)?.serverName, 'a.test')
      assert.ok((await rest(connection, client)).equals(bytes))
    })

    it('resolves with null for other bytes, and leaves them unread', async () => {
      const { connection, client } = await pair(options())
      client.write('GET / HTTP/1.1\r\n\r\n')
      assert.equal(await connection.clientHello(forever), null)
      assert.equal(String(await rest(connection, client)), 'GET / HTTP/1.1\r\n\r\n')
    })

    it('resolves with null when the client half-closes within the ClientHello', async () => {
      const { connection, client } = await pair(options())
      client.end((await helloOfNode({})).subarray(0, 100))
      assert.equal(await connection.clientHello(forever), null)
      assert.equal((await connection.peek(1000)).length, 100)
    })

    it('resolves with null when the ClientHello is longer than 64 KiB', async () => {
      const { connection, client } = await pair(options())
      const endless = helloMessage({ extensions: extension(21, Buffer.alloc(60_000)) })
      endless.writeUIntBE(0xffffff, 1, 3)
      const part = inRecords(Buffer.concat([endless, Buffer.alloc(40_000)]), [16_000, 32_000, 48_000, 64_000, 80_000])
      client.write(part)
      assert.equal(await connection.clientHello({ timeout: 5000 }), null)
      assert.ok((await rest(connection, client)).equals(part))
    })
  })

  describe(`proxyHeader over ${way}`, () => {
    lookedBefore()
    leaveNoFds()

    const addresses = ipv4Addresses([192, 0, 2, 1], [192, 0, 2, 2], 1234, 443)
    const headers: Record<string, Buffer> = {
      1: Buffer.from('PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n'),
      2: header2({ protocol: 0x11, addresses, checked: true, tlvs: [tlv(2, 'a.test')] }),
    }

    for (const [version, header] of Object.entries(headers)) {
      it(`consumes exactly one header of version ${version}`, async () => {
        const { connection, client } = await pair(options())
        client.write(Buffer.concat([header, header, Buffer.from('hello')]))
        const read = await connection.proxyHeader()
        assert.equal(read?.version, Number(version))
        assert.deepEqual(read?.source, { address: '192.0.2.1', port: 1234 })
        assert.ok((await rest(connection, client, '!')).equals(Buffer.concat([header, Buffer.from('hello!')])))
      })

      it(`consumes nothing before a header of version ${version} is complete`, async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const reading = connection.proxyHeader()
        await drip(client, header.subarray(0, -1), looks)
        await assert.rejects(connection.peek(1), { code: 'ERR_PEEK_PENDING' })
        client.write(header.subarray(-1))
        assert.equal((await reading)?.destination?.port, 443)
        assert.equal((await rest(connection, client)).length, 0)
      })

      it(`leaves the handshake after a header of version ${version} for clientHello and toTLS`, async () => {
        const { connection, client } = await pair(options())
        client.write(header)
        const { ca } = await certificates()
        const secureClient = temporary(tls.connect({ socket: client, ca: ca.cert, servername: 'localhost' }))
        assert.equal((await connection.proxyHeader())?.version, Number(version))
        assert.equal((await connection.clientHello())?.serverName, 'localhost')
        const secure = await upgraded(connection, await localhost())
        secureClient.end('hello')
        assert.equal(await text(secure), 'hello')
      })

      it(`rejects when the peer half-closes within a header of version ${version}`, async () => {
        const { connection, client } = await pair(options())
        client.end(header.subarray(0, -1))
        await assert.rejects(connection.proxyHeader(), { code: 'ERR_PEEK_ENDED' })
        assert.ok((await connection.peek(1000)).equals(header.subarray(0, -1)))
      })
    }

    it('consumes a header of the maximum length', async () => {
      const { connection, client } = await pair(options())
      const longest = header2({ protocol: 0x11, addresses, tlvs: [tlv(4, Buffer.alloc(65_535 - 15))] })
      client.write(Buffer.concat([longest, Buffer.from('hello')]))
      const header = await connection.proxyHeader({ timeout: 5000 })
      assert.equal(header?.tlvs[0]?.value.length, 65_520)
      assert.equal(String(await rest(connection, client)), 'hello')
    })

    const wrong: Record<string, Buffer> = {
      'an invalid port': Buffer.from('PROXY TCP4 192.0.2.1 192.0.2.2 1234 99999\r\nhello'),
      'an unterminated line': Buffer.from(`PROXY TCP4 ${' '.repeat(97)}`),
      'a wrong checksum': (() => {
        const bytes = Buffer.from(headers[2] as Buffer)
        bytes[20] = 1
        return bytes
      })(),
      'an unknown version': header2({ version: 3, protocol: 0x11, addresses }),
    }
    for (const [what, bytes] of Object.entries(wrong)) {
      it(`rejects and consumes nothing when the header has ${what}`, async () => {
        const { connection, client } = await pair(options())
        client.write(bytes)
        await assert.rejects(connection.proxyHeader(forever), { code: 'ERR_PROXY_HEADER' })
        assert.ok((await rest(connection, client)).equals(bytes))
      })
    }

    it('resolves with null for other bytes, and leaves them unread', async () => {
      const { connection, client } = await pair(options())
      client.write('GET / HTTP/1.1\r\n\r\n')
      assert.equal(await connection.proxyHeader(forever), null)
      assert.equal(String(await rest(connection, client)), 'GET / HTTP/1.1\r\n\r\n')
    })
  })
}
