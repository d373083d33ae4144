import assert from 'node:assert/strict'
import { once } from 'node:events'
import http2 from 'node:http2'
import https from 'node:https'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import tls from 'node:tls'
import { type Listener, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'
const portOf = (listener: Listener) => (listener.address() as net.AddressInfo).port

/** An HTTP/2 server that answers no stream before the test does. */
async function serveStreams(server: http2.Http2Server | http2.Http2SecureServer = http2.createServer()) {
  const listener = await listen({ host })
  const streams: http2.ServerHttp2Stream[] = []
  server.on('stream', (stream) => streams.push(stream))
  const serving = serve(listener, server)
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { listener, server, serving, streams }
}

/** A client session, and the last stream ID of each GOAWAY that it received. */
async function session(authority: string, options?: http2.SecureClientSessionOptions) {
  const client = http2.connect(authority, options)
  cleanUp(() => client.destroy())
  client.on('error', () => {})
  const goaways: (number | undefined)[] = []
  client.on('goaway', (_code, lastStreamId) => goaways.push(lastStreamId))
  await once(client, 'remoteSettings')
  return { client, goaways }
}

describe('Serving.drain of HTTP/2', () => {
  leaveNoFds()

  it('announces the last stream in a GOAWAY, and lets open streams finish', async () => {
    const { listener, serving, streams } = await serveStreams()
    const { client, goaways } = await session(`http://${host}:${portOf(listener)}`)
    const request = client.request()
    await until(() => streams.length === 1)
    const draining = serving.drain()
    await until(() => goaways.length > 0)
    assert.deepEqual(goaways, [1])
    streams[0]?.respond()
    streams[0]?.end('finished')
    assert.equal(await text(request), 'finished')
    const { idle, finished, destroyed } = await draining
    assert.deepEqual({ idle, finished, destroyed }, { idle: 0, finished: 1, destroyed: 0 })
  })

  it('refuses a stream that the client opens before it receives the GOAWAY, so that the client can retry', async () => {
    const { listener, serving, streams } = await serveStreams()
    const { client } = await session(`http://${host}:${portOf(listener)}`)
    const first = client.request()
    await until(() => streams.length === 1)
    const draining = serving.drain()
    const [error] = await once(client.request(), 'error')
    assert.equal(error.message, 'Stream closed with error code NGHTTP2_REFUSED_STREAM')
    streams[0]?.respond()
    streams[0]?.end('the first')
    assert.equal(await text(first), 'the first')
    assert.equal((await draining).destroyed, 0)
    assert.equal(streams.length, 1)
  })

  it('ends a session without streams at once', async () => {
    const { listener, serving } = await serveStreams()
    const { client } = await session(`http://${host}:${portOf(listener)}`)
    const closed = once(client, 'close')
    assert.equal((await serving.drain()).unused, 1)
    await closed
  })

  it('ends a session that is established after the drain has begun', async () => {
    const { localhost, ca } = await certificates()
    const { listener, serving } = await serveStreams(http2.createSecureServer(localhost))
    const socket = await connect(listener)
    await until(() => serving.connections === 1)
    const draining = serving.drain({ timeout: -1 })
    const secure = { socket, ca: ca.cert, servername: 'localhost', ALPNProtocols: ['h2'] }
    const client = http2.connect('http://localhost', { createConnection: () => tls.connect(secure) })
    cleanUp(() => client.destroy())
    await once(client, 'goaway')
    assert.equal((await draining).unused, 1)
  })

  it('destroys a session with an unfinished stream at the deadline', async () => {
    const { listener, serving, streams } = await serveStreams()
    const { client } = await session(`http://${host}:${portOf(listener)}`)
    const request = client.request()
    request.on('error', () => {})
    const closed = once(request, 'close')
    await until(() => streams.length === 1)
    streams[0]?.on('error', () => {})
    assert.equal((await serving.drain({ timeout: 0 })).destroyed, 1)
    await closed
  })

  it('drains HTTP/1 and HTTP/2 connections of a secure server with allowHTTP1', async () => {
    const { localhost, ca } = await certificates()
    const server = http2.createSecureServer({ ...localhost, allowHTTP1: true })
    const { listener, serving, streams } = await serveStreams(server)
    server.on('request', (request, response) => {
      if (request.httpVersionMajor === 1) response.end('one')
    })
    const { client } = await session(`https://localhost:${portOf(listener)}`, {
      ca: ca.cert,
      lookup: (_name, options, found) =>
        options.all ? found(null, [{ address: host, family: 4 }]) : found(null, host, 4),
    })
    const request = client.request()
    const agent = new https.Agent({ keepAlive: true })
    const options = { host, port: portOf(listener), agent, ca: ca.cert, servername: 'localhost' }
    const [one] = await once(https.get(options), 'response')
    assert.equal(await text(one), 'one')
    await until(() => streams.length === 1 && serving.connections === 2)
    const draining = serving.drain({ idleGrace: 0 })
    streams[0]?.respond()
    streams[0]?.end('two')
    assert.equal(await text(request), 'two')
    const { idle, finished, destroyed } = await draining
    assert.deepEqual({ idle, finished, destroyed }, { idle: 1, finished: 1, destroyed: 0 })
  })
})
