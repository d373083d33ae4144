import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type ParsedProxyHeader, type ProxyHeader, parseProxyHeader } from '../../src/peek/proxy-protocol.js'
import { checksum, header2, ipv4Addresses, ipv6Addresses, tlv, unixAddresses } from '../proxy-headers.js'

const parse = (bytes: Buffer | string) => parseProxyHeader(Buffer.from(bytes as string, 'latin1'))

function headerOf(bytes: Buffer | string, rest = 0): ProxyHeader {
  const parsed = parse(bytes)
  if (parsed === null || !('header' in parsed)) assert.fail(`not a header: ${JSON.stringify(parsed)}`)
  assert.equal(parsed.length, bytes.length - rest)
  return parsed.header
}

const isMalformed = (parsed: ParsedProxyHeader) => parsed !== null && 'malformed' in parsed

function malformed(bytes: Buffer | string): void {
  const parsed = parse(bytes)
  assert.ok(isMalformed(parsed), JSON.stringify(parsed))
}

/** Asserts that the parser asks for more bytes at every cut, at most for the whole, and then finds the header. */
function neededAtEveryCut(bytes: Buffer): void {
  for (let given = 0; given < bytes.length; given++) {
    const parsed = parse(bytes.subarray(0, given))
    if (parsed === null || !('needed' in parsed)) assert.fail(`${JSON.stringify(parsed)} after ${given} bytes`)
    assert.ok(parsed.needed > given && parsed.needed <= bytes.length, `${parsed.needed} needed after ${given}`)
  }
  for (let given = 0; given < bytes.length; ) {
    given = (parse(bytes.subarray(0, given)) as { needed: number }).needed
    if (given === bytes.length) headerOf(bytes)
  }
}

const unspecified = { family: 'UNSPEC', transport: 'UNSPEC', source: undefined, destination: undefined, tlvs: [] }

