import { isIPv4, isIPv6, SocketAddress } from 'node:net'

// "The PROXY protocol, versions 1 & 2", Willy Tarreau, HAProxy's doc/proxy-protocol.txt. All section numbers and
// quotations in this file refer to that document.

/** The source or the destination address of a PROXY header. */
export interface ProxyEndpoint {
  /** An IP address, or the path or abstract name (`'\0name'`) of a unix socket, which may be empty. */
  address: string
  /** The TCP or UDP port; undefined for a unix socket. */
  port: number | undefined
}

/** The TLS parameters of the client's connection to the proxy, from the TLV `PP2_TYPE_SSL` (section 2.2.5). */
export interface ProxySsl {
  /** Whether the client connected to the proxy over TLS. */
  ssl: boolean
  /** Whether the client presented a certificate in this connection. */
  certificate: boolean
  /** Whether the client presented a certificate at least once in the TLS session that this connection belongs to. */
  certificateInSession: boolean
  /** Whether the client presented a certificate and the proxy verified it. */
  verified: boolean
  /** The TLS version, such as `'TLSv1.3'`. */
  version: string | undefined
  /** The common name of the client's certificate. */
  commonName: string | undefined
  /** The TLS cipher. */
  cipher: string | undefined
}

/** A PROXY header of version 1 (text) or 2 (binary). */
export interface ProxyHeader {
  version: 1 | 2
  /** `'LOCAL'`: the proxy opened the connection itself, without a client, for example for a health check. */
  command: 'PROXY' | 'LOCAL'
  /**
   * The address family of the source. In version 1 the destination may have the other IP family. `'UNSPEC'`: the
   * client's address is unknown (`UNKNOWN` in version 1).
   */
  family: 'IPv4' | 'IPv6' | 'UNIX' | 'UNSPEC'
  transport: 'STREAM' | 'DGRAM' | 'UNSPEC'
  /** The client's address; undefined for `'LOCAL'` and `'UNSPEC'`. */
  source: ProxyEndpoint | undefined
  /** The address that the client connected to; undefined for `'LOCAL'` and `'UNSPEC'`. */
  destination: ProxyEndpoint | undefined
  /** All TLVs (section 2.2) in their original order, including those with a property below. */
  tlvs: { type: number; value: Buffer }[]
  /** The application protocol of the client's connection (`PP2_TYPE_ALPN`). */
  alpn?: string
  /** The host name requested by the client, usually by SNI (`PP2_TYPE_AUTHORITY`). */
  authority?: string
  /** The proxy's identifier of the connection (`PP2_TYPE_UNIQUE_ID`). */
  uniqueId?: Buffer
  /** The name of the proxy's network namespace (`PP2_TYPE_NETNS`). */
  netns?: string
  /** The TLS parameters of the client's connection (`PP2_TYPE_SSL`). */
  ssl?: ProxySsl
}

/**
 * @internal
 * The result of {@link parseProxyHeader}. `header`: the parsed header, `length` bytes long. `needed`: the header is
 * incomplete; parse again once at least this many bytes, counted from the first byte, have arrived. `malformed`: the
 * bytes begin like a header but are not valid, for this reason. null: the bytes do not begin like a header.
 */
export type ParsedProxyHeader =
  | { header: ProxyHeader; length: number }
  | { needed: number }
  | { malformed: string }
  | null

// Section 2.1: "a 108-byte buffer is always enough". The longest line has 107 bytes, including its CRLF.
const longestLine = 107
const shortestLine = 'PROXY UNKNOWN\r\n'.length
const lineStart = Buffer.from('PROXY ')
// Section 2.2.
const signature = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const fixedPart = 16
/** @internal The length of the longest header in bytes. Version 2 has a fixed part, then up to 2^16 - 1 bytes. */
export const longestProxyHeader = fixedPart + 0xffff

/**
 * @internal
 * Parses the header at the beginning of the received bytes. Section 2 forbids guessing: the bytes must match the
 * signature of a version exactly.
 */
export function parseProxyHeader(bytes: Buffer): ParsedProxyHeader {
  if (bytes.length === 0) return { needed: 1 }
  for (const [start, parse] of [
    [signature, parseVersion2],
    [lineStart, parseVersion1],
  ] as const) {
    const seen = Math.min(bytes.length, start.length)
    if (bytes.compare(start, 0, seen, 0, seen) !== 0) continue
    return seen < start.length ? { needed: start.length } : parse(bytes)
  }
  return null
}

