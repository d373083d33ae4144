import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type ClientHello, parseClientHello } from '../../src/peek/client-hello.js'
import { extension, type HelloParts, helloMessage, helloOfNode, helloOfOpenssl, inRecords, vector } from '../hellos.js'
import { leaveNoFds } from '../leaks.js'

interface Sample {
  capture: () => Promise<Buffer>
  serverName: string | undefined
  alpnProtocols: string[]
  newest: string
  oldest?: string
}

const samples: Record<string, Sample> = {
  'Node, TLS 1.2 and 1.3, with SNI and ALPN': {
    capture: () => helloOfNode({ servername: 'Shop.Example', ALPNProtocols: ['h2', 'http/1.1'] }),
    serverName: 'shop.example',
    alpnProtocols: ['h2', 'http/1.1'],
    newest: 'TLSv1.3',
    oldest: 'TLSv1.2',
  },
  'Node, TLS 1.2 only, with SNI': {
    capture: () => helloOfNode({ servername: 'a.test', maxVersion: 'TLSv1.2' }),
    serverName: 'a.test',
    alpnProtocols: [],
    newest: 'TLSv1.2',
  },
  'Node, TLS 1.3 only, without SNI and ALPN': {
    capture: () => helloOfNode({ minVersion: 'TLSv1.3' }),
    serverName: undefined,
    alpnProtocols: [],
    newest: 'TLSv1.3',
    oldest: 'TLSv1.3',
  },
  'openssl s_client, TLS 1.2 only, with SNI and ALPN': {
    capture: () => helloOfOpenssl('-tls1_2', '-servername', 'b.test', '-alpn', 'imap,h2'),
    serverName: 'b.test',
    alpnProtocols: ['imap', 'h2'],
    newest: 'TLSv1.2',
  },
  'openssl s_client, TLS 1.2 only, without SNI and ALPN': {
    capture: () => helloOfOpenssl('-tls1_2', '-noservername'),
    serverName: undefined,
    alpnProtocols: [],
    newest: 'TLSv1.2',
  },
  'openssl s_client, TLS 1.3 only, with SNI and ALPN': {
    capture: () => helloOfOpenssl('-tls1_3', '-servername', 'c.test', '-alpn', 'h2'),
    serverName: 'c.test',
    alpnProtocols: ['h2'],
    newest: 'TLSv1.3',
    oldest: 'TLSv1.3',
  },
  'openssl s_client, all versions, without SNI and ALPN': {
    capture: () => helloOfOpenssl('-noservername'),
    serverName: undefined,
    alpnProtocols: [],
    newest: 'TLSv1.3',
  },
}

const captured = new Map<string, Promise<Buffer>>()

/** Returns the captured hello of a sample. Captures each sample once. */
function capture(name: string): Promise<Buffer> {
  const hello = captured.get(name) ?? (samples[name] as Sample).capture()
  captured.set(name, hello)
  return hello
}

function helloOf(bytes: Buffer): ClientHello {
  const parsed = parseClientHello(bytes)
  if (parsed === null || !('hello' in parsed)) assert.fail(`not a hello: ${JSON.stringify(parsed)}`)
  return parsed.hello
}

/** Parses `bytes` as they arrive: passes exactly as many bytes as the parser last asked for. */
function followed(bytes: Buffer): ClientHello {
  for (let given = 0; ; ) {
    const parsed = parseClientHello(bytes.subarray(0, given))
    if (parsed === null || 'hello' in parsed) return parsed?.hello ?? assert.fail('not a hello')
    assert.ok(parsed.needed > given && parsed.needed <= bytes.length, `${parsed.needed} needed after ${given}`)
    given = parsed.needed
  }
}

function neededAtEveryCut(bytes: Buffer): void {
  for (let given = 0; given < bytes.length; given++) {
    const parsed = parseClientHello(bytes.subarray(0, given))
    if (parsed === null || !('needed' in parsed)) assert.fail(`a result after ${given} of ${bytes.length} bytes`)
    assert.ok(parsed.needed > given && parsed.needed <= bytes.length, `${parsed.needed} needed after ${given}`)
  }
}

const serverName = (name: string | Buffer) =>
  extension(0, vector(2, Buffer.concat([Buffer.from([0]), vector(2, name)])))
const alpn = (...names: string[]) => extension(16, vector(2, Buffer.concat(names.map((name) => vector(1, name)))))
const versions = (...numbers: number[]) =>
  extension(43, vector(1, Buffer.from(numbers.flatMap((number) => [number >> 8, number & 255]))))