describe('A PROXY header of version 1', () => {
  const longest = `PROXY UNKNOWN ${'f'.repeat(107 - 16)}\r\n`

  it('gives the source and destination of a TCP4 connection', () => {
    assert.deepEqual(headerOf('PROXY TCP4 192.168.0.1 10.0.0.255 56324 443\r\n'), {
      version: 1,
      command: 'PROXY',
      family: 'IPv4',
      transport: 'STREAM',
      source: { address: '192.168.0.1', port: 56324 },
      destination: { address: '10.0.0.255', port: 443 },
      tlvs: [],
    })
  })

  it('gives the source and destination of a TCP6 connection', () => {
    const full = 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'
    const header = headerOf(`PROXY TCP6 ${full} ::1 65535 0\r\n`)
    assert.equal(header.family, 'IPv6')
    assert.deepEqual(header.source, { address: full, port: 65535 })
    assert.deepEqual(header.destination, { address: '::1', port: 0 })
  })

  for (const [name, family, from, to] of [
    ['TCP6', 'IPv6', '2001:db8::1', '10.0.0.255'],
    ['TCP6', 'IPv6', '::ffff:192.0.2.1', '10.0.0.255'],
    ['TCP4', 'IPv4', '192.168.0.1', '2001:db8::ff'],
    ['TCP4', 'IPv4', '192.168.0.1', '::ffff:10.0.0.255'],
  ] as const) {
    it(`has the family of its source regardless of its destination: ${name} ${from} ${to}`, () => {
      const line = `PROXY ${name} ${from} ${to} 56324 443\r\n`
      neededAtEveryCut(Buffer.from(line))
      assert.deepEqual(headerOf(line), {
        version: 1,
        command: 'PROXY',
        family,
        transport: 'STREAM',
        source: { address: from, port: 56324 },
        destination: { address: to, port: 443 },
        tlvs: [],
      })
    })
  }

  it('has no addresses for an UNKNOWN client, with any bytes before the end of the line', () => {
    for (const line of [
      'PROXY UNKNOWN\r\n',
      'PROXY UNKNOWN ::1 ::1 1 2\r\n',
      'PROXY UNKNOWN \0what ever\r\n',
      longest,
    ]) {
      assert.deepEqual(headerOf(line), { version: 1, command: 'PROXY', ...unspecified })
    }
  })

  it('ends with its line', () => {
    headerOf('PROXY TCP4 1.1.1.1 2.2.2.2 3 4\r\nGET / HTTP/1.1\r\n\r\n', 18)
    headerOf('PROXY TCP4 1.1.1.1 2.2.2.2 3 4\r\n\r\n', 2)
  })

  it('has at most 107 bytes', () => {
    assert.equal(longest.length, 107)
    headerOf(longest)
    malformed(longest.replace('UNKNOWN', 'UNKNOWN '))
    malformed(`PROXY TCP4 ${'1'.repeat(96)}`)
    malformed(`PROXY TCP4 ${'1'.repeat(96)}\r`)
    assert.deepEqual(parse(`PROXY TCP4 ${'1'.repeat(95)}`), { needed: 107 })
  })

  for (const line of [
    'PROXY TCP4 192.168.0.1 10.0.0.255 56324 443\r\n',
    'PROXY TCP6 2001:db8::1 ::1 1 2\r\n',
    'PROXY UNKNOWN\r\n',
    longest,
  ]) {
    it(`asks for more bytes at every cut: ${line.slice(0, 24).trim()}`, () => neededAtEveryCut(Buffer.from(line)))
  }

  const wrong: Record<string, string[]> = {
    'a port': ['65536', '99999', '01', '-1', '+1', '1.0', '0x1', '', 'a', '100000', '1\0', '١'].flatMap((port) => [
      `TCP4 1.1.1.1 2.2.2.2 ${port} 2`,
      `TCP4 1.1.1.1 2.2.2.2 1 ${port}`,
    ]),
    'the source of TCP4': ['::1', '::ffff:1.1.1.1'].map((address) => `TCP4 ${address} 2.2.2.2 1 2`),
    'the source of TCP6': ['1.1.1.1', '255.255.255.255'].flatMap((address) => [
      `TCP6 ${address} ::1 1 2`,
      `TCP6 ${address} 2.2.2.2 1 2`,
    ]),
    'an IPv4 address': ['256.1.1.1', '1.1.1', '1.1.1.1.1', '01.1.1.1', '1.1.1.1%lo', 'localhost', ''].flatMap(
      (address) => [`TCP4 ${address} 2.2.2.2 1 2`, `TCP4 2.2.2.2 ${address} 1 2`],
    ),
    'an IPv6 address': [':::', '1::2::3', '12345::', '::g', '[::1]', 'fe80::1%lo', ''].flatMap((address) => [
      `TCP6 ${address} ::1 1 2`,
      `TCP6 ::1 ${address} 1 2`,
    ]),
    'the number of its fields': [
      'TCP4',
      'TCP4 1.1.1.1 2.2.2.2 1',
      'TCP4 1.1.1.1 2.2.2.2 1 2 3',
      'TCP4 1.1.1.1  2.2.2.2 1 2',
      'TCP4 1.1.1.1 2.2.2.2 1 2 ',
      ' TCP4 1.1.1.1 2.2.2.2 1 2',
    ],
    'the protocol': [
      '',
      'TCP',
      'TCP5 1.1.1.1 2.2.2.2 1 2',
      'UDP4 1.1.1.1 2.2.2.2 1 2',
      'tcp4 1.1.1.1 2.2.2.2 1 2',
      'UNKNOWNS',
    ],
    'the end of its line': ['TCP4 1.1.1.1 2.2.2.2 1 2\n', 'TCP4 1.1.1.1 2.2.2.2 1 2\r', 'TCP4 1.1.1.1\n2.2.2.2 1 2'],
  }
  for (const [what, lines] of Object.entries(wrong)) {
    it(`is malformed when ${what} is wrong`, () => {
      for (const line of lines) malformed(`PROXY ${line}\r\n`)
    })
  }

  it('parses to the values that were encoded', () => {
    const port = fc.nat(65535)
    const v4 = fc.record({ name: fc.constant('TCP4'), from: fc.ipV4(), to: fc.ipV4(), fromPort: port, toPort: port })
    const v6 = fc.record({ name: fc.constant('TCP6'), from: fc.ipV6(), to: fc.ipV6(), fromPort: port, toPort: port })
    fc.assert(
      fc.property(fc.oneof(v4, v6), fc.uint8Array({ maxLength: 40 }), ({ name, from, to, fromPort, toPort }, rest) => {
        const line = Buffer.from(`PROXY ${name} ${from} ${to} ${fromPort} ${toPort}\r\n`)
        neededAtEveryCut(line)
        const header = headerOf(Buffer.concat([line, rest]), rest.length)
        assert.deepEqual(header.source, { address: from, port: fromPort })
        assert.deepEqual(header.destination, { address: to, port: toPort })
        assert.equal(header.family, name === 'TCP4' ? 'IPv4' : 'IPv6')
      }),
    )
  })
})

