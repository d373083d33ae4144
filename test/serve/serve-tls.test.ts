import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import { type Refusal, type Serving, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { codeOf, gone, listen, target, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { dialTLS, ended, localhost, serverToLend } from '../tls-peers.js'
import { addressOf, closing, connected, countOf, dial, served, waysIn } from '../ways-in.js'

const makers: { kind: string; make(options: tls.TlsOptions): tls.Server }[] = [
  { kind: 'tls.Server', make: (options) => tls.createServer(options) },
  { kind: 'https.Server', make: (options) => https.createServer(options) },
  { kind: 'secure http2 server', make: (options) => http2.createSecureServer(options) },
]

for (const { name, open } of waysIn) {
  describe(`A tls.Server that gets its connections through ${name}`, () => {
    leaveNoFds()

    async function opened(options: tls.TlsOptions = {}) {
      const server = await serverToLend(options)
      await open(server)
      return server
    }

    it('completes the handshake, and counts the connection until it closes', async () => {
      const server = await opened({ ALPNProtocols: ['one', 'two'] })
      const [[secure], client] = await Promise.all([
        once(server, 'secureConnection'),
        dialTLS({ ...addressOf(server), ALPNProtocols: ['two'] }),
      ])
      assert.deepEqual([secure.alpnProtocol, secure.servername], ['two', 'localhost'])
      assert.deepEqual([secure.remoteAddress, secure.remotePort], ['127.0.0.1', client.localPort])
      assert.equal(secure.server, server)
      assert.equal(await countOf(server), 1)
      secure.end('hello')
      assert.equal(await text(client), 'hello')
      await until(async () => (await countOf(server)) === 0)
    })

    it('selects the certificate by server name, and resumes sessions', async () => {
      const server = await opened()
      server.addContext('a.test', (await certificates()).a)
      server.on('secureConnection', (secure) => secure.end(`${secure.isSessionReused()}`))
      const first = await dialTLS({ ...addressOf(server), servername: 'a.test' })
      const tickets: Buffer[] = []
      first.on('session', (session) => tickets.push(session))
      assert.equal(await text(first), 'false')
      const session = tickets.at(-1) as Buffer
      const second = await dialTLS({ ...addressOf(server), servername: 'a.test', session })
      assert.equal(await text(second), 'true')
    })

    it("emits 'tlsClientError' for a client that does not speak TLS, and continues", async () => {
      const server = await opened()
      server.on('secureConnection', (secure) => secure.end('hello'))
      const failed = once(server, 'tlsClientError')
      const client = await dial(server)
      client.write('GET / HTTP/1.1\r\n\r\n')
      assert.equal(codeOf((await failed)[0]), 'ERR_SSL_HTTP_REQUEST')
      await gone(client)
      assert.equal(await text(await dialTLS(addressOf(server))), 'hello')
    })

    it("emits 'close' after its last connection has ended", async () => {
      const server = await opened()
      const [[secure]] = await Promise.all([once(server, 'secureConnection'), dialTLS(addressOf(server))])
      const closed = closing(server)
      assert.equal(await countOf(server), 1)
      secure.destroy()
      assert.equal(await closed, undefined)
    })
  })
}

/** The handshake timeout of a tls.Server in ms, which Node exposes only under a symbol. */
const timeoutsOf = (server: net.Server) =>
  Object.getOwnPropertySymbols(server)
    .filter(({ description }) => description === 'handshake-timeout')
    .map((symbol) => (server as unknown as Record<symbol, unknown>)[symbol])

describe('A TLS handshake that takes too long', () => {
  leaveNoFds()

  for (const { kind, make } of makers) {
    it(`ends at the deadline of the ${kind}`, async () => {
      const server = make(await localhost({ handshakeTimeout: 20 }))
      const serving = await served(server)
      const failed = once(server, 'tlsClientError')
      const { client } = await connected(server)
      assert.equal(codeOf((await failed)[0]), 'ERR_TLS_HANDSHAKE_TIMEOUT')
      await gone(client)
      await until(async () => (await countOf(server)) === 0 && serving.connections === 0)
      assert.equal(server.listening, true)
    })

    it(`ends at the deadline of serve(), which the ${kind} uses while it is served`, async () => {
      const server = make(await localhost({ handshakeTimeout: 60_000 }))
      const serving = await served(server, { handshakeTimeout: 20 })
      const { client } = await connected(server)
      await gone(client)
      assert.deepEqual(timeoutsOf(server), [20])
      await serving.close()
      assert.deepEqual(timeoutsOf(server), [60_000])
    })
  }

  it('ends at the deadline of serve() even if the server is served again in its close callback', async () => {
    const server = await serverToLend({ handshakeTimeout: 60_000 })
    await served(server, { handshakeTimeout: 20 })
    const listener = await listen({ host: '127.0.0.1' })
    const serving = await new Promise<Serving>((resolve) => {
      server.close(() => resolve(serve(listener, server, { handshakeTimeout: 30 })))
    })
    await nextTurn()
    assert.deepEqual(timeoutsOf(server), [30])
    await serving.close()
    assert.deepEqual(timeoutsOf(server), [60_000])
  })

  it("is refused with the option 'tls'", async () => {
    const server = net.createServer()
    const serving = await served(server, { tls: await localhost(), handshakeTimeout: 20 })
    server.on('connection', () => assert.fail('unexpected connection event'))
    const refused = once(serving, 'refused')
    const client = await dial(server)
    const [{ error, remoteAddress, remotePort }] = (await refused) as [Refusal]
    assert.deepEqual(
      [codeOf(error), remoteAddress, remotePort],
      ['ERR_TLS_HANDSHAKE_TIMEOUT', '127.0.0.1', client.localPort],
    )
    await gone(client)
    assert.equal(serving.connections, 0)
  })

  it('stays pending without a deadline', async () => {
    for (const make of [() => serverToLend({ handshakeTimeout: 20 }), async () => net.createServer()]) {
      const server = await make()
      const options = server instanceof tls.Server ? {} : { tls: await localhost() }
      const serving = await served(server, { ...options, handshakeTimeout: 0 })
      const early = await dial(server)
      // A later handshake that has a deadline of 20 ms ends after the first one would have.
      const other = await serverToLend({ handshakeTimeout: 20 })
      await served(other)
      await gone(await dial(other))
      const client = await dialTLS({ socket: early })
      await once(client, 'secureConnect')
      assert.equal(serving.connections, 1)
      client.destroy()
      await until(() => serving.connections === 0)
    }
  })
})

describe("The option 'tls' of serve", () => {
  leaveNoFds()

  it('gives a function the TLSSocket', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const serving = serve(listener, (socket: tls.TLSSocket) => socket.end(`${socket.servername}`), {
      tls: await localhost(),
    })
    assert.equal(await text(await dialTLS(target(listener))), 'localhost')
    await until(() => serving.connections === 0)
    await serving.close()
  })

  for (const [kind, options] of [
    ['options', () => localhost()],
    ['a tls.Server', () => serverToLend()],
  ] as const) {
    it(`secures the connections of a net.Server with ${kind}`, async () => {
      const server = net.createServer((socket) => socket.end(`secure: ${(socket as tls.TLSSocket).encrypted}`))
      const serving = await served(server, { tls: await options() })
      assert.equal(await text(await dialTLS(addressOf(server))), 'secure: true')
      await until(() => serving.connections === 0)
    })
  }

  it('makes an http.Server an HTTPS server, with its timeouts', async () => {
    // The timeout of the first request starts before it is read, and could end the connection under load.
    const options = { headersTimeout: 0, requestTimeout: 0, connectionsCheckingInterval: 5 }
    const server = http.createServer(options, (request, response) => {
      response.end(`secure: ${(request.socket as tls.TLSSocket).encrypted}`)
    })
    await served(server, { tls: await localhost() })
    const client = await dialTLS(addressOf(server))
    client.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
    let answer = ''
    client.on('data', (chunk) => (answer += chunk))
    await until(() => answer.endsWith('secure: true'))
    server.headersTimeout = 20
    client.write('GET / HTTP/1.1\r\n')
    await gone(client)
    assert.match(answer, /secure: true.*HTTP\/1\.1 408 /s)
  })

  it('refuses a client that does not speak TLS, and continues', async () => {
    const server = net.createServer((socket) => socket.end('hello'))
    const serving = await served(server, { tls: await localhost() })
    const refused = once(serving, 'refused')
    const plainClient = await dial(server)
    plainClient.write('GET / HTTP/1.1\r\n\r\n')
    assert.equal(codeOf(((await refused) as [Refusal])[0].error), 'ERR_SSL_HTTP_REQUEST')
    await gone(plainClient)
    assert.equal(await text(await dialTLS(addressOf(server))), 'hello')
  })

  it("counts connections for the server, which emits 'close' after the last has ended", async () => {
    const server = net.createServer()
    const serving = await served(server, { tls: await localhost() })
    const [[socket], client] = await Promise.all([once(server, 'connection'), dialTLS(addressOf(server))])
    assert.deepEqual([await countOf(server), serving.connections], [1, 1])
    let open = true
    const closed = closing(server).then(() => assert.equal(open, false))
    assert.equal(await countOf(server), 1)
    open = false
    socket.destroy()
    await Promise.all([closed, ended(client)])
  })

  it('lets handshakes in progress finish after close()', async () => {
    const server = net.createServer((socket) => socket.end('the last'))
    const serving = await served(server, { tls: await localhost() })
    const early = await dial(server)
    await until(() => serving.connections === 1)
    const closed = serving.close()
    const client = await dialTLS({ socket: early })
    assert.equal(await text(client), 'the last')
    await closed
    assert.equal(serving.connections, 0)
    assert.equal(server.listening, false)
  })
})
