// Encodes PROXY headers of version 2, also malformed ones. "The PROXY protocol, versions 1 & 2", section 2.2.

const signature = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')

/** CRC32C, RFC 3720 appendix B.4, with a table. */
export function checksum(bytes: Buffer): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (table[(crc ^ byte) & 255] as number) ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

const table = Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc >>> 0
})

const uint16 = (...numbers: number[]) => Buffer.from(numbers.flatMap((number) => [number >> 8, number & 255]))

export function ipv4Addresses(from: number[], to: number[], fromPort: number, toPort: number): Buffer {
  return Buffer.concat([Buffer.from([...from, ...to]), uint16(fromPort, toPort)])
}

/** The addresses in groups of 16 bits. */
export function ipv6Addresses(from: number[], to: number[], fromPort: number, toPort: number): Buffer {
  return uint16(...from, ...to, fromPort, toPort)
}

export function unixAddresses(from: string, to: string): Buffer {
  const fields = Buffer.alloc(216)
  fields.write(from, 0, 108)
  fields.write(to, 108, 108)
  return fields
}

/** Encodes a TLV. Adds `lie` to its length field. */
export function tlv(type: number, value: Buffer | string, lie = 0): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([Buffer.from([type]), uint16(bytes.length + lie), bytes])
}

export interface HeaderParts {
  version?: number
  command?: number
  protocol: number
  addresses?: Buffer
  tlvs?: Buffer[]
  /** Whether the header has a checksum, before its other TLVs. */
  checked?: boolean
  /** A number that is added to the length field. */
  lie?: number
}

export function header2({
  version = 2,
  command = 1,
  protocol,
  addresses,
  tlvs,
  checked,
  lie = 0,
}: HeaderParts): Buffer {
  const start = addresses ?? Buffer.alloc(0)
  const body = Buffer.concat([start, ...(checked ? [tlv(3, Buffer.alloc(4))] : []), ...(tlvs ?? [])])
  const fixed = Buffer.from([(version << 4) | command, protocol])
  const header = Buffer.concat([signature, fixed, uint16(body.length + lie), body])
  if (checked) header.writeUInt32BE(checksum(header), 16 + start.length + 3)
  return header
}
