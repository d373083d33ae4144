// The connection of one client, with its requests. Compares every received byte with the expected one.
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import { addressOf, bytesFor, dialects, proxyHeader } from './protocol.mjs'

/** The reason for a failed call. `saw`: 'cut' (the server ended the connection) or 'wrong' (unexpected bytes). */
export class CallError extends Error {
  constructor(saw, detail) {
    super(detail)
    this.saw = saw
  }
}

/** Connects, and resolves when the kernel has established the connection. */
export async function connect(port, id, { allowHalfOpen = true } = {}) {
  const socket = net.connect({ host: '127.0.0.1', port, localAddress: addressOf(id), allowHalfOpen, noDelay: true })
  try {
    await once(socket, 'connect')
  } catch (error) {
    // The kernel had established the connection, and the server reset it before the 'connect' event.
    throw error.code === 'ECONNRESET' ? new CallError('cut', error.message) : error
  }
  socket.on('error', () => {})
  return socket
}

/** Performs the TLS handshake, without verifying the certificate. */
export async function secure(socket, alpn) {
  const secured = tls.connect({ socket, rejectUnauthorized: false, ALPNProtocols: alpn && [alpn] })
  const error = await new Promise((resolve) => {
    secured.once('secureConnect', () => resolve())
    secured.once('error', resolve)
    secured.once('close', () => resolve(new Error('closed in the handshake')))
  })
  secured.on('error', () => {})
  if (error) throw new CallError('cut', error.message)
  return secured
}

export class Call {
  answered = 0
  #dialect
  #expected = undefined
  #head = ''
  #failure = undefined
  /** The pause between reads, in ms. */
  #rest

  constructor(socket, id, dialect, { rest = 0 } = {}) {
    this.socket = socket
    this.id = id
    this.#dialect = dialects[dialect]
    this.#rest = rest
    this.over = new Promise((resolve) => socket.once('close', resolve))
    socket.on('data', (chunk) => this.#take(chunk))
    socket.on('error', (error) => this.#fail(new CallError('cut', error.code ?? error.message)))
    socket.on('end', () => this.#fail(new CallError('cut', 'ended')))
    socket.on('close', () => this.#fail(new CallError('cut', 'closed')))
    if (socket.destroyed) this.#fail(new CallError('cut', 'closed'))
  }

  static async open({ port, dialect, proxied, secured }, id, chance, options) {
    const raw = await connect(port, id)
    if (proxied) raw.write(proxyHeader(chance.between(1, 2), id, raw.localPort))
    const socket = secured ? await secure(raw, 'http/1.1') : raw
    return new Call(socket, id, dialect, options)
  }

  /** Sends a request, and resolves after the complete response. With `end`, ends this side after the request. */
  async request(length, { end = false, ...how } = {}) {
    const text = this.#dialect.request(length, how)
    if (end) this.socket.end(text)
    else this.socket.write(text)
    await this.answer(length)
  }

  async answer(length) {
    if (this.#failure) throw this.#failure
    await new Promise((resolve, reject) => {
      this.#head = this.#dialect.head === undefined ? undefined : ''
      this.#expected = { length, got: 0, resolve, reject }
      if (length === 0 && this.#head === undefined) this.#answered()
    })
  }

  /** Ends this side, and resolves when the server has ended its own. */
  async hangUp() {
    this.socket.end()
    await this.over
  }

  #answered() {
    this.answered++
    const { resolve } = this.#expected
    this.#expected = undefined
    resolve()
  }

  #fail(error) {
    if (this.#failure) return
    this.#failure = error
    this.socket.end()
    this.#expected?.reject(error)
  }

  async #pause() {
    this.socket.pause()
    await sleep(this.#rest)
    this.socket.resume()
  }

  #take(chunk) {
    if (this.#rest > 0) this.#pause()
    const expected = this.#expected
    if (expected === undefined) return this.#fail(new CallError('wrong', `${chunk.length} unexpected bytes`))
    const body = this.#head === undefined ? chunk : this.#afterHead(chunk, expected)
    if (body === undefined) return
    const { length, got } = expected
    if (!body.equals(bytesFor(this.id, length).subarray(got, got + body.length))) {
      return this.#fail(new CallError('wrong', `wrong bytes at ${got} of ${length}`))
    }
    expected.got += body.length
    if (expected.got === length) this.#answered()
  }

  #afterHead(chunk, { length }) {
    this.#head += chunk.toString('latin1')
    const at = this.#head.indexOf('\r\n\r\n')
    if (at < 0) return undefined
    const status = this.#head.slice(9, 12)
    if (status !== '200') return void this.#fail(new CallError('cut', `status ${status}`))
    const [, said] = /content-length: (\d+)/i.exec(this.#head) ?? []
    if (Number(said) !== length)
      return void this.#fail(new CallError('wrong', `Content-Length ${said}, expected ${length}`))
    const body = Buffer.from(this.#head.slice(at + 4), 'latin1')
    this.#head = undefined
    return body
  }
}