function parseVersion1(bytes: Buffer): ParsedProxyHeader {
  const end = bytes.subarray(0, longestLine).indexOf('\r\n')
  if (end < 0) {
    if (bytes.length >= longestLine) return { malformed: `no CRLF in the first ${longestLine} bytes` }
    return { needed: Math.max(bytes.length + 1, shortestLine) }
  }
  const length = end + 2
  const [, protocol, ...rest] = bytes.toString('latin1', 0, end).split(' ')
  const header: ProxyHeader = {
    version: 1,
    command: 'PROXY',
    family: 'UNSPEC',
    transport: 'UNSPEC',
    source: undefined,
    destination: undefined,
    tlvs: [],
  }
  // "the receiver must ignore anything presented before the CRLF"
  if (protocol === 'UNKNOWN') return { header, length }
  const isSource = protocol === 'TCP4' ? isIPv4 : protocol === 'TCP6' ? isUnscopedIPv6 : undefined
  if (isSource === undefined) return { malformed: 'the protocol is not TCP4, TCP6 or UNKNOWN' }
  const [from = '', to = '', fromPort = '', toPort = ''] = rest
  if (rest.length !== 4) return { malformed: 'the line does not have two addresses and two ports' }
  if (!isSource(from)) return { malformed: `the source is not a valid address for ${protocol}` }
  // nginx writes the client's address family, but its own address as the destination, even if that address is of the
  // other family. This happens if nginx takes the client's address from another proxy (realip module).
  if (!isIPv4(to) && !isUnscopedIPv6(to)) return { malformed: 'the destination is not an IP address' }
  if (!isPort(fromPort) || !isPort(toPort)) return { malformed: 'a port number is invalid' }
  header.family = protocol === 'TCP4' ? 'IPv4' : 'IPv6'
  header.transport = 'STREAM'
  header.source = { address: from, port: Number(fromPort) }
  header.destination = { address: to, port: Number(toPort) }
  return { header, length }
}

// isIPv6 of Node accepts a zone (`fe80::1%eth0`), but a zone has no meaning on another host.
const isUnscopedIPv6 = (text: string) => isIPv6(text) && !text.includes('%')

// "a string of decimal digits, no leading zeroes"
const isPort = (text: string) => /^(0|[1-9]\d{0,4})$/.test(text) && Number(text) <= 65535

const families = ['UNSPEC', 'IPv4', 'IPv6', 'UNIX'] as const
const transports = ['UNSPEC', 'STREAM', 'DGRAM'] as const
const addressLengths = { UNSPEC: 0, IPv4: 12, IPv6: 36, UNIX: 216 }

function parseVersion2(bytes: Buffer): ParsedProxyHeader {
  if (bytes.length < fixedPart) return { needed: fixedPart }
  const version = bytes[12] as number
  const protocol = bytes[13] as number
  const length = fixedPart + bytes.readUInt16BE(14)
  if (version >> 4 !== 2) return { malformed: 'the version is not 2' }
  const command = (['LOCAL', 'PROXY'] as const)[version & 15]
  if (command === undefined) return { malformed: 'the command is not LOCAL or PROXY' }
  if (command === 'LOCAL') {
    // "the receiver must ... discard the protocol block including the family which is ignored"
    if (bytes.length < length) return { needed: length }
    const empty = { source: undefined, destination: undefined, tlvs: [] }
    return { header: { version: 2, command, family: 'UNSPEC', transport: 'UNSPEC', ...empty }, length }
  }
  const family = families[protocol >> 4]
  const transport = transports[protocol & 15]
  if (family === undefined || transport === undefined)
    return { malformed: 'the address family or the transport is unknown' }
  const addressLength = addressLengths[family]
  if (length < fixedPart + addressLength) return { malformed: 'the header is too short for its addresses' }
  if (bytes.length < length) return { needed: length }
  const header: ProxyHeader = {
    version: 2,
    command,
    family,
    transport,
    source: undefined,
    destination: undefined,
    tlvs: [],
  }
  const body = bytes.subarray(fixedPart, length)
  if (family !== 'UNSPEC') Object.assign(header, readAddresses(family, body))
  // UNSPEC: "the receiver should ignore the address information". The length of that information is unknown, and so is
  // the position of the TLVs.
  const malformed =
    family === 'UNSPEC' ? undefined : readTlvs(header, body.subarray(addressLength), bytes.subarray(0, length))
  return malformed === undefined ? { header, length } : { malformed }
}

