import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readlinkSync } from 'node:fs'
import type net from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import type { Connection, Listener, ListenOptions, UpgradeOptions } from '../src/index.js'
import { certificates } from './certificates.js'
import { cleanUp, codeOf, connect, listen, openFds, target } from './helpers.js'

export type ServerOptions = tls.TlsOptions | tls.Server

/** The options of `tls.connect`, with those that its types lack. */
export type ClientOptions = tls.ConnectionOptions & { allowHalfOpen?: boolean; requestOCSP?: boolean }

/** The options of a server for localhost. Each call returns a new object, and so causes a new server. */
export async function localhost(options: tls.TlsOptions = {}): Promise<tls.TlsOptions> {
  return { ...(await certificates()).localhost, ...options }
}

/** A `tls.Server` for localhost that toTLS borrows. It does not listen. */
export async function serverToLend(options?: tls.TlsOptions): Promise<tls.Server> {
  return tls.createServer(await localhost(options))
}

/** Connects a client that trusts the test CA and expects localhost. Does not wait for the handshake. Ignores errors. */
export async function dialTLS(options: ClientOptions): Promise<tls.TLSSocket> {
  const { ca } = await certificates()
  const client = tls.connect({ ca: ca.cert, servername: 'localhost', ...options } as tls.ConnectionOptions)
  cleanUp(() => client.destroy())
  client.on('error', () => {})
  return client
}

/** Resolves when the server has closed or reset the connection. */
export function ended(client: net.Socket): Promise<void> {
  return new Promise((resolve) => {
    client.resume().once('end', resolve).once('close', resolve)
    if (client.readableEnded || client.destroyed) resolve()
  })
}

/** Calls `toTLS`. Destroys the socket when the current test ends. */
export async function upgraded(
  connection: Connection,
  options: ServerOptions,
  upgradeOptions?: UpgradeOptions,
): Promise<tls.TLSSocket> {
  const secure = await connection.toTLS(options, upgradeOptions)
  cleanUp(() => secure.destroy())
  return secure
}

export interface Secured {
  connection: Connection
  /** The server's socket. */
  secure: tls.TLSSocket
  client: tls.TLSSocket
}

/** Both ends of a new connection after the handshake. */
export async function secured(
  options: ServerOptions,
  clientOptions?: ClientOptions,
  listener?: Listener,
): Promise<Secured> {
  const on = listener ?? (await listen())
  const accepted = on.accept()
  const client = await dialTLS({ ...target(on), ...clientOptions })
  const connection = await accepted
  const [secure] = await Promise.all([upgraded(connection, options), once(client, 'secureConnect')])
  return { connection, secure, client }
}

/** The error of a failed handshake on the server, and the client's socket. */
export async function refused(
  options: ServerOptions,
  clientOptions?: ClientOptions,
): Promise<{ error: Error; client: tls.TLSSocket }> {
  const listener = await listen()
  const accepted = listener.accept()
  const client = await dialTLS({ ...target(listener), ...clientOptions })
  const error = await rejection(await accepted, options)
  await ended(client)
  return { error, client }
}

/** A connection, and the plain socket of its client, which has sent nothing. */
export async function plain(options?: ListenOptions): Promise<{ connection: Connection; client: net.Socket }> {
  const listener = await listen(options)
  const [connection, client] = await Promise.all([listener.accept(), connect(listener)])
  return { connection, client }
}

/** The error of `toTLS`. Asserts that the fd is closed when it rejects. */
export async function rejection(
  connection: Connection,
  options: ServerOptions,
  upgradeOptions?: UpgradeOptions,
): Promise<Error> {
  const socket = readlinkSync(`/proc/self/fd/${connection.fd}`)
  const error = await upgraded(connection, options, upgradeOptions).then(
    () => assert.fail('the handshake succeeded'),
    (reason: Error) => reason,
  )
  assert.equal(isOpen(socket), false, 'the fd is still open')
  assert.equal(connection.fd, -1)
  return error
}

/** The code of the error of `toTLS`. Waits until the client's connection has ended. */
export async function rejectionCode(
  { connection, client }: { connection: Connection; client: net.Socket },
  options: ServerOptions,
  upgradeOptions?: UpgradeOptions,
): Promise<string | undefined> {
  const error = await rejection(connection, options, upgradeOptions)
  await ended(client)
  return codeOf(error)
}

/** Whether an fd of this process refers to the socket, which is named as in /proc/self/fd. */
function isOpen(socket: string): boolean {
  return openFds().some((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === socket
    } catch {
      return false
    }
  })
}

/** The first bytes of a TLS client: a whole ClientHello. */
export async function clientHello(): Promise<Buffer> {
  const transport = new Duplex({
    read() {},
    write(chunk, _encoding, callback) {
      callback()
      transport.emit('said', chunk)
    },
  })
  const said = once(transport, 'said') as Promise<[Buffer]>
  const client = tls.connect({ socket: transport, servername: 'localhost' })
  client.on('error', () => {})
  const [hello] = await said
  client.destroy()
  return hello
}

/**
 * A transport for a TLS client over `socket`. Passes on the first write, and holds back all others, starting with the
 * client's Finished, until `release` sends them all at once.
 */
export function holdBackWrites(socket: net.Socket): { transport: Duplex; release(): void } {
  const held: Buffer[] = []
  let first = true
  const transport = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, callback) {
      if (first) socket.write(chunk)
      else held.push(chunk)
      first = false
      callback()
    },
  })
  socket.on('data', (chunk) => transport.push(chunk))
  socket.on('end', () => transport.push(null))
  return { transport, release: () => socket.end(Buffer.concat(held)) }
}
