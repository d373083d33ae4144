// HTTP/1 requests on one connection, written in arbitrary segments, and the received responses.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type http from 'node:http'
import net from 'node:net'
import tls from 'node:tls'
import type { Listener } from '../../src/index.js'
import { cleanUp, target, until } from '../helpers.js'

export interface Response {
  /** The URL of the request, from the `x-request` header that the server sets. */
  request: string | undefined
  closes: boolean
  body: string
}

/** A client that writes raw bytes, and ends its side when the server ends its own. */
export interface RawClient {
  socket: net.Socket
  received: Buffer[]
  /** Whether the server has ended its side. */
  ended: boolean
  /** The first error of the socket, for instance a reset. */
  error: Error | undefined
}

/** Connects a client. With `ca`, over TLS, and resolves after the handshake. */
export async function rawClient(listener: Listener, ca?: string): Promise<RawClient> {
  const options = { ...target(listener), allowHalfOpen: true } as net.NetConnectOpts
  const socket =
    ca === undefined ? net.connect(options) : tls.connect({ ...options, ca, servername: 'localhost' } as object)
  cleanUp(() => socket.destroy())
  const client: RawClient = { socket, received: [], ended: false, error: undefined }
  socket.on('error', (error) => (client.error ??= error))
  socket.on('data', (bytes) => client.received.push(bytes))
  socket.on('end', () => {
    client.ended = true
    socket.end()
  })
  await once(socket, ca === undefined ? 'connect' : 'secureConnect')
  return client
}

/** Parses the received bytes into complete responses. Throws when one is incomplete. */
export function responsesIn({ received }: RawClient, isHead: (request: string | undefined) => boolean): Response[] {
  let rest = Buffer.concat(received).toString('latin1')
  const take = (length: number) => {
    if (rest.length < length) throw new Error(`incomplete response: ${JSON.stringify(rest.slice(0, 200))}`)
    const taken = rest.slice(0, length)
    rest = rest.slice(length)
    return taken
  }
  const takeLine = () => take(rest.indexOf('\r\n') + 2 || Number.POSITIVE_INFINITY).slice(0, -2)
  const responses: Response[] = []
  while (rest !== '') {
    const head = take(rest.indexOf('\r\n\r\n') + 4 || Number.POSITIVE_INFINITY)
    if (/^HTTP\/1.1 1\d\d /.test(head)) continue
    const request = /^x-request: (.*)$/im.exec(head)?.[1]
    const closes = /^connection: close$/im.test(head)
    let body = ''
    if (!isHead(request)) {
      const length = /^content-length: (\d+)$/im.exec(head)?.[1]
      if (length !== undefined) {
        body = take(Number(length))
      } else {
        let size = 0
        do {
          size = Number.parseInt(takeLine(), 16)
          body += take(size)
          take(2)
        } while (size > 0)
      }
    }
    responses.push({ request, closes, body })
  }
  return responses
}

/**
 * Waits for the end of the connection. Returns the request URLs of all responses, with a `!` after each that announces
 * `Connection: close`.
 */
export async function answersTo(client: RawClient): Promise<string> {
  await until(() => client.socket.destroyed)
  assert.equal(client.error, undefined)
  assert.equal(client.ended, true)
  return responsesIn(client, () => false)
    .map(({ request, closes, body }) => `${body.trim() === `answer ${request}` ? request : body}${closes ? '!' : ''}`)
    .join(' ')
}

/** Responds with the URL of the request, in a header and in the body. */
export function answer(request: http.IncomingMessage, response: http.ServerResponse, padding = 0): void {
  response.setHeader('x-request', request.url as string)
  response.end(`answer ${request.url}${' '.repeat(padding)}`)
}

export const get = (url: string) => `GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`
