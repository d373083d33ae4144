import assert from 'node:assert/strict'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import http2 from 'node:http2'
import https from 'node:https'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import type tls from 'node:tls'
import { certificates } from '../certificates.js'
import { cleanUp, gone, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { skip } from '../needs.js'
import { dialTLS } from '../tls-peers.js'
import { addressOf, closing, countOf, waysIn } from '../ways-in.js'

type Server = http2.Http2Server | http2.Http2SecureServer

const localhost = async () => (await certificates()).localhost

const kinds: { kind: string; secure: boolean; make(): Promise<Server> }[] = [
  { kind: 'http2.createServer()', secure: false, make: async () => http2.createServer() },
  {
    kind: 'http2.createSecureServer()',
    secure: true,
    make: async () => http2.createSecureServer(await localhost()),
  },
  {
    kind: 'http2.createSecureServer() with allowHTTP1',
    secure: true,
    make: async () => http2.createSecureServer({ ...(await localhost()), allowHTTP1: true }),
  },
]

async function connectTo(server: Server, secure: boolean): Promise<http2.ClientHttp2Session> {
  const { port } = server.address() as net.AddressInfo
  const scheme = secure ? 'https' : 'http'
  const { ca } = await certificates()
  const session = http2.connect(`${scheme}://127.0.0.1:${port}`, { ca: ca.cert, servername: 'localhost' })
  cleanUp(() => session.destroy())
  session.on('error', () => {})
  await once(session, 'connect')
  return session
}

const request = (session: http2.ClientHttp2Session, path = '/') => text(session.request({ ':path': path }))

for (const { kind, secure, make } of kinds) {
  for (const { name, open } of waysIn) {
    describe(`A server for ${kind} that gets its connections through ${name}`, () => {
      leaveNoFds()

      async function opened() {
        const server = await make()
        await open(server)
        return server
      }

      it('answers requests, and sees the address of the client', async () => {
        const server = await opened()
        server.on('request', (request, response) => {
          response.end(`${request.httpVersion} from port ${request.socket.remotePort}`)
        })
        const session = await connectTo(server, secure)
        const answers = await Promise.all([request(session), request(session)])
        assert.deepEqual(answers, Array(2).fill(`2.0 from port ${session.socket.localPort}`))
        assert.equal(await countOf(server), 1)
      })

      it("emits 'close' after its last stream has ended", async () => {
        const server = await opened()
        const streams: http2.ServerHttp2Stream[] = []
        server.on('stream', (stream) => streams.push(stream))
        const session = await connectTo(server, secure)
        const answer = request(session)
        await until(() => streams.length === 1)
        const closed = closing(server)
        assert.equal(server.listening, false)
        session.close()
        assert.equal(await countOf(server), 1)
        streams[0]?.end('the last')
        assert.equal(await answer, 'the last')
        assert.equal(await closed, undefined)
      })

      it('sends a GOAWAY when a session is closed', async () => {
        const server = await opened()
        server.on('session', (session) => session.close())
        const session = await connectTo(server, secure)
        if (!session.closed) await once(session, 'close')
        await until(async () => (await countOf(server)) === 0)
      })

      it("emits 'timeout' after the inactivity period of setTimeout()", async () => {
        const server = await opened()
        const timeout = once(server.setTimeout(20), 'timeout')
        await connectTo(server, secure)
        const [session] = await timeout
        session.destroy()
      })

      it('publishes its streams to diagnostics_channel', async function () {
        if (process.versions.node.startsWith('20.')) {
          skip(this, `Node ${process.versions.node} publishes nothing of http2`)
        }
        const published: string[] = []
        for (const event of ['created', 'start', 'finish', 'close']) {
          const note = () => published.push(event)
          diagnostics.subscribe(`http2.server.stream.${event}`, note)
          cleanUp(() => diagnostics.unsubscribe(`http2.server.stream.${event}`, note))
        }
        const server = await opened()
        server.on('request', (_, response) => response.end('hello'))
        assert.equal(await request(await connectTo(server, secure)), 'hello')
        await until(() => published.length === 4)
        assert.deepEqual(published, ['created', 'start', 'finish', 'close'])
      })
    })
  }
}

const get = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'

for (const { name, open } of waysIn) {
  describe(`An http2 server with allowHTTP1 that gets its connections through ${name}`, () => {
    leaveNoFds()

    async function opened() {
      const server = http2.createSecureServer({ ...(await localhost()), allowHTTP1: true })
      await open(server)
      return server
    }

    async function dialHTTP1(server: Server): Promise<tls.TLSSocket> {
      const client = await dialTLS({ ...addressOf(server), ALPNProtocols: ['http/1.1'] })
      await once(client, 'secureConnect')
      return client
    }

    it('answers both versions', async () => {
      const server = await opened()
      server.on('request', ({ httpVersion }, response) => response.end(httpVersion))
      assert.equal(await request(await connectTo(server, true)), '2.0')
      const { port } = server.address() as net.AddressInfo
      const { ca } = await certificates()
      const asked = https.get({ port, host: '127.0.0.1', servername: 'localhost', ca: ca.cert, agent: false })
      const [response] = await once(asked, 'response')
      assert.equal(await text(response), '1.1')
    })

    it('ends idle HTTP/1 connections in closeIdleConnections() and close()', async () => {
      const server = (await opened()) as unknown as https.Server
      server.on('request', (_, response) => response.end('hello'))
      for (const end of [() => server.closeIdleConnections(), () => server.close()]) {
        const client = await dialHTTP1(server as never)
        client.write(get)
        let answer = ''
        client.on('data', (chunk) => (answer += chunk))
        await until(() => answer.endsWith('hello'))
        end()
        await gone(client)
      }
      assert.equal(server.listening, false)
    })
  })
}
