import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import { certificates } from '../certificates.js'
import { socketOptions } from '../descriptors.js'
import { cleanUp, gone, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { dialTLS } from '../tls-peers.js'
import { addressOf, closing, countOf, dial, waysIn } from '../ways-in.js'

type Options = http.ServerOptions & { keepAliveTimeoutBuffer?: number }
type Handler = http.RequestListener

const kinds = [
  { kind: 'http', make: async (options: Options, handler?: Handler) => http.createServer(options, handler), dial },
  {
    kind: 'https',
    make: async (options: Options, handler?: Handler) =>
      https.createServer({ ...(await certificates()).localhost, ...options }, handler),
    async dial(server: net.Server) {
      const client = await dialTLS(addressOf(server))
      await once(client, 'secureConnect')
      return client
    },
  },
]

const get = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'
const hello: Handler = (_, response) => response.end('hello')

/** Says it, and resolves when the answer ends as expected. */
async function ask(client: net.Socket, request: string, ending: string): Promise<string> {
  let answer = ''
  const note = (chunk: Buffer) => (answer += chunk)
  client.on('data', note)
  client.write(request)
  await until(() => answer.endsWith(ending))
  client.off('data', note)
  return answer
}

for (const { kind, make, dial } of kinds) {
  for (const { name, open } of waysIn) {
    describe(`An ${kind}.Server that gets its clients through ${name}`, () => {
      leaveNoFds()

      async function opened(options: Options, handler?: Handler) {
        const server = await make(options, handler)
        await open(server)
        return server
      }

      /** One client that was answered and is idle, and one that waits for its answer. */
      async function idleAndBusy() {
        const waiting: http.ServerResponse[] = []
        const server = await opened({}, (request, response) => {
          if (request.url === '/busy') waiting.push(response)
          else response.end('hello')
        })
        const [idle, busy] = [await dial(server), await dial(server)]
        await ask(idle, get, 'hello')
        busy.write('GET /busy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
        await until(() => waiting.length === 1)
        return { server, idle, busy, response: waiting[0] as http.ServerResponse }
      }

      it('answers one request after another on a connection, and knows it as its own', async () => {
        const sockets = new Set<net.Socket>()
        const server = await opened({}, (request, response) => {
          sockets.add(request.socket)
          response.end(`port ${request.socket.remotePort}`)
        })
        const client = await dial(server)
        const answer = `port ${client.localPort}`
        for (const request of [get, get]) await ask(client, request, answer)
        assert.equal(sockets.size, 1)
        for (const socket of sockets) assert.equal((socket as unknown as { server: unknown }).server, server)
        assert.equal(await countOf(server), 1)
      })

      it('has noDelay set, as is its default', async () => {
        const server = await opened({ keepAlive: true, keepAliveInitialDelay: 9000 }, hello)
        const [[socket]] = await Promise.all([once(server, 'connection'), dial(server)])
        const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
        assert.deepEqual(socketOptions(fd), { noDelay: true, keepAlive: true, keepIdle: 9 })
      })

      // The clocks of a connection's first request run before it is read, and would end it under load.
      const patient = { headersTimeout: 0, requestTimeout: 0, connectionsCheckingInterval: 5 }

      it('answers 408 to one whose headers take longer than headersTimeout', async () => {
        const server = await opened(patient, hello)
        const client = await dial(server)
        await ask(client, get, 'hello')
        server.headersTimeout = 20
        client.write('GET / HTTP/1.1\r\n')
        assert.match(await text(client), /^HTTP\/1\.1 408 /)
      })

      it('answers 408 to one whose request takes longer than requestTimeout', async () => {
        const server = await opened(patient, (request, response) => {
          if (request.method === 'GET') response.end('hello')
        })
        const client = await dial(server)
        await ask(client, get, 'hello')
        server.requestTimeout = 20
        client.write('POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n123')
        assert.match(await text(client), /^HTTP\/1\.1 408 /)
      })

      it('closes a connection that is idle for longer than keepAliveTimeout', async () => {
        const server = await opened({ keepAliveTimeout: 20, keepAliveTimeoutBuffer: 0 }, hello)
        const accepted = once(server, kind === 'https' ? 'secureConnection' : 'connection')
        const client = await dial(server)
        const [socket] = await accepted
        await ask(client, get, 'hello')
        // Node 20 always adds a second.
        await until(() => socket.timeout === ('keepAliveTimeoutBuffer' in server ? 20 : 1020))
        await gone(client)
      })

      it("emits 'timeout' when nothing happens on a socket for as long as setTimeout() says", async () => {
        const server = await opened({}, hello)
        const timeout = once(server.setTimeout(20), 'timeout')
        const client = await dial(server)
        const [socket] = await timeout
        assert.equal(socket.remotePort, client.localPort)
        socket.destroy()
      })

      it('ends those that are idle, and no others, at closeIdleConnections()', async () => {
        const { server, idle, busy, response } = await idleAndBusy()
        server.closeIdleConnections()
        await gone(idle)
        assert.equal(server.listening, true)
        response.end('hello')
        assert.match(await text(busy), /hello$/)
      })

      it('ends all at closeAllConnections()', async () => {
        const { server, idle, busy } = await idleAndBusy()
        server.closeAllConnections()
        await Promise.all([gone(idle), gone(busy)])
        await until(async () => (await countOf(server)) === 0)
      })

      it('ends those that are idle when it is closed, and is closed when the others have been answered', async () => {
        const { server, idle, busy, response } = await idleAndBusy()
        const closed = closing(server)
        await gone(idle)
        assert.equal(await countOf(server), 1)
        response.end('hello')
        assert.match(await text(busy), /hello$/)
        assert.equal(await closed, undefined)
      })

      it('answers again, under all its limits, when it was closed and listens again', async () => {
        const server = await opened(patient, hello)
        await closing(server)
        await open(server)
        const client = await dial(server)
        await ask(client, get, 'hello')
        server.headersTimeout = 20
        client.write('GET / HTTP/1.1\r\n')
        assert.match(await text(client), /^HTTP\/1\.1 408 /)
      })

      it('hands over the socket of a client that upgrades', async () => {
        const server = await opened({})
        server.on('upgrade', (_request, socket, head) => socket.end(`upgraded after ${head}`))
        const client = await dial(server)
        client.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nthis')
        assert.equal(await text(client), 'upgraded after this')
      })

      it('answers 400 to what is not HTTP', async () => {
        const server = await opened({}, hello)
        const client = await dial(server)
        client.write('this is not HTTP\r\n\r\n')
        assert.match(await text(client), /^HTTP\/1\.1 400 /)
      })

      it('publishes its requests and responses', async () => {
        const published: string[] = []
        const server = await opened({}, hello)
        for (const channel of ['http.server.request.start', 'http.server.response.finish']) {
          const note = (message: unknown) => {
            if ((message as { server: unknown }).server === server) published.push(channel)
          }
          diagnostics.subscribe(channel, note)
          cleanUp(() => diagnostics.unsubscribe(channel, note))
        }
        await ask(await dial(server), get, 'hello')
        await until(() => published.length === 2)
        assert.deepEqual(published, ['http.server.request.start', 'http.server.response.finish'])
      })

      it('handles requests in the asynchronous context in which it was made to listen', async () => {
        const context = new AsyncLocalStorage<string>()
        const server = await make({}, (_, response) => response.end(`in ${context.getStore()}`))
        await context.run('listening', () => open(server))
        await ask(await dial(server), get, 'in listening')
      })
    })
  }
}