const withExtensions = (...extensions: Buffer[]): HelloParts => ({ extensions: vector(2, Buffer.concat(extensions)) })

describe('A ClientHello', () => {
  leaveNoFds()

  for (const [name, sample] of Object.entries(samples)) {
    describe(`of ${name}`, () => {
      it('is parsed', async () => {
        const hello = helloOf(await capture(name))
        assert.equal(hello.serverName, sample.serverName)
        assert.deepEqual(hello.alpnProtocols, sample.alpnProtocols)
        assert.equal(hello.versions[0], sample.newest)
        if (sample.oldest !== undefined) assert.equal(hello.versions.at(-1), sample.oldest)
      })

      it('asks for more bytes at every cut, and never for more than the whole', async () => {
        const bytes = await capture(name)
        neededAtEveryCut(bytes)
        assert.deepEqual(followed(bytes), helloOf(bytes))
      })

      it('parses to the same result in any number of records', async () => {
        const bytes = await capture(name)
        const expected = helloOf(bytes)
        const message = bytes.subarray(5)
        const cuts = fc.array(fc.integer({ min: 1, max: message.length - 1 }), { maxLength: 20 })
        fc.assert(
          fc.property(cuts, (at) => {
            const split = inRecords(message, at)
            assert.deepEqual(followed(split), expected)
            neededAtEveryCut(split)
          }),
          { numRuns: 20 },
        )
        const single = inRecords(message, [...message.keys()])
        assert.equal(single.length, 6 * message.length)
        assert.deepEqual(helloOf(single), expected)
      })

      it('parses to the same result with any bytes after it', async () => {
        const bytes = await capture(name)
        assert.deepEqual(helloOf(Buffer.concat([bytes, Buffer.from('GET / HTTP/1.1\r\n')])), helloOf(bytes))
      })

      it('never makes the parser throw when one of its bytes changes', async () => {
        const bytes = await capture(name)
        for (let at = 0; at < bytes.length; at++) {
          for (const value of [0, 1, 0x7f, 0xff, (bytes[at] as number) ^ 1]) {
            const changed = Buffer.from(bytes)
            changed[at] = value
            parseClientHello(changed)
          }
        }
      })
    })
  }

  it('has no server name and no protocols without extensions', () => {
    const hello = helloOf(inRecords(helloMessage()))
    assert.equal(hello.serverName, undefined)
    assert.deepEqual(hello.alpnProtocols, [])
    assert.equal(hello.versions[0], 'TLSv1.2')
  })

  it('offers no version newer than its legacy version before TLS 1.2', () => {
    assert.equal(helloOf(inRecords(helloMessage({ legacyVersion: 0x0301 }))).versions[0], 'TLSv1')
  })

  it('lists its known versions in its own order', () => {
    const message = helloMessage(withExtensions(versions(0x0a0a, 0x0303, 0x7f1c, 0x0304)))
    assert.deepEqual(helloOf(inRecords(message)).versions, ['TLSv1.2', 'TLSv1.3'])
  })

  it('may have unknown extensions, and names of other types before the host name', () => {
    const names = Buffer.concat([Buffer.from([9]), vector(2, 'other'), Buffer.from([0]), vector(2, 'HOST.test')])
    const message = helloMessage(
      withExtensions(extension(0x0a0a, Buffer.alloc(0)), extension(0, vector(2, names)), alpn('h2', 'x')),
    )
    assert.deepEqual(helloOf(inRecords(message)).serverName, 'host.test')
    assert.deepEqual(helloOf(inRecords(message)).alpnProtocols, ['h2', 'x'])
  })

  it('parses to the values that were encoded', () => {
    const name = fc.stringMatching(/^[a-z0-9.-]{1,255}$/)
    const protocols = fc.array(fc.stringMatching(/^[a-z0-9/.]{1,40}$/), { minLength: 1, maxLength: 8 })
    fc.assert(
      fc.property(name, protocols, fc.array(fc.nat(3000), { maxLength: 8 }), (host, offered, cuts) => {
        const message = helloMessage(withExtensions(alpn(...offered), versions(0x0304), serverName(host)))
        assert.deepEqual(followed(inRecords(message, cuts)), {
          serverName: host,
          alpnProtocols: offered,
          versions: ['TLSv1.3'],
        })
      }),
    )
  })

  it('of 64 KiB in the smallest records is parsed in linear time', () => {
    const message = helloMessage(withExtensions(extension(21, Buffer.alloc(11_000)), serverName('a.test')))
    const bytes = inRecords(message, [...message.keys()])
    // Repeated: with quadratic time for each, this would take minutes.
    for (let i = 0; i < 50; i++) assert.equal(helloOf(bytes).serverName, 'a.test')
  })

  describe('with a wrong length or count', () => {
    const lies: Record<string, HelloParts> = {
      'of its session id': { sessionId: vector(1, 'id', 200) },
      'of its cipher suites': { ciphers: vector(2, 'ab', 60_000) },
      'of its compression methods': { compression: vector(1, '\0', 200) },
      'of all extensions (too long)': { extensions: vector(2, alpn('h2'), 1) },
      'of all extensions (too short)': { extensions: vector(2, alpn('h2'), -1) },
      'of one extension': withExtensions(extension(0, Buffer.alloc(4), 1)),
      'of the list of names': withExtensions(extension(0, vector(2, Buffer.from([0, 0, 1, 97]), 1))),
      'of a name': withExtensions(extension(0, vector(2, Buffer.concat([Buffer.from([0]), vector(2, 'a', 1)])))),
      'of the list of protocols': withExtensions(extension(16, vector(2, vector(1, 'h2'), 1))),
      'of a protocol': withExtensions(extension(16, vector(2, vector(1, 'h2', 1)))),
      'of the versions': withExtensions(extension(43, vector(1, Buffer.from([3, 4]), 2))),
      'that ends within a version': withExtensions(extension(43, vector(1, Buffer.from([3, 4, 3])))),
      'that ends within an extension': { extensions: vector(2, Buffer.from([0, 0, 0])) },
      'that leaves bytes after its extensions': { extensions: vector(2, ''), trailing: Buffer.from([0]) },
      'of all extensions (only its first byte)': { trailing: Buffer.from([0]) },
    }
    for (const [how, parts] of Object.entries(lies)) {
      it(`${how} is rejected`, () => assert.equal(parseClientHello(inRecords(helloMessage(parts))), null))
    }

    it('of the message, too short, is rejected', () => {
      for (let length = 0; length < 40; length++) {
        const message = helloMessage()
        message.writeUIntBE(length, 1, 3)
        assert.equal(parseClientHello(inRecords(message)), null, `${length}`)
      }
    })

    it('of the message, too long, asks for the missing bytes', () => {
      const message = helloMessage()
      message.writeUIntBE(0xffffff, 1, 3)
      const bytes = inRecords(message)
      const missing = 4 + 0xffffff - message.length
      assert.deepEqual(parseClientHello(bytes), { needed: bytes.length + 5 + missing })
    })
  })

  describe('is rejected', () => {
    const others: Record<string, string | number[]> = {
      'when it is an HTTP request': 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n',
      'when it is an HTTP/2 preface': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'when it is SSH': 'SSH-2.0-OpenSSH_9.2\r\n',
      'when it is the hello of SSL 2': [0x80, 0x2e, 1, 3, 1, 0, 3, 0, 0, 0, 0x10],
      'when it is an alert': [21, 3, 1, 0, 2, 2, 40],
      'when it is the hello of a server': [22, 3, 3, 0, 4, 2, 0, 0, 0],
      'when its record version is 4': [22, 4, 0, 0, 4],
      'when its record is empty': [22, 3, 1, 0, 0],
      'when its record is longer than the maximum': [22, 3, 1, 0x40, 1],
      'when its second record has another type': [22, 3, 1, 0, 2, 1, 0, 23, 3, 3, 0, 1, 0],
    }
    for (const [when, bytes] of Object.entries(others)) {
      it(when, () => assert.equal(parseClientHello(Buffer.from(bytes as string)), null))
    }

    it('at the first byte that rules it out', () => {
      assert.equal(parseClientHello(Buffer.from('G')), null)
      assert.equal(parseClientHello(Buffer.from([22, 2])), null)
      assert.equal(parseClientHello(Buffer.from([22, 3, 1, 0, 100, 2])), null)
    })
  })

  it('never makes the parser throw with random bytes, or ask for bytes that it already has', () => {
    const prefixes = [
      Buffer.alloc(0),
      Buffer.from([22, 3]),
      Buffer.from([22, 3, 1, 0, 80, 1, 0, 0, 76]),
      inRecords(helloMessage()).subarray(0, 5 + 4 + 2 + 32),
    ]
    fc.assert(
      fc.property(fc.constantFrom(...prefixes), fc.uint8Array({ maxLength: 300 }), (prefix, random) => {
        const bytes = Buffer.concat([prefix, random])
        const parsed = parseClientHello(bytes)
        if (parsed !== null && 'needed' in parsed) assert.ok(parsed.needed > bytes.length)
      }),
      { numRuns: 5000 },
    )
  })
})
