import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import tls from 'node:tls'
import {
  type Connection,
  type Listener,
  type ListenOptions,
  proxyOf,
  type Refusal,
  type ServeOptions,
  serve,
} from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, codeOf, connect, gone, listen, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { skip } from '../needs.js'
import { header2, ipv6Addresses, tlv, unixAddresses } from '../proxy-headers.js'

const host = '127.0.0.1'
const line = 'PROXY TCP4 203.0.113.9 192.0.2.1 5555 80\r\n'
const required: ServeOptions = { proxyProtocol: 'require', trust: ['127.0.0.0/8', '::1'] }
const optional: ServeOptions = { ...required, proxyProtocol: 'optional' }

/** Serves until the test ends, and collects the 'refused' events. */
async function served(
  target: Parameters<typeof serve>[1],
  options: ServeOptions = required,
  listenOptions: ListenOptions = { host },
) {
  const listener = await listen(listenOptions)
  const serving = serve(listener, target, options)
  const refusals: Refusal[] = []
  serving.on('refused', (refusal) => refusals.push(refusal))
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { listener, serving, refusals }
}

/** Responds with the addresses of the client that the server sees. */
const introduce: http.RequestListener = ({ socket }, response) => {
  const { remoteAddress, remotePort, remoteFamily } = socket
  const proxy = proxyOf(socket)
  response.end(JSON.stringify({ remoteAddress, remotePort, remoteFamily, proxy: proxy?.remoteAddress }))
}

const realClient = { remoteAddress: '203.0.113.9', remotePort: 5555, remoteFamily: 'IPv4', proxy: host }

async function connectAndSend(listener: Listener, words: string | Buffer): Promise<net.Socket> {
  const client = await connect(listener)
  client.write(words)
  return client
}

const request = 'GET / HTTP/1.0\r\n\r\n'
const bodyOf = async (client: net.Socket) => (await text(client)).split('\r\n\r\n')[1] ?? ''

