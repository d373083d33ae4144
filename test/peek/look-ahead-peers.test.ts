import assert from 'node:assert/strict'
import { buffer, text } from 'node:stream/consumers'
import type { Connection, LookAheadOptions } from '../../src/index.js'
import { pair, temporary } from '../descriptors.js'
import { extension, helloMessage, inRecords, vector } from '../hellos.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { header2, ipv4Addresses } from '../proxy-headers.js'

const forever = { timeout: -1 }

const looks: Record<string, (connection: Connection, options?: LookAheadOptions) => Promise<unknown>> = {
  peek: (connection, options) => connection.peek(5, options),
  clientHello: (connection, options) => connection.clientHello(options),
  proxyHeader: (connection, options) => connection.proxyHeader(options),
}

/** A ClientHello of `size` bytes with its record headers, in as few records as possible. */
function helloOfSize(size: number): Buffer {
  const name = extension(0, vector(2, Buffer.concat([Buffer.from([0]), vector(2, 'a.test')])))
  const longestRecord = 2 ** 14
  const records = Math.ceil(size / (longestRecord + 5))
  const cuts = Array.from({ length: records - 1 }, (_, index) => (index + 1) * longestRecord)
  const padded = (padding: number) =>
    inRecords(
      helloMessage({ extensions: vector(2, Buffer.concat([extension(21, Buffer.alloc(padding)), name])) }),
      cuts,
    )
  return padded(size - padded(size - 1000).length + size - 1000)
}

describe('A look-ahead', () => {
  lookedBefore()
  leaveNoFds()

  for (const [name, look] of Object.entries(looks)) {
    describe(`by ${name}`, () => {
      it('times out when the peer sends nothing', async () => {
        const { connection, client } = await pair()
        await assert.rejects(look(connection, { timeout: 20 }), {
          code: 'ERR_PEEK_TIMEOUT',
          message: /: 0 bytes received within \d+ ms$/,
        })
        client.end('hello')
        assert.equal(await text(temporary(connection.toSocket())), 'hello')
      })

      it('sees that the peer half-closes before it sends, and the peer still receives an answer', async () => {
        for (const before of [false, true]) {
          const { connection, client } = await pair()
          if (before) client.end()
          const looked = look(connection, forever)
          client.end()
          const seen = await looked
          assert.ok(name === 'peek' ? (seen as Buffer).length === 0 : seen === null)
          temporary(connection.toSocket({ allowHalfOpen: true })).end('sorry')
          assert.equal(await text(client), 'sorry')
        }
      })
    })
  }

  it('parses a ClientHello of 64 KiB', async () => {
    const { connection, client } = await pair()
    const bytes = helloOfSize(65_536)
    assert.equal(bytes.length, 65_536)
    client.write(bytes.subarray(0, 30_000))
    const hello = connection.clientHello(forever)
    client.end(bytes.subarray(30_000))
    assert.equal((await hello)?.serverName, 'a.test')
    assert.ok((await buffer(temporary(connection.toSocket()))).equals(bytes))
  })

  it('does not wait for more than the maximum length of a ClientHello', async () => {
    const { connection, client } = await pair()
    const bytes = helloOfSize(65_536 + 17)
    client.write(bytes)
    assert.equal(await connection.clientHello(forever), null)
    client.end()
    assert.ok((await buffer(temporary(connection.toSocket()))).equals(bytes))
  })

  const protocol = 0x11
  const addresses = ipv4Addresses([192, 0, 2, 1], [192, 0, 2, 2], 1234, 443)

  it('times out when a PROXY header is shorter than its length field', async () => {
    const { connection, client } = await pair()
    const lying = header2({ protocol, addresses, lie: 1000 })
    client.write(lying)
    await connection.peek(lying.length, forever)
    await assert.rejects(connection.proxyHeader({ timeout: 20 }), { code: 'ERR_PEEK_TIMEOUT' })
    client.end()
    assert.ok((await buffer(temporary(connection.toSocket()))).equals(lying))
  })

  for (const [how, bytes] of [
    ['is too small for its addresses', header2({ protocol, addresses, lie: -1 })],
    [
      'includes the request after the header',
      Buffer.concat([header2({ protocol, addresses, lie: 18 }), Buffer.from('GET / HTTP/1.1\r\n\r\n')]),
    ],
  ] as const) {
    it(`fails and consumes nothing when the length of a PROXY header ${how}`, async () => {
      const { connection, client } = await pair()
      client.write(bytes)
      await assert.rejects(connection.proxyHeader(forever), { code: 'ERR_PROXY_HEADER' })
      client.end()
      assert.ok((await buffer(temporary(connection.toSocket()))).equals(bytes))
    })
  }
})
