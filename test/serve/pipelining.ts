// Requests of HTTP/1 on one connection, sent in any pieces, and what comes back.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type http from 'node:http'
import net from 'node:net'
import tls from 'node:tls'
import type { Listener } from '../../src/index.js'
import { cleanUp, target, until } from '../helpers.js'

export interface Response {
  /** Which request it answers: what the server has put into `x-request`. */
  request: string | undefined
  closes: boolean
  body: string
}

/** A client that writes bytes, and ends its side when the server has. */
export interface RawClient {
  socket: net.Socket
  received: Buffer[]
  /** The server has ended its side. */
  ended: boolean
  /** A reset, for instance. */
  error: Error | undefined
}

/** Behind the handshake when `ca` is given. */
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

/** The whole responses in what a client has received; throws where there is a part of one. */
export function responsesIn({ received }: RawClient, isHead: (request: string | undefined) => boolean): Response[] {
  let rest = Buffer.concat(received).toString('latin1')
  const take = (length: number) => {
    if (rest.length < length) throw new Error(`a response is cut off: ${JSON.stringify(rest.slice(0, 200))}`)
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

/** All responses, when the client has ended: the URL of each request, and `!` where the connection is said to close. */
export async function heard(client: RawClient): Promise<string> {
  await until(() => client.socket.destroyed)
  assert.equal(client.error, undefined)
  assert.equal(client.ended, true)
  return responsesIn(client, () => false)
    .map(({ request, closes, body }) => `${body.trim() === `answer ${request}` ? request : body}${closes ? '!' : ''}`)
    .join(' ')
}

/** Answers with its number, the URL of the request. */
export function answer(request: http.IncomingMessage, response: http.ServerResponse, padding = 0): void {
  response.setHeader('x-request', request.url as string)
  response.end(`answer ${request.url}${' '.repeat(padding)}`)
}

export const get = (url: string) => `GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`
