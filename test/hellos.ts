import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import { cleanUp } from './helpers.js'

/** The ClientHello of Node's own TLS client, in one record. */
export async function helloOfNode(options: tls.ConnectionOptions): Promise<Buffer> {
  const transport = new Duplex({
    read() {},
    write(chunk, _encoding, callback) {
      callback()
      transport.emit('said', chunk)
    },
  })
  const said = once(transport, 'said') as Promise<[Buffer]>
  const client = tls.connect({ socket: transport, ...options })
  client.on('error', () => {})
  const [hello] = await said
  client.destroy()
  return hello
}

/** The ClientHello of `openssl s_client`. */
export async function helloOfOpenssl(...args: string[]): Promise<Buffer> {
  const server = net.createServer().listen(0, '127.0.0.1')
  cleanUp(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  const connected = once(server, 'connection') as Promise<[net.Socket]>
  const child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, ...args], { stdio: 'ignore' })
  const closed = once(child, 'close')
  cleanUp(() => child.kill('SIGKILL'))
  const [socket] = await Promise.race([
    connected,
    closed.then(([code]) => Promise.reject(new Error(`openssl s_client ended with ${code}`))),
  ])
  cleanUp(() => socket.destroy())
  let hello = Buffer.alloc(0)
  for await (const chunk of socket) {
    hello = Buffer.concat([hello, chunk])
    if (hello.length >= 5 && hello.length >= 5 + hello.readUInt16BE(3)) break
  }
  await closed
  return hello
}

/** A vector of RFC 8446 section 3.4. Adds `lie` to its length field. */
export function vector(lengthBytes: number, content: Buffer | string, lie = 0): Buffer {
  const bytes = Buffer.from(content)
  const length = Buffer.alloc(lengthBytes)
  length.writeUIntBE(bytes.length + lie, 0, lengthBytes)
  return Buffer.concat([length, bytes])
}

/** One extension of a ClientHello. */
export function extension(type: number, data: Buffer, lie = 0): Buffer {
  return Buffer.concat([Buffer.from([type >> 8, type & 255]), vector(2, data, lie)])
}

/** A handshake message in records, split at `cuts`. */
export function inRecords(message: Buffer, cuts: readonly number[] = []): Buffer {
  const bounds = [0, ...[...new Set(cuts)].filter((cut) => cut > 0 && cut < message.length), message.length]
  bounds.sort((a, b) => a - b)
  return Buffer.concat(
    bounds
      .slice(1)
      .map((end, index) => Buffer.concat([Buffer.from([22, 3, 1]), vector(2, message.subarray(bounds[index], end))])),
  )
}

export interface HelloParts {
  legacyVersion?: number
  sessionId?: Buffer
  ciphers?: Buffer
  compression?: Buffer
  /** If undefined, the message lacks even their length, as in the oldest hellos. */
  extensions?: Buffer
  trailing?: Buffer
}

/** A ClientHello message, RFC 8446 section 4.1.2. */
export function helloMessage(parts: HelloParts = {}): Buffer {
  const body = Buffer.concat([
    Buffer.from([(parts.legacyVersion ?? 0x0303) >> 8, (parts.legacyVersion ?? 0x0303) & 255]),
    Buffer.alloc(32, 7),
    parts.sessionId ?? vector(1, ''),
    parts.ciphers ?? vector(2, Buffer.from([0x13, 0x01])),
    parts.compression ?? vector(1, Buffer.from([0])),
    parts.extensions ?? Buffer.alloc(0),
    parts.trailing ?? Buffer.alloc(0),
  ])
  return Buffer.concat([Buffer.from([1]), vector(3, body)])
}