describe('A PROXY header of version 2', () => {
  const ipv4 = ipv4Addresses([192, 168, 0, 1], [10, 0, 0, 255], 56324, 443)
  const ipv6 = ipv6Addresses([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], 65535, 0)
  const unix = unixAddresses('/run/client', '')
  const plain4 = header2({ protocol: 0x11, addresses: ipv4 })

  it('gives the source and destination of an IPv4 connection', () => {
    assert.deepEqual(headerOf(plain4), {
      version: 2,
      command: 'PROXY',
      family: 'IPv4',
      transport: 'STREAM',
      source: { address: '192.168.0.1', port: 56324 },
      destination: { address: '10.0.0.255', port: 443 },
      tlvs: [],
    })
  })

  it('gives the source and destination of an IPv6 connection', () => {
    const header = headerOf(header2({ protocol: 0x21, addresses: ipv6 }))
    assert.equal(header.family, 'IPv6')
    assert.deepEqual(header.source, { address: '2001:db8::1', port: 65535 })
    assert.deepEqual(header.destination, { address: '::1', port: 0 })
  })

  it('gives the source and destination of a unix connection', () => {
    const header = headerOf(header2({ protocol: 0x31, addresses: unix }))
    assert.equal(header.family, 'UNIX')
    assert.deepEqual(header.source, { address: '/run/client', port: undefined })
    assert.deepEqual(header.destination, { address: '', port: undefined })
  })

  it('gives unix paths that fill their field, and abstract names', () => {
    const full = `/${'p'.repeat(107)}`
    const header = headerOf(header2({ protocol: 0x31, addresses: unixAddresses(full, '\0abstract') }))
    assert.equal(header.source?.address, full)
    assert.equal(header.destination?.address, '\0abstract')
  })

  it('tells datagrams from streams', () => {
    for (const [protocol, transport] of [
      [0x12, 'DGRAM'],
      [0x11, 'STREAM'],
    ] as const) {
      assert.equal(headerOf(header2({ protocol, addresses: ipv4 })).transport, transport)
    }
  })

  it('has no addresses for an unspecified client, with any address bytes', () => {
    for (const addresses of [Buffer.alloc(0), Buffer.from([1, 2, 3]), ipv4]) {
      assert.deepEqual(headerOf(header2({ protocol: 0, addresses })), { version: 2, command: 'PROXY', ...unspecified })
    }
  })

  it('has no addresses for a LOCAL connection, with any address bytes', () => {
    for (const protocol of [0x00, 0x11, 0x21, 0x31]) {
      for (const addresses of [Buffer.alloc(0), Buffer.from([1, 2, 3]), ipv4]) {
        const header = headerOf(header2({ command: 0, protocol, addresses }))
        assert.deepEqual(header, { version: 2, command: 'LOCAL', ...unspecified })
      }
    }
  })

  it('ends where its length field says', () => {
    headerOf(Buffer.concat([plain4, Buffer.from('GET /')]), 5)
    headerOf(Buffer.concat([plain4, plain4]), plain4.length)
  })

  it('may be as long as its length field allows', () => {
    const value = Buffer.alloc(65_535 - 12 - 3, 1)
    const header = headerOf(header2({ protocol: 0x11, addresses: ipv4, tlvs: [tlv(0xe0, value)] }))
    assert.deepEqual(header.tlvs, [{ type: 0xe0, value }])
  })

  describe('with TLVs', () => {
    const withTlvs = (...tlvs: Buffer[]) => header2({ protocol: 0x11, addresses: ipv4, tlvs })

    it('returns all of them in order, including unknown types', () => {
      const { tlvs } = headerOf(withTlvs(tlv(4, ''), tlv(0xe5, 'custom'), tlv(4, 'padding'), tlv(1, 'h2')))
      assert.deepEqual(
        tlvs.map(({ type, value }) => [type, value.toString()]),
        [
          [4, ''],
          [0xe5, 'custom'],
          [4, 'padding'],
          [1, 'h2'],
        ],
      )
    })

    it('parses the known types', () => {
      const header = headerOf(withTlvs(tlv(1, 'h2'), tlv(2, 'shop.example'), tlv(5, '\0id'), tlv(0x30, 'blue')))
      assert.equal(header.alpn, 'h2')
      assert.equal(header.authority, 'shop.example')
      assert.deepEqual(header.uniqueId, Buffer.from('\0id'))
      assert.equal(header.netns, 'blue')
      assert.equal(header.ssl, undefined)
    })

    it('describes the TLS connection between the client and the proxy', () => {
      const details = [tlv(0x21, 'TLSv1.3'), tlv(0x22, 'client'), tlv(0x23, 'TLS_AES_128_GCM_SHA256'), tlv(0x7f, 'x')]
      const header = headerOf(withTlvs(tlv(0x20, Buffer.concat([Buffer.from([7, 0, 0, 0, 0]), ...details]))))
      assert.deepEqual(header.ssl, {
        ssl: true,
        certificate: true,
        certificateInSession: true,
        verified: true,
        version: 'TLSv1.3',
        commonName: 'client',
        cipher: 'TLS_AES_128_GCM_SHA256',
      })
    })

    it('reports a certificate as verified only when the client sent one and verification succeeded', () => {
      const verified = (client: number, ...verify: number[]) =>
        headerOf(withTlvs(tlv(0x20, Buffer.from([client, ...verify])))).ssl?.verified
      assert.equal(verified(1, 0, 0, 0, 0), false)
      assert.equal(verified(3, 0, 0, 0, 0), true)
      assert.equal(verified(5, 0, 0, 0, 0), true)
      assert.equal(verified(3, 0, 0, 0, 18), false)
      assert.equal(verified(3, 1, 0, 0, 0), false)
    })

    it('is malformed when a TLV extends beyond the header', () => {
      malformed(withTlvs(tlv(1, 'h2', 1)))
      malformed(withTlvs(tlv(1, 'h2', 60_000)))
      malformed(withTlvs(Buffer.from([4])))
      malformed(withTlvs(tlv(4, ''), Buffer.from([4, 0])))
    })

    it('is malformed when the lengths in its TLS TLV are wrong', () => {
      malformed(withTlvs(tlv(0x20, '')))
      malformed(withTlvs(tlv(0x20, Buffer.from([1, 0, 0, 0]))))
      malformed(withTlvs(tlv(0x20, Buffer.concat([Buffer.from([1, 0, 0, 0, 0]), tlv(0x21, 'TLSv1.3', 1)]))))
    })

    it('verifies a checksum', () => {
      assert.equal(checksum(Buffer.from('123456789')), 0xe3069283)
      for (const tlvs of [[], [tlv(1, 'h2')], [tlv(4, Buffer.alloc(1000))]]) {
        headerOf(header2({ protocol: 0x11, addresses: ipv4, checked: true, tlvs }))
      }
    })

    it('is malformed when the checksum does not match', () => {
      const right = header2({ protocol: 0x11, addresses: ipv4, checked: true, tlvs: [tlv(0xe0, 'abc')] })
      const checksumEnd = right.length - tlv(0xe0, 'abc').length
      for (let at = 16; at < right.length; at++) {
        // With this byte changed, the TLV has another type, and the header has no checksum.
        if (at === checksumEnd - 7) continue
        const wrong = Buffer.from(right)
        wrong[at] = (wrong[at] as number) ^ 0x10
        malformed(wrong)
      }
    })

    it('is malformed when its checksum is not four bytes long', () => {
      for (const length of [0, 3, 5]) malformed(withTlvs(tlv(3, Buffer.alloc(length))))
    })
  })

  describe('is malformed', () => {
    it('when it has another version', () => {
      for (const version of [0, 1, 3, 15]) malformed(header2({ version, protocol: 0x11, addresses: ipv4 }))
    })

    it('when it has another command', () => {
      for (let command = 2; command < 16; command++) malformed(header2({ command, protocol: 0x11, addresses: ipv4 }))
    })

    it('when its family or transport is unknown', () => {
      for (const protocol of [0x13, 0x1f, 0x41, 0xf0, 0xff]) malformed(header2({ protocol, addresses: unix }))
    })

    it('when its length is too small for its addresses', () => {
      for (const [protocol, addresses] of [
        [0x11, ipv4],
        [0x21, ipv6],
        [0x31, unix],
      ] as const) {
        for (let length = 0; length < addresses.length; length++) {
          malformed(header2({ protocol, addresses: addresses.subarray(0, length) }))
        }
        malformed(header2({ protocol, addresses, lie: -1 }))
      }
    })
  })

  it('asks for the missing bytes when its length field exceeds it', () => {
    const lying = header2({ protocol: 0x11, addresses: ipv4, lie: 100 })
    assert.deepEqual(parse(lying), { needed: lying.length + 100 })
    malformed(Buffer.concat([lying, Buffer.alloc(100, 0xff)]))
  })

  const whole: Record<string, Buffer> = {
    IPv4: plain4,
    'IPv6 with TLVs': header2({ protocol: 0x21, addresses: ipv6, tlvs: [tlv(1, 'h2'), tlv(4, Buffer.alloc(300))] }),
    'UNIX with a checksum': header2({ protocol: 0x31, addresses: unix, checked: true }),
    UNSPEC: header2({ protocol: 0 }),
    LOCAL: header2({ command: 0, protocol: 0 }),
  }
  for (const [name, bytes] of Object.entries(whole)) {
    it(`asks for more bytes at every cut: ${name}`, () => neededAtEveryCut(bytes))
  }

  it('parses to the values that were encoded', () => {
    const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
    const ends = fc.record({ from: bytes(4), to: bytes(4), fromPort: fc.nat(65535), toPort: fc.nat(65535) })
    // The known types have their own tests.
    const custom = fc.record({ type: fc.integer({ min: 0xe0, max: 0xef }), value: fc.uint8Array({ maxLength: 100 }) })
    const property = fc.property(
      ends,
      fc.array(custom, { maxLength: 6 }),
      fc.boolean(),
      fc.uint8Array({ maxLength: 40 }),
      ({ from, to, fromPort, toPort }, tlvs, checked, rest) => {
        const addresses = ipv4Addresses([...from], [...to], fromPort, toPort)
        const written = header2({
          protocol: 0x11,
          addresses,
          checked,
          tlvs: tlvs.map(({ type, value }) => tlv(type, Buffer.from(value))),
        })
        neededAtEveryCut(written)
        const header = headerOf(Buffer.concat([written, rest]), rest.length)
        assert.deepEqual(header.source, { address: from.join('.'), port: fromPort })
        assert.deepEqual(header.destination, { address: to.join('.'), port: toPort })
        assert.deepEqual(
          header.tlvs.filter(({ type }) => type !== 3),
          tlvs.map(({ type, value }) => ({ type, value: Buffer.from(value) })),
        )
      },
    )
    fc.assert(property)
  })

  it('formats IPv6 addresses as Node does', () => {
    const group = fc.oneof(fc.constant(0), fc.nat(0xffff))
    const groups = fc.array(group, { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(groups, groups, (from, to) => {
        const header = headerOf(header2({ protocol: 0x21, addresses: ipv6Addresses(from, to, 1, 2) }))
        const canonical = (numbers: number[]) => new URL(`http://[${numbers.map((n) => n.toString(16)).join(':')}]`)
        assert.equal(canonicalText(header.source?.address), canonical(from).hostname)
        assert.equal(canonicalText(header.destination?.address), canonical(to).hostname)
      }),
    )
  })
})

/** Node writes IPv4-mapped addresses in dotted form, a URL does not. */
const canonicalText = (address: string | undefined) => new URL(`http://[${address}]`).hostname

describe('Input without a PROXY header', () => {
  it('is recognized at the first byte that differs', () => {
    for (const start of ['PROXY ', '\r\n\r\n\0\r\nQUIT\n']) {
      for (let at = 0; at < start.length; at++) {
        assert.equal(parse(`${start.slice(0, at)}x`), null, JSON.stringify(start.slice(0, at)))
      }
    }
    for (const text of [
      'GET / HTTP/1.1\r\n\r\n',
      'proxy TCP4',
      'PRI * HTTP/2.0\r\n\r\nSM',
      '\x16\x03\x01',
      '\r\n\r\nGET',
    ]) {
      assert.equal(parse(text), null, JSON.stringify(text))
    }
  })

  it('asks for one byte when it is empty', () => assert.deepEqual(parse(''), { needed: 1 }))

  it('never makes the parser throw with random bytes, or ask for bytes that it already has', () => {
    const prefixes = ['', 'PROXY ', 'PROXY TCP4 ', 'PROXY TCP6 ::1', '\r\n\r\n\0\r\nQUIT\n', '\r\n\r\n\0\r\nQUIT\n\x21']
    const sizes = Buffer.from([0x21, 0x11, 0, 60]).toString('latin1')
    fc.assert(
      fc.property(
        fc.constantFrom(...prefixes, `\r\n\r\n\0\r\nQUIT\n${sizes}`),
        fc.uint8Array({ maxLength: 200 }),
        (prefix, random) => {
          const bytes = Buffer.concat([Buffer.from(prefix, 'latin1'), random])
          const parsed = parse(bytes)
          if (parsed !== null && 'needed' in parsed) assert.ok(parsed.needed > bytes.length)
          if (parsed !== null && 'header' in parsed) assert.ok(parsed.length <= bytes.length)
        },
      ),
      { numRuns: 5000 },
    )
  })
})
