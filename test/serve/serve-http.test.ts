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

/** Sends a request, and resolves when the received text ends with `ending`. */
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
    describe(`An ${kind}.Server that gets its connections through ${name}`, () => {
      leaveNoFds()

      async function opened(options: Options, handler?: Handler) {
        const server = await make(options, handler)
        await open(server)
        return server
      }

      /** One client with an answered request and an idle connection, and one with a pending request. */
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

      it('answers successive requests on a connection, and appears as socket.server', async () => {
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

      it('sets noDelay by default', async () => {
        const server = await opened({ keepAlive: true, keepAliveInitialDelay: 9000 }, hello)
        const [[socket]] = await Promise.all([once(server, 'connection'), dial(server)])
        const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
        assert.deepEqual(socketOptions(fd), { noDelay: true, keepAlive: true, keepIdle: 9 })
      })

      // The timeouts of the first request start before it is read, and could end the connection under load.
      const patient = { headersTimeout: 0, requestTimeout: 0, connectionsCheckingInterval: 5 }

      it('responds with 408 when the headers take longer than headersTimeout', async () => {
        const server = await opened(patient, hello)
        const client = await dial(server)
        await ask(client, get, 'hello')
        server.headersTimeout = 20
        client.write('GET / HTTP/1.1\r\n')
        assert.match(await text(client), /^HTTP\/1\.1 408 /)
      })

      it('responds with 408 when a request takes longer than requestTimeout', async () => {
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
        // Node 20 always adds one second.
        await until(() => socket.timeout === ('keepAliveTimeoutBuffer' in server ? 20 : 1020))
        await gone(client)
      })

      it("emits 'timeout' after the inactivity period of setTimeout()", async () => {
        const server = await opened({}, hello)
        const timeout = once(server.setTimeout(20), 'timeout')
        const client = await dial(server)
        const [socket] = await timeout
        assert.equal(socket.remotePort, client.localPort)
        socket.destroy()
      })

      it('ends only idle connections in closeIdleConnections()', async () => {
        const { server, idle, busy, response } = await idleAndBusy()
        server.closeIdleConnections()
        await gone(idle)
        assert.equal(server.listening, true)
        response.end('hello')
        assert.match(await text(busy), /hello$/)
      })

      it('ends all connections in closeAllConnections()', async () => {
        const { server, idle, busy } = await idleAndBusy()
        server.closeAllConnections()
        await Promise.all([gone(idle), gone(busy)])
        await until(async () => (await countOf(server)) === 0)
      })

      it("ends idle connections in close(), and emits 'close' after the last response", async () => {
        const { server, idle, busy, response } = await idleAndBusy()
        const closed = closing(server)
        await gone(idle)
        assert.equal(await countOf(server), 1)
        response.end('hello')
        assert.match(await text(busy), /hello$/)
        assert.equal(await closed, undefined)
      })

      it('answers again, with all timeouts, when it listens again after close()', async () => {
        const server = await opened(patient, hello)
        await closing(server)
        await open(server)
        const client = await dial(server)
        await ask(client, get, 'hello')
        server.headersTimeout = 20
        client.write('GET / HTTP/1.1\r\n')
        assert.match(await text(client), /^HTTP\/1\.1 408 /)
      })

      it("passes the socket of an upgrade request to 'upgrade'", async () => {
        const server = await opened({})
        server.on('upgrade', (_request, socket, head) => socket.end(`upgraded after ${head}`))
        const client = await dial(server)
        client.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nthis')
        assert.equal(await text(client), 'upgraded after this')
      })

      it('responds with 400 to bytes that are not HTTP', async () => {
        const server = await opened({}, hello)
        const client = await dial(server)
        client.write('this is not HTTP\r\n\r\n')
        assert.match(await text(client), /^HTTP\/1\.1 400 /)
      })

      it('publishes its requests and responses to diagnostics_channel', async () => {
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

      it('handles requests in the async context of the listen call', async () => {
        const context = new AsyncLocalStorage<string>()
        const server = await make({}, (_, response) => response.end(`in ${context.getStore()}`))
        await context.run('listening', () => open(server))
        await ask(await dial(server), get, 'in listening')
      })
    })
  }
}
