/** The parsed parts of a ClientHello, the first message of a TLS client (RFC 8446 section 4.1.2). */
export interface ClientHello {
  /** The requested host name (SNI, RFC 6066 section 3), in lower case; undefined if the client sent none. */
  serverName: string | undefined
  /** The offered protocols (ALPN, RFC 7301 section 3.1), most preferred first; empty if the client sent none. */
  alpnProtocols: string[]
  /** The offered TLS versions by their Node names (`'TLSv1.3'`, `'TLSv1.2'`, ...), most preferred first. */
  versions: string[]
}

/**
 * @internal
 * The result of {@link parseClientHello}. `hello`: the parsed ClientHello. `needed`: the ClientHello is incomplete;
 * parse again once at least this many bytes, counted from the first byte, have arrived. null: the bytes are not a
 * ClientHello.
 */
export type ParsedClientHello = { hello: ClientHello } | { needed: number } | null

// RFC 8446 section 5.1: a record has a type (1 byte), a legacy version (2), a length (2), and up to 2^14 bytes of data.
const recordHeader = 5
const handshakeRecord = 22
const longestRecord = 2 ** 14
// RFC 8446 section 4: a handshake message has a type (1 byte), a length (3), and a body.
const messageHeader = 4
const clientHelloMessage = 1

const versionNames = new Map([
  [0x0304, 'TLSv1.3'],
  [0x0303, 'TLSv1.2'],
  [0x0302, 'TLSv1.1'],
  [0x0301, 'TLSv1'],
  [0x0300, 'SSLv3'],
])

/** @internal Parses the ClientHello at the beginning of the received bytes. It may span any number of TLS records. */
export function parseClientHello(bytes: Buffer): ParsedClientHello {
  const message: Buffer[] = []
  let collected = 0
  let messageLength: number | undefined
  // The number of bytes of the message that must follow the records seen so far. `needed` includes them. Otherwise a
  // client that sends one byte per record would cause a parse for each record.
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
    // A client may send thousands of records. So the fragments are concatenated only until the length is known, and
    // once when the message is complete.
    if (messageLength === undefined) {
      const start = Buffer.concat(message)
      if (start.length > 0 && start[0] !== clientHelloMessage) return null
      if (start.length >= messageHeader) messageLength = messageHeader + start.readUIntBE(1, 3)
    }
    if (messageLength !== undefined && collected >= messageLength) {
      const hello = parseBody(Buffer.concat(message).subarray(messageHeader, messageLength))
      return hello && { hello }
    }
    at += recordHeader + length
    missing = messageLength === undefined ? 0 : Math.max(0, messageLength - collected - (length - fragment.length))
    if (fragment.length < length) return { needed: missing > 0 ? at + recordHeader + missing : at }
  }
}

// RFC 8446 section 4.1.2. The ClientHello of TLS 1.2 (RFC 5246 section 7.4.1.2) has the same layout.
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
    // Without the supported_versions extension, the legacy version is the highest offered one (RFC 8446 section 4.2.1).
    versions ??= [...versionNames.keys()].filter((version) => version <= Math.min(legacyVersion, 0x0303))
    return { serverName, alpnProtocols, versions: versions.flatMap((version) => versionNames.get(version) ?? []) }
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}

// RFC 6066 section 3: a list of names. The only defined name type is 0, host_name.
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

// RFC 8446 section 4.2.1. The list may contain drafts and GREASE values (RFC 8701), which have no entry in
// `versionNames`.
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

  /** Reads a vector (RFC 8446 section 3.4): a length field of `lengthBytes` bytes, then data of that length. */
  vector(lengthBytes: number): Buffer {
    return this.bytes(this.number(lengthBytes))
  }
}
