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

// The kernel counts some 768 bytes for each that is sent alone, and lets a unix socket send no more than 208 KiB unread.
const mostUnixPieces = 200

const ways: Record<string, () => ListenOptions> = {
  TCP: () => ({ host: '127.0.0.1' }),
  'a unix path': () => ({ path: join(temporaryDirectory(), 'socket') }),
}

/** Sends byte by byte; each has been looked at before the next one goes. */
async function drip(client: net.Socket, bytes: Buffer, looks: { count: number }): Promise<void> {
  client.setNoDelay(true)
  for (const byte of bytes) {
    const before = looks.count
    client.write(Buffer.from([byte]))
    await until(() => looks.count > before)
  }
}

/** Everything that is left to read, when the client ends its side with `last`. */
function rest(connection: Connection, client: net.Socket, last?: Buffer | string): Promise<Buffer> {
  const socket = temporary(connection.toSocket())
  if (last === undefined) client.end()
  else client.end(last)
  return buffer(socket)
}

describe('A look ahead', () => {
  lookedBefore()
  leaveNoFds()

  for (const [way, options] of Object.entries(ways)) {
    describe(`over ${way}`, () => {
      it('waits for as many bytes as were asked for, and leaves them', async () => {
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

      it('sees what was there before', async () => {
        const { connection, client } = await pair(options())
        client.end('hello')
        assert.equal(String(await connection.peek(5)), 'hello')
        assert.equal(String(await connection.peek(1)), 'h')
      })

      it('sees all there is when the peer ends its side before', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(10)
        client.end('hello')
        assert.equal(String(await peeked), 'hello')
        assert.equal(String(await connection.peek(10)), 'hello')
        assert.equal(String(await text(temporary(connection.toSocket()))), 'hello')
      })

      it('sees nothing when the peer ends its side at once', async () => {
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

      it('runs out when the peer does not send enough', async () => {
        const { connection, client } = await pair(options())
        client.write('hell')
        await assert.rejects(connection.peek(5, { timeout: 20 }), { code: 'ERR_PEEK_TIMEOUT' })
        client.write('o')
        assert.equal(String(await connection.peek(5)), 'hello')
      })

      it('sees what has come in time, however late the loop looks', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(5, { timeout: 1 })
        client.write('hello')
        awaitBytes(connection.fd)
        standStill(20)
        assert.equal(String(await peeked), 'hello')
        assert.equal(String(await connection.peek(5, { timeout: 0 })), 'hello')
      })

      it('leaves the connection as it was when it is aborted', async () => {
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

      it('is one at a time', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(5)
        await assert.rejects(connection.peek(5), { code: 'ERR_PEEK_PENDING' })
        await assert.rejects(connection.clientHello(), { code: 'ERR_PEEK_PENDING' })
        await assert.rejects(connection.proxyHeader(), { code: 'ERR_PEEK_PENDING' })
        client.write('hello')
        assert.equal(String(await peeked), 'hello')
      })

      it('can be of many connections at once', async () => {
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
        it(`ends when the connection is claimed by ${name}`, async () => {
          const { connection } = await pair(options())
          const peeked = connection.peek(5, forever)
          claim(connection)
          await assert.rejects(peeked, claimed)
          await assert.rejects(connection.peek(5), claimed)
          await assert.rejects(connection.clientHello(), claimed)
          await assert.rejects(connection.proxyHeader(), claimed)
        })
      }

      it('keeps nothing from a socket that is made meanwhile', async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const peeked = connection.peek(50, forever)
        client.write('hello')
        await until(() => looks.count > 0)
        const received = rest(connection, client, ', world')
        await assert.rejects(peeked, claimed)
        assert.equal(String(await received), 'hello, world')
      })

      it('can be made again of an fd that was detached meanwhile', async () => {
        const { connection, client } = await pair(options())
        const peeked = connection.peek(5, forever)
        using again = Connection.fromFd(connection.detach())
        await assert.rejects(peeked, claimed)
        const second = again.peek(5)
        client.write('hello')
        assert.equal(String(await second), 'hello')
      })

      it('looks once for each arrival of a client that sends byte by byte, and not in between', async () => {
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

      it('rests while what is there is not enough', async () => {
        const { connection, client } = await pair(options())
        client.write('x')
        await connection.peek(1)
        const looks = countLooks()
        const turns = loopTurns()
        await assert.rejects(connection.peek(2, { timeout: 300 }), { code: 'ERR_PEEK_TIMEOUT' })
        // Level-triggered, these would be thousands.
        if (turns !== undefined) assert.ok((loopTurns() as number) - turns < 50)
        assert.ok(looks.count <= 2, `${looks.count} looks`)
      })
    })
  }

  it('fails when the peer resets the connection', async () => {
    for (const look of ['clientHello', 'proxyHeader', 'peek'] as const) {
      const { connection, client } = await pair()
      const looked = look === 'peek' ? connection.peek(5) : connection[look]()
      client.resetAndDestroy()
      await assert.rejects(looked, { code: 'ECONNRESET', syscall: 'recv' })
      connection.close()
    }
  })

  it('fails when the peer has reset the connection before', async () => {
    const { connection, client } = await pair()
    client.resetAndDestroy()
    await once(client, 'close')
    await assert.rejects(connection.peek(5), { code: 'ECONNRESET', syscall: 'recv' })
  })

  it('takes only lengths and options that make sense', async () => {
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
    // Nothing of that is a look.
    await assert.rejects(connection.peek(5, { timeout: 1 }), { code: 'ERR_PEEK_TIMEOUT' })
  })

  it('can end when everything else of the process does', async () => {
    const child = startNode('looking.mjs')
    const closed = once(child, 'close')
    child.stderr?.pipe(process.stderr)
    const lines: string[] = []
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => lines.push(line))
    const says = async (line: string) => {
      await until(() => lines.includes(line) || child.exitCode !== null)
      assert.ok(lines.includes(line), `it ended without "${line}": ${lines.join(', ')}`)
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
    // The client is still there.
    assert.deepEqual(await closed, [0, null])
    assert.deepEqual(lines.slice(1), ['looking', 'alive', 'still alive', 'saw 123', 'nothing to do'])
  })

  it('goes with its worker, however that ends, and no fd is left', async function () {
    this.timeout(120_000)
    const { code, signal, stdout, stderr } = await runNode('worker-peeks.mjs')
    assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
    const codes = { terminate: Array(5).fill(1), exit: Array(5).fill(7) }
    const quiet = { 'terminate after': Array(5).fill(1), 'fall off': Array(5).fill(0) }
    assert.deepEqual(JSON.parse(stdout), { codes: { ...codes, ...quiet }, leaked: 0 })
  })
})

/** How often the event loop has gone round; undefined where Node does not tell. */
function loopTurns(): number | undefined {
  const { uvMetricsInfo } = performance.nodeTiming as { uvMetricsInfo?: { loopCount: number } }
  return uvMetricsInfo?.loopCount
}

for (const [way, options] of Object.entries(ways)) {
  describe(`clientHello over ${way}`, () => {
    lookedBefore()
    leaveNoFds()

    it('reads what the client offers, and leaves it for toTLS', async () => {
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

    it('waits for all of it, in any number of pieces and records', async () => {
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

    it('is null when the client sends something else, which is still there', async () => {
      const { connection, client } = await pair(options())
      client.write('GET / HTTP/1.1\r\n\r\n')
      assert.equal(await connection.clientHello(forever), null)
      assert.equal(String(await rest(connection, client)), 'GET / HTTP/1.1\r\n\r\n')
    })

    it('is null when the client ends its side in the midst of it', async () => {
      const { connection, client } = await pair(options())
      client.end((await helloOfNode({})).subarray(0, 100))
      assert.equal(await connection.clientHello(forever), null)
      assert.equal((await connection.peek(1000)).length, 100)
    })

    it('is null when 64 KiB of it do not suffice', async () => {
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
      it(`takes exactly one header of version ${version}`, async () => {
        const { connection, client } = await pair(options())
        client.write(Buffer.concat([header, header, Buffer.from('hello')]))
        const read = await connection.proxyHeader()
        assert.equal(read?.version, Number(version))
        assert.deepEqual(read?.source, { address: '192.0.2.1', port: 1234 })
        assert.ok((await rest(connection, client, '!')).equals(Buffer.concat([header, Buffer.from('hello!')])))
      })

      it(`takes nothing of a header of version ${version} before all of it is there`, async () => {
        const { connection, client } = await pair(options())
        const looks = countLooks()
        const reading = connection.proxyHeader()
        await drip(client, header.subarray(0, -1), looks)
        await assert.rejects(connection.peek(1), { code: 'ERR_PEEK_PENDING' })
        client.write(header.subarray(-1))
        assert.equal((await reading)?.destination?.port, 443)
        assert.equal((await rest(connection, client)).length, 0)
      })

      it(`leaves the handshake behind a header of version ${version} for clientHello and toTLS`, async () => {
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

      it(`fails when the peer ends its side in the midst of a header of version ${version}`, async () => {
        const { connection, client } = await pair(options())
        client.end(header.subarray(0, -1))
        await assert.rejects(connection.proxyHeader(), { code: 'ERR_PEEK_ENDED' })
        assert.ok((await connection.peek(1000)).equals(header.subarray(0, -1)))
      })
    }

    it('takes the longest header there is', async () => {
      const { connection, client } = await pair(options())
      const longest = header2({ protocol: 0x11, addresses, tlvs: [tlv(4, Buffer.alloc(65_535 - 15))] })
      client.write(Buffer.concat([longest, Buffer.from('hello')]))
      const header = await connection.proxyHeader({ timeout: 5000 })
      assert.equal(header?.tlvs[0]?.value.length, 65_520)
      assert.equal(String(await rest(connection, client)), 'hello')
    })

    const wrong: Record<string, Buffer> = {
      'a port that is none': Buffer.from('PROXY TCP4 192.0.2.1 192.0.2.2 1234 99999\r\nhello'),
      'a line without an end': Buffer.from(`PROXY TCP4 ${' '.repeat(97)}`),
      'a checksum that is wrong': (() => {
        const bytes = Buffer.from(headers[2] as Buffer)
        bytes[20] = 1
        return bytes
      })(),
      'a version that nobody knows': header2({ version: 3, protocol: 0x11, addresses }),
    }
    for (const [what, bytes] of Object.entries(wrong)) {
      it(`fails and takes nothing when there is ${what}`, async () => {
        const { connection, client } = await pair(options())
        client.write(bytes)
        await assert.rejects(connection.proxyHeader(forever), { code: 'ERR_PROXY_HEADER' })
        assert.ok((await rest(connection, client)).equals(bytes))
      })
    }

    it('is null when something else comes, which is still there', async () => {
      const { connection, client } = await pair(options())
      client.write('GET / HTTP/1.1\r\n\r\n')
      assert.equal(await connection.proxyHeader(forever), null)
      assert.equal(String(await rest(connection, client)), 'GET / HTTP/1.1\r\n\r\n')
    })
  })
}
