import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import type net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type Listener, type ListenOptions, proxyOf, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { temporary } from '../descriptors.js'
import { cleanUp, connect, listen, target, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { needs, needsFamilyOf } from '../needs.js'
import { dialTLS } from '../tls-peers.js'
import { echoed, runProxy } from './proxies.js'

/** Runs HAProxy in front of `back`. Returns the listener whose socket HAProxy inherits. */
async function haproxy(back: Listener, bind: string, server: string, options?: ListenOptions): Promise<Listener> {
  const front = await listen(options ?? { host: '127.0.0.1' })
  const { port } = back.address() as net.AddressInfo
  const file = join(temporaryDirectory(), 'haproxy.cfg')
  const lines = [
    'defaults',
    '  mode tcp',
    '  timeout connect 10s',
    '  timeout client 10s',
    '  timeout server 10s',
    'listen front',
    `  bind fd@3 ${bind}`,
    `  server back 127.0.0.1:${port} ${server}`,
  ]
  writeFileSync(file, `${lines.join('\n')}\n`)
  runProxy(front, 'haproxy', ['-db', '-f', file])
  return front
}

describe('proxyHeader behind HAProxy', () => {
  lookedBefore()
  leaveNoFds()

  beforeEach(function () {
    needs(this, 'haproxy', '-v')
  })

  for (const [server, version] of [
    ['send-proxy', 1],
    ['send-proxy-v2', 2],
    ['send-proxy-v2 proxy-v2-options crc32c', 2],
  ] as const) {
    it(`returns the address of an IPv4 client: ${server}`, async () => {
      const back = await listen({ host: '127.0.0.1' })
      const front = await haproxy(back, '', server)
      const [connection, client] = await Promise.all([back.accept(), connect(front)])
      const from = { address: '127.0.0.1', port: client.localPort }
      const header = await echoed(connection, client)
      assert.equal(header.version, version)
      assert.equal(header.command, 'PROXY')
      assert.equal(header.family, 'IPv4')
      assert.deepEqual(header.source, from)
      assert.deepEqual(header.destination, { address: '127.0.0.1', port: (front.address() as net.AddressInfo).port })
      if (server.endsWith('crc32c')) assert.ok(header.tlvs.some(({ type }) => type === 3))
    })

    it(`returns the address of an IPv6 client: ${server}`, async function () {
      needsFamilyOf(this, '::1')
      const back = await listen({ host: '127.0.0.1' })
      const front = await haproxy(back, '', server, { host: '::1' })
      const [connection, client] = await Promise.all([back.accept(), connect(front)])
      const from = { address: '::1', port: client.localPort }
      const header = await echoed(connection, client)
      assert.equal(header.family, 'IPv6')
      assert.deepEqual(header.source, from)
      assert.deepEqual(header.destination, { address: '::1', port: (front.address() as net.AddressInfo).port })
    })
  }

  it("returns the TLS details of the client's connection to the proxy", async () => {
    const { ca, localhost, client: own } = await certificates()
    const directory = temporaryDirectory()
    writeFileSync(join(directory, 'server.pem'), `${localhost.cert}\n${localhost.key}`)
    writeFileSync(join(directory, 'ca.pem'), ca.cert)
    const back = await listen({ host: '127.0.0.1' })
    const front = await haproxy(
      back,
      `ssl crt ${directory}/server.pem ca-file ${directory}/ca.pem verify optional alpn h2,http/1.1`,
      'send-proxy-v2-ssl-cn proxy-v2-options ssl-cipher,authority,crc32c',
    )
    const client = await dialTLS({ ...target(front), ...own, ALPNProtocols: ['http/1.1'] })
    const [connection] = await Promise.all([back.accept(), once(client, 'secureConnect')])
    const cipher = client.getCipher().name
    const header = await echoed(connection, client)
    assert.equal(header.authority, 'localhost')
    assert.equal(header.alpn, 'http/1.1')
    assert.deepEqual(header.ssl, {
      ssl: true,
      certificate: true,
      certificateInSession: true,
      verified: true,
      version: 'TLSv1.3',
      commonName: 'client',
      cipher,
    })
  })

  it('recognizes the health checks of the proxy', async () => {
    const back = await listen({ host: '127.0.0.1' })
    await haproxy(back, '', 'send-proxy-v2 check inter 10s')
    using connection = await back.accept()
    const header = await connection.proxyHeader()
    assert.equal(header?.command, 'LOCAL')
    assert.equal(header?.source, undefined)
  })
})

describe('serve behind HAProxy', () => {
  lookedBefore()
  leaveNoFds()

  beforeEach(function () {
    needs(this, 'haproxy', '-v')
  })

  const introduce: http.RequestListener = ({ socket }, response) => {
    response.end(`${socket.remoteAddress} through ${proxyOf(socket)?.remoteAddress}`)
  }

  /** The response to a client whose address, 127.0.0.2, differs from the proxy's. */
  async function answerTo(front: Listener, request: typeof https.get, options: https.RequestOptions): Promise<string> {
    const { port } = front.address() as net.AddressInfo
    const [response] = await once(
      request({ host: '127.0.0.1', port, localAddress: '127.0.0.2', agent: false, ...options }),
      'response',
    )
    return text(response)
  }

  for (const server of ['send-proxy', 'send-proxy-v2 proxy-v2-options crc32c']) {
    it(`shows an http server the client's address: ${server}`, async () => {
      const back = await listen({ host: '127.0.0.1' })
      const serving = serve(back, http.createServer(introduce), { proxyProtocol: 'require', trust: ['127.0.0.1'] })
      cleanUp(() => serving.drain({ timeout: 0 }))
      const front = await haproxy(back, '', server)
      assert.equal(await answerTo(front, http.get, {}), '127.0.0.2 through 127.0.0.1')
    })

    it(`shows an https server the client's address: ${server}`, async () => {
      const { localhost, ca } = await certificates()
      const back = await listen({ host: '127.0.0.1' })
      const secure = https.createServer(localhost, introduce)
      const serving = serve(back, secure, { proxyProtocol: 'require', trust: ['127.0.0.1'] })
      cleanUp(() => serving.drain({ timeout: 0 }))
      const front = await haproxy(back, '', server)
      const options = { ca: ca.cert, servername: 'localhost' }
      assert.equal(await answerTo(front, https.get, options), '127.0.0.2 through 127.0.0.1')
    })
  }
})

describe('proxyHeader for curl', () => {
  lookedBefore()
  leaveNoFds()

  it('reads the header that --haproxy-protocol sends', async function () {
    needs(this, 'curl', '--version')
    const listener = await listen({ host: '127.0.0.1' })
    const { port } = listener.address() as net.AddressInfo
    const args = ['--silent', '--show-error', '--noproxy', '*', '--haproxy-protocol', `http://127.0.0.1:${port}/path`]
    const child = spawn('curl', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    cleanUp(() => child.kill('SIGKILL'))
    const answer = text(child.stdout)
    const connection = await listener.accept()
    const header = await connection.proxyHeader()
    assert.equal(header?.version, 1)
    assert.deepEqual(header?.source, { address: '127.0.0.1', port: connection.remotePort })
    assert.deepEqual(header?.destination, { address: '127.0.0.1', port })
    const request = 'GET /path HTTP/1.1\r\n'
    assert.equal(String(await connection.peek(request.length)), request)
    const socket = temporary(connection.toSocket())
    socket.end('HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello')
    assert.equal(await answer, 'hello')
  })
})
