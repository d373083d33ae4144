/** What a TLS client offers in its first message. */
export interface ClientHello {
  /** The name it wants to reach (SNI, RFC 6066 section 3), in lower case. */
  serverName: string | undefined
  /** Protocols in its order of preference (ALPN, RFC 7301 section 3.1); empty when it does not care. */
  alpnProtocols: string[]
  /** Versions that it speaks, as Node names them (`'TLSv1.3'`, `'TLSv1.2'`, ...), in its order of preference. */
  versions: string[]
}

/** A ClientHello; or so many bytes from the beginning are needed before it is worth looking again; or none: not TLS. */
export type ParsedClientHello = { hello: ClientHello } | { needed: number } | null

// RFC 8446 section 5.1: a record is type (1), legacy version (2), length (2), and at most 2^14 bytes.
const recordHeader = 5
const handshakeRecord = 22
const longestRecord = 2 ** 14
// RFC 8446 section 4: a handshake message is type (1), length (3), body.
const messageHeader = 4
const clientHelloMessage = 1

const versionNames = new Map([
  [0x0304, 'TLSv1.3'],
  [0x0303, 'TLSv1.2'],
  [0x0302, 'TLSv1.1'],
  [0x0301, 'TLSv1'],
  [0x0300, 'SSLv3'],
])

/** Reads the ClientHello at the beginning of what a client has sent, in however many TLS records. Consumes nothing. */
export function parseClientHello(bytes: Buffer): ParsedClientHello {
  const message: Buffer[] = []
  let collected = 0
  let wanted: number | undefined
  // Of the message, behind the records seen so far. A client that sends a byte in each record must not be looked at each
  // time.
  let missing = 0
  for (let at = 0; ; ) {
    const record = bytes.subarray(at)
    if (record.length > 0 && record[0] !== handshakeRecord) return null
    if (record.length > 1 && record[1] !== 3) return null
    if (record.length < recordHeader) return { needed: at + recordHeader + missing }
    const length = record.readUInt16BE(3)
    // Section 5.1: handshake records are never empty.
    if (length === 0 || length > longestRecord) return null
    const fragment = record.subarray(recordHeader, recordHeader + length)
    message.push(fragment)
    collected += fragment.length
    // Put together only to learn its length and when it is whole: a client may send thousands of records.
    if (wanted === undefined) {
      const start = Buffer.concat(message)
      if (start.length > 0 && start[0] !== clientHelloMessage) return null
      if (start.length >= messageHeader) wanted = messageHeader + start.readUIntBE(1, 3)
    }
    if (wanted !== undefined && collected >= wanted) {
      const hello = parseBody(Buffer.concat(message).subarray(messageHeader, wanted))
      return hello && { hello }
    }
    at += recordHeader + length
    missing = wanted === undefined ? 0 : Math.max(0, wanted - collected - (length - fragment.length))
    if (fragment.length < length) return { needed: missing > 0 ? at + recordHeader + missing : at }
  }
}

// RFC 8446 section 4.1.2; RFC 5246 section 7.4.1.2 has the same frame.
function parseBody(body: Buffer): ClientHello | null {
  try {
    const reader = new Reader(body)
    const legacyVersion = reader.number(2)
    reader.bytes(32) // random
    reader.vector(1) // session id
    reader.vector(2) // cipher suites
    reader.vector(1) // compression methods
    let serverName: string | undefined
    let alpnProtocols: string[] = []
    let versions: number[] | undefined
    const extensions = new Reader(reader.ended ? Buffer.alloc(0) : reader.vector(2))
    if (!reader.ended) return null
    while (!extensions.ended) {
      const type = extensions.number(2)
      const data = new Reader(extensions.vector(2))
      if (type === 0) serverName = readServerName(data)
      else if (type === 16) alpnProtocols = readProtocols(data)
      else if (type === 43) versions = readVersions(data)
    }
    // Without supported_versions the legacy version is the highest one, RFC 8446 section 4.2.1.
    versions ??= [...versionNames.keys()].filter((version) => version <= Math.min(legacyVersion, 0x0303))
    return { serverName, alpnProtocols, versions: versions.flatMap((version) => versionNames.get(version) ?? []) }
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}

// RFC 6066 section 3: a list of names, of which only type 0, host_name, exists.
function readServerName(data: Reader): string | undefined {
  const names = new Reader(data.vector(2))
  while (!names.ended) {
    const type = names.number(1)
    const name = names.vector(2)
    if (type === 0) return name.toString('latin1').toLowerCase()
  }
  return undefined
}

// RFC 7301 section 3.1.
function readProtocols(data: Reader): string[] {
  const list = new Reader(data.vector(2))
  const protocols: string[] = []
  while (!list.ended) protocols.push(list.vector(1).toString('latin1'))
  return protocols
}

// RFC 8446 section 4.2.1. What is not in our table is a draft or grease (RFC 8701).
function readVersions(data: Reader): number[] {
  const list = new Reader(data.vector(1))
  const versions: number[] = []
  while (!list.ended) versions.push(list.number(2))
  return versions
}

class Malformed extends Error {}

class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get ended(): boolean {
    return this.#at === this.#bytes.length
  }

  bytes(length: number): Buffer {
    const end = this.#at + length
    if (end > this.#bytes.length) throw new Malformed()
    const bytes = this.#bytes.subarray(this.#at, end)
    this.#at = end
    return bytes
  }

  number(length: number): number {
    return this.bytes(length).readUIntBE(0, length)
  }

  /** A vector of RFC 8446 section 3.4: its length in `lengthBytes`, then so many bytes. */
  vector(lengthBytes: number): Buffer {
    return this.bytes(this.number(lengthBytes))
  }
}