function readAddresses(
  family: 'IPv4' | 'IPv6' | 'UNIX',
  body: Buffer,
): { source: ProxyEndpoint; destination: ProxyEndpoint } {
  if (family === 'UNIX') {
    const path = (start: number) => {
      const field = body.subarray(start, start + 108)
      const end = field.indexOf(0, 1)
      return { address: field.toString('utf8', 0, end < 0 ? 108 : end).replace(/^\0$/, ''), port: undefined }
    }
    return { source: path(0), destination: path(108) }
  }
  const size = family === 'IPv4' ? 4 : 16
  const address = (start: number) =>
    family === 'IPv4' ? body.subarray(start, start + 4).join('.') : ipv6(body.subarray(start, start + 16))
  return {
    source: { address: address(0), port: body.readUInt16BE(2 * size) },
    destination: { address: address(size), port: body.readUInt16BE(2 * size + 2) },
  }
}

function ipv6(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, group) => bytes.readUInt16BE(2 * group).toString(16))
  return new SocketAddress({ family: 'ipv6', address: groups.join(':') }).address
}

// Section 2.2.
const PP2_TYPE_ALPN = 0x01
const PP2_TYPE_AUTHORITY = 0x02
const PP2_TYPE_CRC32C = 0x03
const PP2_TYPE_UNIQUE_ID = 0x05
const PP2_TYPE_SSL = 0x20
const PP2_SUBTYPE_SSL_VERSION = 0x21
const PP2_SUBTYPE_SSL_CN = 0x22
const PP2_SUBTYPE_SSL_CIPHER = 0x23
const PP2_TYPE_NETNS = 0x30

// Section 2.2.5.
const PP2_CLIENT_SSL = 0x01
const PP2_CLIENT_CERT_CONN = 0x02
const PP2_CLIENT_CERT_SESS = 0x04

/** Parses the TLVs into `header`. Returns the reason if they are malformed, otherwise undefined. */
function readTlvs(header: ProxyHeader, bytes: Buffer, whole: Buffer): string | undefined {
  const tlvs = splitTlvs(bytes)
  if (tlvs === undefined) return 'a TLV extends beyond the end of the header'
  header.tlvs = tlvs
  let checksums = 0
  for (const { type, value } of tlvs) {
    if (type === PP2_TYPE_ALPN) header.alpn = value.toString('latin1')
    else if (type === PP2_TYPE_AUTHORITY) header.authority = value.toString('utf8')
    else if (type === PP2_TYPE_UNIQUE_ID) header.uniqueId = value
    else if (type === PP2_TYPE_NETNS) header.netns = value.toString('latin1')
    else if (type === PP2_TYPE_SSL) {
      header.ssl = readSsl(value)
      if (header.ssl === undefined) return 'the SSL TLV has a wrong length'
    } else if (type === PP2_TYPE_CRC32C) {
      if (checksums++ > 0) return 'there is more than one checksum'
      // Section 2.2.3: the checksum covers the whole header, with the checksum field itself set to zero.
      if (value.length !== 4) return 'the checksum is not four bytes long'
      const start = value.byteOffset - whole.byteOffset
      const zeroed = Buffer.concat([whole.subarray(0, start), Buffer.alloc(4), whole.subarray(start + 4)])
      if (crc32c(zeroed) !== value.readUInt32BE()) return 'the checksum does not match'
    }
  }
  return undefined
}

function splitTlvs(bytes: Buffer): { type: number; value: Buffer }[] | undefined {
  const tlvs: { type: number; value: Buffer }[] = []
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < 3) return undefined
    const end = at + 3 + bytes.readUInt16BE(at + 1)
    if (end > bytes.length) return undefined
    tlvs.push({ type: bytes[at] as number, value: bytes.subarray(at + 3, end) })
    at = end
  }
  return tlvs
}

function readSsl(value: Buffer): ProxySsl | undefined {
  if (value.length < 5) return undefined
  const client = value[0] as number
  const tlvs = splitTlvs(value.subarray(5))
  if (tlvs === undefined) return undefined
  const text = (type: number) => tlvs.find((tlv) => tlv.type === type)?.value.toString('utf8')
  const certificate = (client & PP2_CLIENT_CERT_CONN) !== 0
  const certificateInSession = (client & PP2_CLIENT_CERT_SESS) !== 0
  return {
    ssl: (client & PP2_CLIENT_SSL) !== 0,
    certificate,
    certificateInSession,
    verified: (certificate || certificateInSession) && value.readUInt32BE(1) === 0,
    version: text(PP2_SUBTYPE_SSL_VERSION),
    commonName: text(PP2_SUBTYPE_SSL_CN),
    cipher: text(PP2_SUBTYPE_SSL_CIPHER),
  }
}

// RFC 4960 appendix B. A lookup table is not worthwhile, because headers are short and nothing else needs a CRC.
function crc32c(bytes: Buffer): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}
