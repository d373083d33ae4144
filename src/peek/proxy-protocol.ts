import { isIPv4, isIPv6, SocketAddress } from 'node:net'

// "The PROXY protocol, versions 1 & 2", Willy Tarreau, HAProxy's doc/proxy-protocol.txt. Sections are of that document.

export interface ProxyEndpoint {
  address: string
  /** Undefined for a unix socket. */
  port: number | undefined
}

/** What a TLV of type `PP2_TYPE_SSL` says of the client's connection to the proxy (section 2.2.5). */
export interface ProxySsl {
  /** The client came over TLS. */
  ssl: boolean
  /** It presented a certificate in this connection, or in the session that this one resumes. */
  certificate: boolean
  certificateInSession: boolean
  /** The certificate was presented and verified. */
  verified: boolean
  version: string | undefined
  commonName: string | undefined
  cipher: string | undefined
}

export interface ProxyHeader {
  version: 1 | 2
  /** `'LOCAL'`: the proxy itself speaks, for a health check: the real endpoints are those of the socket. */
  command: 'PROXY' | 'LOCAL'
  /**
   * Of the source. The destination of version 1 may be of the other IP family. `'UNSPEC'`: nothing is known of the client
   * (UNKNOWN in version 1).
   */
  family: 'IPv4' | 'IPv6' | 'UNIX' | 'UNSPEC'
  transport: 'STREAM' | 'DGRAM' | 'UNSPEC'
  source: ProxyEndpoint | undefined
  destination: ProxyEndpoint | undefined
  /** All TLVs in their order, the known ones too (section 2.2). */
  tlvs: { type: number; value: Buffer }[]
  /** `PP2_TYPE_ALPN`, `PP2_TYPE_AUTHORITY` (the SNI name), `PP2_TYPE_UNIQUE_ID`, `PP2_TYPE_NETNS`. */
  alpn?: string
  authority?: string
  uniqueId?: Buffer
  netns?: string
  ssl?: ProxySsl
}

/**
 * A header of `length` bytes; or so many bytes from the beginning are needed before it is worth looking again; or
 * something that begins as a header and is none; or null: nothing that begins as one.
 */
export type ParsedProxyHeader =
  | { header: ProxyHeader; length: number }
  | { needed: number }
  | { malformed: string }
  | null

// Section 2.1: "a 108-byte buffer is always enough", for a line of at most 107 bytes with its CRLF.
const longestLine = 107
const shortestLine = 'PROXY UNKNOWN\r\n'.length
const lineStart = Buffer.from('PROXY ')
// Section 2.2.
const signature = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const fixedPart = 16
/** Bytes of the longest header: version 2 has a length of 16 bits after its fixed part. */
export const longestProxyHeader = fixedPart + 0xffff

/** Reads the header at the beginning of what a proxy has sent. Section 2: the receiver must not guess, both are exact. */
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
    if (bytes.length >= longestLine) return { malformed: 'a line without an end' }
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
  if (isSource === undefined) return { malformed: 'neither TCP4, TCP6 nor UNKNOWN' }
  const [from = '', to = '', fromPort = '', toPort = ''] = rest
  if (rest.length !== 4) return { malformed: 'not two addresses and two ports' }
  if (!isSource(from)) return { malformed: `a source that is not of ${protocol}` }
  // nginx names the family of the client and then its own address as it is. Both differ behind another proxy (realip).
  if (!isIPv4(to) && !isUnscopedIPv6(to)) return { malformed: 'a destination that is no address' }
  if (!isPort(fromPort) || !isPort(toPort)) return { malformed: 'a port that is none' }
  header.family = protocol === 'TCP4' ? 'IPv4' : 'IPv6'
  header.transport = 'STREAM'
  header.source = { address: from, port: Number(fromPort) }
  header.destination = { address: to, port: Number(toPort) }
  return { header, length }
}

// Node takes a zone too (`fe80::1%eth0`), of which the proxy's side of the connection knows nothing.
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
  if (version >> 4 !== 2) return { malformed: 'a version other than 2' }
  const command = (['LOCAL', 'PROXY'] as const)[version & 15]
  if (command === undefined) return { malformed: 'neither LOCAL nor PROXY' }
  if (command === 'LOCAL') {
    // "the receiver must ... discard the protocol block including the family which is ignored"
    if (bytes.length < length) return { needed: length }
    const nobody = { source: undefined, destination: undefined, tlvs: [] }
    return { header: { version: 2, command, family: 'UNSPEC', transport: 'UNSPEC', ...nobody }, length }
  }
  const family = families[protocol >> 4]
  const transport = transports[protocol & 15]
  if (family === undefined || transport === undefined) return { malformed: 'an unknown address family or transport' }
  const addressLength = addressLengths[family]
  if (length < fixedPart + addressLength) return { malformed: 'too short for its addresses' }
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
  // UNSPEC: "the receiver should ignore the address information": whatever it is, TLVs cannot be told from it.
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

/** What is wrong with them, if anything. */
function readTlvs(header: ProxyHeader, bytes: Buffer, whole: Buffer): string | undefined {
  const tlvs = splitTlvs(bytes)
  if (tlvs === undefined) return 'a TLV that ends beyond the header'
  header.tlvs = tlvs
  let checksums = 0
  for (const { type, value } of tlvs) {
    if (type === PP2_TYPE_ALPN) header.alpn = value.toString('latin1')
    else if (type === PP2_TYPE_AUTHORITY) header.authority = value.toString('utf8')
    else if (type === PP2_TYPE_UNIQUE_ID) header.uniqueId = value
    else if (type === PP2_TYPE_NETNS) header.netns = value.toString('latin1')
    else if (type === PP2_TYPE_SSL) {
      header.ssl = readSsl(value)
      if (header.ssl === undefined) return 'a TLV of type SSL that lies about its length'
    } else if (type === PP2_TYPE_CRC32C) {
      if (checksums++ > 0) return 'a second checksum'
      // Section 2.2.3: over the whole header, with the checksum's own field at zero.
      if (value.length !== 4) return 'a checksum that is not four bytes'
      const start = value.byteOffset - whole.byteOffset
      const zeroed = Buffer.concat([whole.subarray(0, start), Buffer.alloc(4), whole.subarray(start + 4)])
      if (crc32c(zeroed) !== value.readUInt32BE()) return 'a wrong checksum'
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

// RFC 4960 appendix B; bit by bit, because a header is short and this is the only use.
function crc32c(bytes: Buffer): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}
