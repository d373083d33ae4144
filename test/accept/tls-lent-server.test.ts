import assert from 'node:assert/strict'
import { constants } from 'node:crypto'
import { once } from 'node:events'
import http2 from 'node:http2'
import https from 'node:https'
import { text } from 'node:stream/consumers'
import type tls from 'node:tls'
import type { Listener } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, codeOf, listen, target } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { dialTLS, localhost, plain, refused, rejectionCode, secured, serverToLend, upgraded } from '../tls-peers.js'

const nameOf = (socket: tls.TLSSocket) => socket.getPeerCertificate().subject?.CN

/** Accepts one connection, and passes its TLS socket to an HTTP server. */
async function serveOne(listener: Listener, server: tls.Server): Promise<tls.TLSSocket> {
  const secure = await upgraded(await listener.accept(), server)
  server.emit('secureConnection', secure)
  return secure
}

/** Sends GET / over HTTP/1.1. Returns the body of the response. */
async function get(listener: Listener, options: { ALPNProtocols?: string[] } = {}): Promise<string> {
  const { ca } = await certificates()
  const { host, port } = target(listener) as { host: string; port: number }
  const request = https.get({ host, port, ca: ca.cert, servername: 'localhost', agent: false, ...options })
  cleanUp(() => request.destroy())
  const [response] = await once(request, 'response')
  return text(response)
}

describe('Connection.toTLS with a borrowed server', () => {
  leaveNoFds()

  it("selects the server's contexts by name", async () => {
    const { a, b } = await certificates()
    const server = await serverToLend()
    server.addContext('a.test', a)
    server.addContext('*.test', b)
    server.addContext('a.test', a)
    for (const [servername, expected] of [
      ['a.test', 'a.test'],
      ['b.test', 'b.test'],
      ['localhost', 'localhost'],
    ]) {
      const { client } = await secured(server, { servername })
      assert.equal(nameOf(client), expected)
    }
  })

  it('uses the certificate that setSecureContext has set', async () => {
    const server = await serverToLend()
    const before = await secured(server)
    server.setSecureContext((await certificates()).a)
    const after = await secured(server, { servername: 'a.test' })
    assert.deepEqual(
      [before, after].map(({ client }) => nameOf(client)),
      ['localhost', 'a.test'],
    )
  })

  it('stores and resumes sessions through its events', async () => {
    const sessions = new Map<string, Buffer>()
    const server = await serverToLend({ maxVersion: 'TLSv1.2', secureOptions: constants.SSL_OP_NO_TICKET })
    server.on('newSession', (id, session, stored) => {
      sessions.set(id.toString('hex'), session)
      setImmediate(stored)
    })
    server.on('resumeSession', (id, found) => setImmediate(found, null, sessions.get(id.toString('hex')) ?? null))
    const first = await secured(server)
    assert.equal(first.secure.isSessionReused(), false)
    assert.equal(sessions.size, 1)
    const { secure } = await secured(server, { session: first.client.getSession() })
    assert.equal(secure.isSessionReused(), true)
  })

  it('emits keylog and OCSPRequest on the server', async () => {
    const server = await serverToLend()
    const lines: string[] = []
    server.on('keylog', (line) => lines.push(String(line)))
    server.on('OCSPRequest', (_certificate, _issuer, answer) => answer(null, Buffer.from('stapled')))
    const listener = await listen()
    const accepted = listener.accept()
    const client = await dialTLS({ ...target(listener), requestOCSP: true })
    const stapled = once(client, 'OCSPResponse')
    await upgraded(await accepted, server)
    assert.equal(String((await stapled)[0]), 'stapled')
    assert.match(lines.join(''), /^SERVER_HANDSHAKE_TRAFFIC_SECRET /m)
  })

  it('emits neither connections nor failures on the server, and leaves its listeners unchanged', async () => {
    const server = await serverToLend()
    const called: string[] = []
    for (const event of ['connection', 'secureConnection', 'tlsClientError', 'close', 'error']) {
      server.on(event, () => called.push(event))
    }
    const listeners = () => server.eventNames().map((event) => [event, server.listeners(event)])
    const before = listeners()
    await secured(server)
    const failing = await plain()
    failing.client.write('GET / HTTP/1.0\r\n\r\n')
    assert.equal(await rejectionCode(failing, server), 'ERR_SSL_HTTP_REQUEST')
    assert.deepEqual(called, [])
    assert.deepEqual(listeners(), before)
  })

  it("works when the server's own listeners were removed", async () => {
    const server = await serverToLend()
    server.removeAllListeners()
    const { client } = await secured(server)
    assert.equal(nameOf(client), 'localhost')
  })

  it('sets the server as the `server` of the socket', async () => {
    const server = await serverToLend()
    const { secure } = await secured(server)
    assert.equal((secure as unknown as { server: tls.Server }).server, server)
  })

  it("applies the server's handshakeTimeout when it is shorter than that of the call", async () => {
    const pair = await plain()
    const server = await serverToLend({ handshakeTimeout: 10 })
    assert.equal(await rejectionCode(pair, server, { timeout: 0 }), 'ERR_TLS_HANDSHAKE_TIMEOUT')
  })

  it('serves HTTPS', async () => {
    const server = https.createServer(await localhost(), (request, response) => {
      response.end(`${request.method} ${request.url} on ${(request.socket as tls.TLSSocket).getProtocol()}`)
    })
    const listener = await listen()
    const served = serveOne(listener, server)
    assert.equal(await get(listener), 'GET / on TLSv1.3')
    assert.equal((await served).alpnProtocol, false)
  })

  it('rejects plaintext for an https.Server', async () => {
    const server = https.createServer(await localhost(), () => assert.fail('unexpected request'))
    const pair = await plain()
    pair.client.write('GET / HTTP/1.0\r\n\r\n')
    assert.equal(await rejectionCode(pair, server), 'ERR_SSL_HTTP_REQUEST')
  })

  it('serves HTTP/2, and HTTP/1.1 to clients that select it', async () => {
    const server = http2.createSecureServer({ ...(await localhost()), allowHTTP1: true }, (request, response) => {
      response.end(`${request.method} over ${request.httpVersion}`)
    })
    const listener = await listen()
    const first = serveOne(listener, server)
    const { host, port } = target(listener) as { host: string; port: number }
    const session = http2.connect(`https://localhost:${port}`, {
      ca: (await certificates()).ca.cert,
      lookup: (_name, _options, found) => found(null, [{ address: host, family: 4 }]),
    })
    cleanUp(() => session.destroy())
    assert.equal(await text(session.request({ ':path': '/' })), 'GET over 2.0')
    assert.equal((await first).alpnProtocol, 'h2')

    const second = serveOne(listener, server)
    assert.equal(await get(listener, { ALPNProtocols: ['http/1.1'] }), 'GET over 1.1')
    assert.equal((await second).alpnProtocol, 'http/1.1')
  })

  it('rejects a client with an unknown certificate', async () => {
    const { ca, stranger } = await certificates()
    const server = await serverToLend({ requestCert: true, ca: ca.cert })
    server.on('tlsClientError', () => assert.fail('the server was notified'))
    const { error } = await refused(server, stranger)
    assert.match(codeOf(error) ?? '', /^UNABLE_TO_/)
  })
})
