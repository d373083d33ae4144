import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import { type Handle, handleBeneath } from '../../src/core/node-internals.js'
import { type DrainReport, type Listener, type ServeOptions, serve } from '../../src/index.js'
import { type Certificates, certificates } from '../certificates.js'
import { awaitBytes, standStill } from '../descriptors.js'
import { cleanUp, listen, target, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { get, type RawClient, rawClient, responsesIn } from './pipelining.js'

const hour = 3_600_000
const host = '127.0.0.1'
const proxyHeader = 'PROXY TCP4 203.0.113.9 192.0.2.1 5555 80\r\n'
const proxied: ServeOptions = { proxyProtocol: 'require', trust: ['127.0.0.0/8'] }
// The beginning of a TLS record that announces 512 bytes of a ClientHello.
const partOfHello = Buffer.from('16030102000100', 'hex')
const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00'

/** The compared part of a report: everything but the elapsed time. */
const counts = ({ idle, unused, finished, destroyed }: DrainReport) => ({ idle, unused, finished, destroyed })
const onlyUnused = { idle: 0, unused: 1, finished: 0, destroyed: 0 }

async function served(server: Parameters<typeof serve>[1], options?: ServeOptions) {
  const listener = await listen({ host })
  const serving = serve(listener, server, options)
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { listener, serving }
}

/** A TLS client that offers these ALPN protocols. */
async function secureClient(listener: Listener, { ca }: Certificates, protocols: string[]): Promise<net.Socket> {
  const options = { ...target(listener), ca: ca.cert, servername: 'localhost', ALPNProtocols: protocols }
  const socket = tls.connect(options as tls.ConnectionOptions)
  cleanUp(() => socket.destroy())
  socket.on('error', () => {}).resume()
  await once(socket, 'secureConnect')
  return socket
}

describe('Serving.drain with connections that have sent no complete request', () => {
  lookedBefore()
  leaveNoFds()

  type Make = (certificates: Certificates) => net.Server
  const plain: Make = () => http.createServer()
  const secure: Make = ({ localhost }) => https.createServer(localhost)
  const plain2: Make = () => http2.createServer()
  const secure2: Make = ({ localhost }) => http2.createSecureServer(localhost)
  const both: Make = ({ localhost }) => http2.createSecureServer({ ...localhost, allowHTTP1: true })
  type Client = (listener: Listener, certificates: Certificates) => Promise<RawClient | undefined>
  const sends =
    (bytes: string | Buffer): Client =>
    async (listener) => {
      const client = await rawClient(listener)
      if (bytes.length > 0) client.socket.write(bytes)
      return client
    }
  const shakesHands =
    (protocol: string, bytes = ''): Client =>
    async (listener, certificates) => {
      const socket = await secureClient(listener, certificates, [protocol])
      if (bytes !== '') socket.write(bytes)
      return undefined
    }

  const cases: [string, Make, Client, (ServeOptions & { makeTls?: true })?][] = [
    ['http: no byte from the client', plain, sends('')],
    ['http: a partial request line', plain, sends('GET / HT')],
    ['http: a partial request head', plain, sends('GET / HTTP/1.1\r\nHost: a\r\n')],
    ['http: an empty line', plain, sends('\r\n')],
    ['http: a PROXY header', plain, sends(proxyHeader), proxied],
    ['http: a partial PROXY header', plain, sends(proxyHeader.slice(0, 20)), proxied],
    ['http: no byte where a PROXY header is required', plain, sends(''), proxied],
    ['http with tls: no byte from the client', plain, sends(''), { makeTls: true }],
    ['http with tls: a partial ClientHello', plain, sends(partOfHello), { makeTls: true }],
    ['http with tls: a handshake', plain, shakesHands('http/1.1'), { makeTls: true }],
    ['http with tls: a PROXY header', plain, sends(proxyHeader), { ...proxied, makeTls: true }],
    ['https: no byte from the client', secure, sends('')],
    ['https: a partial ClientHello', secure, sends(partOfHello)],
    ['https: a handshake', secure, shakesHands('http/1.1')],
    ['https: a handshake and a partial request line', secure, shakesHands('http/1.1', 'GET /')],
    ['https: a PROXY header', secure, sends(proxyHeader), proxied],
    ['h2c: no byte from the client', plain2, sends('')],
    ['h2c: a preface', plain2, sends(Buffer.from(preface, 'latin1'))],
    ['h2: no byte from the client', secure2, sends('')],
    ['h2: a partial ClientHello', secure2, sends(partOfHello)],
    ['h2: a handshake', secure2, shakesHands('h2')],
    ['h2: a handshake and a preface', secure2, shakesHands('h2', preface)],
    ['h2 with HTTP/1: no byte from the client', both, sends('')],
    ['h2 with HTTP/1: a handshake for HTTP/1', both, shakesHands('http/1.1')],
    ['a function: a partial PROXY header', () => (() => {}) as never, sends(proxyHeader.slice(0, 20)), proxied],
    ['a function with tls: a partial ClientHello', () => (() => {}) as never, sends(partOfHello), { makeTls: true }],
  ]
  for (const [name, make, connect, { makeTls, ...options } = {}] of cases) {
    it(`ends them when unusedGrace has elapsed; ${name}`, async () => {
      const all = await certificates()
      const withTls = makeTls ? { tls: all.localhost } : {}
      const { listener, serving } = await served(make(all), { ...options, ...withTls })
      const client = await connect(listener, all)
      await until(() => serving.connections === 1)
      // Five turns are enough for the server to read what the client has sent.
      for (let i = 0; i < 5; i++) await nextTurn()
      assert.deepEqual(counts(await serving.drain({ timeout: -1, idleGrace: hour, unusedGrace: 1 })), onlyUnused)
      if (client !== undefined) await until(() => client.socket.destroyed)
      assert.equal(client?.error, undefined)
    })
  }

  it('ends them after one second by default', async () => {
    const { listener, serving } = await served(http.createServer())
    const client = await rawClient(listener)
    await until(() => serving.connections === 1)
    const report = await serving.drain({ timeout: 10_000, idleGrace: 0 })
    assert.deepEqual(counts(report), onlyUnused)
    assert.ok(report.elapsed >= 990, `${report.elapsed}`)
    assert.deepEqual({ ended: client.ended, error: client.error }, { ended: true, error: undefined })
  })

  it("does not emit 'clientError'", async () => {
    const server = http.createServer()
    let errors = 0
    server.on('clientError', (_error, socket) => {
      errors++
      socket.destroy()
    })
    const { listener, serving } = await served(server)
    const client = await rawClient(listener)
    client.socket.write('GET / HT')
    await until(() => serving.connections === 1)
    await serving.drain({ unusedGrace: 1 })
    assert.equal(errors, 0)
    assert.equal(client.error, undefined)
  })

  it('counts a connection as idle after a response, even with a partial second request', async () => {
    const { listener, serving } = await served(http.createServer((_, response) => response.end('ok')))
    const client = await rawClient(listener)
    client.socket.write(get('/'))
    await until(() => client.received.length > 0)
    client.socket.write('GET / HT')
    for (let i = 0; i < 5; i++) await nextTurn()
    const report = await serving.drain({ timeout: -1, idleGrace: hour, unusedGrace: 1 })
    assert.deepEqual(counts(report), { idle: 1, unused: 0, finished: 0, destroyed: 0 })
  })

  it('answers a request that is completed within unusedGrace', async () => {
    const { listener, serving } = await served(http.createServer((_, response) => response.end('ok')))
    const client = await rawClient(listener)
    client.socket.write('GET / HT')
    await until(() => serving.connections === 1)
    const draining = serving.drain({ idleGrace: 0, unusedGrace: hour })
    for (let i = 0; i < 5; i++) await nextTurn()
    client.socket.write('TP/1.1\r\nHost: a\r\n\r\n')
    assert.deepEqual(counts(await draining), { idle: 0, unused: 0, finished: 1, destroyed: 0 })
    await until(() => client.socket.destroyed)
    assert.deepEqual(
      responsesIn(client, () => false).map(({ body, closes }) => ({ body, closes })),
      [{ body: 'ok', closes: true }],
    )
  })

  it('answers a request that is received but unread when unusedGrace elapses', async () => {
    const server = http.createServer((_, response) => response.end('ok'))
    const accepted = once(server, 'connection') as Promise<[net.Socket]>
    const { listener, serving } = await served(server)
    const client = await rawClient(listener)
    const { fd } = handleBeneath((await accepted)[0]) as Handle
    const draining = serving.drain({ unusedGrace: 1 })
    client.socket.write(get('/'))
    awaitBytes(fd)
    standStill(5)
    assert.deepEqual(counts(await draining), { idle: 0, unused: 0, finished: 1, destroyed: 0 })
    await until(() => client.socket.destroyed)
    assert.equal(responsesIn(client, () => false).length, 1)
  })

  it('ends the connection cleanly, without any response, when the request arrives too late', async () => {
    let ran = 0
    const { listener, serving } = await served(http.createServer(() => ran++))
    const client = await rawClient(listener)
    await until(() => serving.connections === 1)
    client.socket.removeAllListeners('end')
    const draining = serving.drain({ unusedGrace: 1 })
    await once(client.socket, 'end')
    await new Promise<void>((resolve) => client.socket.write(get('/'), () => resolve()))
    client.socket.end()
    await until(() => client.socket.destroyed)
    assert.deepEqual(counts(await draining), onlyUnused)
    assert.deepEqual(
      { ran, error: client.error, bytes: client.received.length },
      { ran: 0, error: undefined, bytes: 0 },
    )
  })

  it('does not apply unusedGrace to other protocols, in which the server may send first', async () => {
    const server = net.createServer((socket) => socket.on('data', (bytes) => socket.end(bytes)))
    const { listener, serving } = await served(server)
    const client = await rawClient(listener)
    await until(() => serving.connections === 1)
    const draining = serving.drain({ idleGrace: 0, unusedGrace: 0 })
    for (let i = 0; i < 20; i++) await nextTurn()
    client.socket.write('hello')
    assert.deepEqual(counts(await draining), { idle: 0, unused: 0, finished: 1, destroyed: 0 })
    assert.equal(String(Buffer.concat(client.received)), 'hello')
  })

  it('does not apply unusedGrace to an upgraded connection over TLS', async () => {
    const { localhost, ca } = await certificates()
    const server = https.createServer(localhost)
    server.on('upgrade', (_, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
      socket.pipe(socket)
    })
    const { listener, serving } = await served(server)
    const client = await rawClient(listener, ca.cert)
    client.socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n')
    const received = () => String(Buffer.concat(client.received))
    await until(() => received().includes('101'))
    const draining = serving.drain({ idleGrace: 0, unusedGrace: 0 })
    for (let i = 0; i < 20; i++) await nextTurn()
    client.socket.write('still there')
    await until(() => received().includes('still there'))
    client.socket.end()
    assert.deepEqual(counts(await draining), { idle: 0, unused: 0, finished: 1, destroyed: 0 })
  })

  it('waits at most one second for an HTTP/2 client that does not end its side', async () => {
    const { listener, serving } = await served(http2.createServer())
    const client = await rawClient(listener)
    client.socket.removeAllListeners('end')
    await until(() => serving.connections === 1)
    assert.deepEqual(counts(await serving.drain({ timeout: 10_000 })), onlyUnused)
  })

  it('counts every connection once', async () => {
    const responses: http.ServerResponse[] = []
    const { listener, serving } = await served(http.createServer((_, response) => responses.push(response)))
    const [idle, answered, stuck] = [await rawClient(listener), await rawClient(listener), await rawClient(listener)]
    await rawClient(listener)
    for (const [index, client] of [idle, answered, stuck].entries()) {
      client?.socket.write(get('/'))
      await until(() => responses.length === index + 1)
    }
    responses[0]?.end('ok')
    await until(() => idle?.received.length === 1)
    const draining = serving.drain({ timeout: 900, idleGrace: 1, unusedGrace: 1 })
    responses[1]?.end('ok')
    assert.deepEqual(counts(await draining), { idle: 1, unused: 1, finished: 1, destroyed: 1 })
  })

  it('rejects an invalid unusedGrace', async () => {
    const { serving } = await served(http.createServer())
    assert.throws(() => serving.drain({ unusedGrace: -1 }), { code: 'ERR_OUT_OF_RANGE' })
    assert.throws(() => serving.drain({ unusedGrace: '1' as unknown as number }), { code: 'ERR_INVALID_ARG_TYPE' })
  })
})