describe('serve with proxyProtocol', () => {
  lookedBefore()
  leaveNoFds()

  it("shows an http server the client's address", async () => {
    const { listener } = await served(http.createServer(introduce))
    const client = await connectAndSend(listener, line + request)
    assert.deepEqual(JSON.parse(await bodyOf(client)), realClient)
  })

  it("shows an https server the client's address, from a header before the handshake", async () => {
    const { localhost, ca } = await certificates()
    const { listener } = await served(https.createServer(localhost, introduce))
    const secure = tls.connect({ socket: await connectAndSend(listener, line), ca: ca.cert, servername: 'localhost' })
    secure.write(request)
    assert.deepEqual(JSON.parse(await bodyOf(secure)), realClient)
  })

  for (const secure of [false, true]) {
    it(`shows an ${secure ? 'h2' : 'h2c'} server the client's address`, async () => {
      const { localhost, ca } = await certificates()
      const answer = (request: http2.Http2ServerRequest, response: http2.Http2ServerResponse) => {
        const { remoteAddress, remotePort, remoteFamily } = request.socket
        const proxy = proxyOf(request.socket)?.remoteAddress
        response.end(JSON.stringify({ remoteAddress, remotePort, remoteFamily, proxy }))
      }
      const server = secure ? http2.createSecureServer(localhost, answer) : http2.createServer(answer)
      const { listener } = await served(server)
      const socket = await connectAndSend(listener, line)
      const above = { socket, ca: ca.cert, servername: 'localhost', ALPNProtocols: ['h2'] }
      const session = http2.connect('http://localhost', {
        createConnection: () => (secure ? tls.connect(above) : socket),
      })
      cleanUp(() => session.destroy())
      assert.deepEqual(JSON.parse(await text(session.request())), realClient)
    })
  }

  it("gives a function the client's address, and the header", async () => {
    const connections: Connection[] = []
    const { listener } = await served((connection: Connection) => connections.push(connection))
    const header = header2({
      protocol: 0x21,
      addresses: ipv6Addresses([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], 1234, 443),
      tlvs: [tlv(2, 'a.test')],
    })
    const client = await connectAndSend(listener, header)
    await until(() => connections.length === 1)
    const [connection] = connections as [Connection]
    assert.equal(connection.remoteAddress, '2001:db8::1')
    assert.equal(connection.remotePort, 1234)
    assert.equal(connection.remoteFamily, 'IPv6')
    assert.equal(connection.proxied?.header.authority, 'a.test')
    assert.equal(connection.proxied?.remotePort, client.localPort)
    const socket = connection.toSocket()
    assert.equal(socket.remoteAddress, '2001:db8::1')
    assert.equal(proxyOf(socket)?.header.authority, 'a.test')
    assert.equal(proxyOf(socket)?.remoteAddress, host)
    socket.destroy()
    assert.equal(proxyOf(socket), undefined)
  })

  it('shows a server an IPv6 client whose proxy connected over IPv4', async () => {
    const { listener } = await served(http.createServer(introduce))
    const client = await connectAndSend(listener, `PROXY TCP6 2001:db8::9 192.0.2.1 5555 80\r\n${request}`)
    const seen = { ...realClient, remoteAddress: '2001:db8::9', remoteFamily: 'IPv6' }
    assert.deepEqual(JSON.parse(await bodyOf(client)), seen)
  })

  it('keeps the socket addresses when the header names no client', async () => {
    const { listener } = await served(http.createServer(introduce))
    for (const words of [header2({ command: 0, protocol: 0 }), Buffer.from('PROXY UNKNOWN\r\n')]) {
      const client = await connectAndSend(listener, words)
      const { localPort } = client
      client.write(request)
      const seen = { remoteAddress: host, remotePort: localPort, remoteFamily: 'IPv4', proxy: host }
      assert.deepEqual(JSON.parse(await bodyOf(client)), seen)
    }
  })

  it('sets no IP address for a client that reached the proxy over a unix socket', async () => {
    const connections: Connection[] = []
    const { listener } = await served((connection: Connection) => connections.push(connection))
    await connectAndSend(listener, header2({ protocol: 0x31, addresses: unixAddresses('/client', '/proxy') }))
    await until(() => connections.length === 1)
    const [connection] = connections as [Connection]
    assert.equal(connection.remoteAddress, '/client')
    assert.equal(connection.remotePort, undefined)
    const socket = connection.toSocket()
    const { remoteAddress, remotePort, remoteFamily } = socket
    assert.deepEqual([remoteAddress, remotePort, remoteFamily], [undefined, undefined, undefined])
    assert.equal(proxyOf(socket)?.header.source?.address, '/client')
    socket.destroy()
  })

  it('trusts every process that can connect to a unix socket', async () => {
    const path = join(temporaryDirectory(), 'socket')
    const { listener } = await served(http.createServer(introduce), { ...required, trust: [] }, { path })
    const { proxy, ...client } = realClient
    assert.deepEqual(JSON.parse(await bodyOf(await connectAndSend(listener, line + request))), client)
  })

  it('applies a trusted IPv4 network to a dual-stack socket', async () => {
    const { listener } = await served(http.createServer(introduce), { ...required, trust: ['127.0.0.0/8'] }, {})
    const { remoteAddress } = JSON.parse(await bodyOf(await connectAndSend(listener, line + request)))
    assert.equal(remoteAddress, '203.0.113.9')
  })

  it("applies the server's blockList to the client's address", async function () {
    const blockList = new net.BlockList()
    blockList.addAddress('203.0.113.9')
    const server = net.createServer({ blockList } as net.ServerOpts, (socket) => socket.end('let in'))
    if (!('blockList' in server)) {
      skip(this, `net.Server of Node ${process.versions.node} has no blockList`)
    }
    const { listener } = await served(server)
    assert.equal(await text(await connectAndSend(listener, line)), '')
    assert.equal(await text(await connectAndSend(listener, line.replace('203.0.113.9', '203.0.113.8'))), 'let in')
  })

  describe('require', () => {
    for (const [what, words, code] of [
      ['no header', request, 'ERR_PROXY_HEADER'],
      ['an invalid header', 'PROXY TCP4 what ever\r\n', 'ERR_PROXY_HEADER'],
      ['a line of 108 bytes without CRLF', `PROXY ${'x'.repeat(102)}`, 'ERR_PROXY_HEADER'],
      ['a length beyond the end', header2({ protocol: 0x11, lie: 60_000 }), 'ERR_PEEK_ENDED'],
      ['a partial header', line.slice(0, 20), 'ERR_PEEK_ENDED'],
      ['a partial request', 'GET /', 'ERR_PROXY_HEADER'],
    ] as const) {
      it(`refuses a connection with ${what}, and continues to serve`, async () => {
        const { listener, refusals } = await served(http.createServer(introduce))
        const client = await connectAndSend(listener, words)
        const { localPort } = client
        client.end()
        await gone(client)
        await until(() => refusals.length === 1)
        assert.equal(codeOf(refusals[0]?.error), code)
        assert.equal(refusals[0]?.remotePort, localPort)
        assert.deepEqual(JSON.parse(await bodyOf(await connectAndSend(listener, line + request))), realClient)
      })
    }

    for (const [how, end, code] of [
      ['ends without data', (client: net.Socket) => client.end(), 'ERR_PEEK_ENDED'],
      ['is reset without data', (client: net.Socket) => client.resetAndDestroy(), 'ECONNRESET'],
    ] as const) {
      it(`reports ${code} for a connection that ${how}, as a health check does`, async () => {
        const { listener, serving, refusals } = await served(http.createServer(introduce))
        const client = await connect(listener)
        end(client)
        await until(() => refusals.length === 1 && serving.connections === 0)
        assert.equal(codeOf(refusals[0]?.error), code)
      })
    }

    it('refuses a connection without a header within handshakeTimeout', async () => {
      const options = { ...required, handshakeTimeout: 1 }
      const { listener, refusals } = await served(http.createServer(introduce), options)
      await gone(await connect(listener))
      assert.equal(codeOf(refusals[0]?.error), 'ERR_PEEK_TIMEOUT')
    })

    it('refuses an untrusted peer, regardless of its data', async () => {
      const { listener, refusals } = await served(http.createServer(introduce), {
        ...required,
        trust: ['192.0.2.0/24'],
      })
      const client = await connectAndSend(listener, line + request)
      assert.equal(await text(client).catch(() => ''), '')
      assert.equal(codeOf(refusals[0]?.error), 'ERR_PROXY_UNTRUSTED')
      assert.equal(refusals[0]?.remoteAddress, host)
    })
  })

  describe('optional', () => {
    it('reports ERR_PEEK_ENDED for a connection that ends within its header', async () => {
      const { listener, refusals } = await served(http.createServer(introduce), optional)
      const client = await connectAndSend(listener, line.slice(0, 20))
      client.end()
      await until(() => refusals.length === 1)
      assert.equal(codeOf(refusals[0]?.error), 'ERR_PEEK_ENDED')
    })

    it('delivers a connection that ends without data', async () => {
      const ended: net.Socket[] = []
      const { listener, refusals } = await served(
        net.createServer((socket) => socket.resume().on('end', () => ended.push(socket))),
        optional,
      )
      ;(await connect(listener)).end()
      await until(() => ended.length === 1)
      assert.deepEqual(refusals, [])
    })

    it('delivers a connection without a header, with its socket addresses', async () => {
      const { listener } = await served(http.createServer(introduce), optional)
      const client = await connectAndSend(listener, request)
      const { localPort } = client
      const seen = { remoteAddress: host, remotePort: localPort, remoteFamily: 'IPv4' }
      assert.deepEqual(JSON.parse(await bodyOf(client)), seen)
      assert.deepEqual(JSON.parse(await bodyOf(await connectAndSend(listener, line + request))), realClient)
    })

    it('does not parse the data of an untrusted peer', async () => {
      const { listener } = await served(http.createServer(introduce), { ...optional, trust: ['192.0.2.0/24'] })
      assert.match(await text(await connectAndSend(listener, line + request)), /^HTTP\/1.1 400 /)
    })
  })

  it('counts a connection that waits for its header, and delivers it to a closing server', async () => {
    const server = net.createServer((socket) => socket.end(socket.remoteAddress ?? ''))
    const { listener, serving } = await served(server, { ...required, maxConnections: 1 })
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    assert.equal(listener.pending, 0)
    const closing = serving.close()
    client.end(line)
    assert.equal(await text(client), '203.0.113.9')
    await closing
  })

  it('destroys a connection that waits for its header at the deadline of a drain', async () => {
    const { listener, serving, refusals } = await served(http.createServer(introduce))
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    assert.equal((await serving.drain({ timeout: 0 })).destroyed, 1)
    await gone(client)
    assert.deepEqual(refusals, [])
  })

  it('accepts a net.BlockList of networks, and rejects invalid networks', async () => {
    const trust = new net.BlockList()
    trust.addSubnet('127.0.0.0', 8)
    const { listener } = await served(http.createServer(introduce), { ...required, trust })
    assert.deepEqual(JSON.parse(await bodyOf(await connectAndSend(listener, line + request))), realClient)
    const idle = await listen({ host })
    for (const wrong of ['localhost', '10.0.0.0/33', '::/129', '10.0.0.0/8/8', '10.0.0.0/', '10.0.0.0/ 8', '', 7]) {
      const options = { proxyProtocol: 'require', trust: [wrong as string] } as const
      assert.throws(() => serve(idle, () => {}, options), { code: 'ERR_INVALID_ARG_VALUE' }, String(wrong))
    }
    // @ts-expect-error The types require it as well.
    assert.throws(() => serve(idle, () => {}, { proxyProtocol: 'require' }), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.throws(() => serve(idle, () => {}, { proxyProtocol: 'yes' as 'require', trust: [] }), {
      code: 'ERR_INVALID_ARG_VALUE',
    })
    assert.equal(idle.pending, 0)
  })

  it("reads the header before the TLS handshake with the option 'tls'", async () => {
    const { localhost, ca } = await certificates()
    const sockets: tls.TLSSocket[] = []
    const listener = await listen({ host })
    const serving = serve(listener, (socket: tls.TLSSocket) => sockets.push(socket), { ...required, tls: localhost })
    cleanUp(() => serving.drain({ timeout: 0 }))
    const secure = tls.connect({ socket: await connectAndSend(listener, line), ca: ca.cert, servername: 'localhost' })
    await once(secure, 'secureConnect')
    await until(() => sockets.length === 1)
    assert.equal(sockets[0]?.remoteAddress, '203.0.113.9')
    assert.equal(proxyOf(sockets[0] as tls.TLSSocket)?.remoteAddress, host)
    secure.destroy()
  })
})
