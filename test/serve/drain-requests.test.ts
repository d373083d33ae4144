import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import http from 'node:http'
import https from 'node:https'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { answer, answersTo, get, rawClient } from './pipelining.js'

const hour = 3_600_000

/** A server with one client. Its requests stay unanswered until the test releases them. */
async function serveHeld(server: http.Server = http.createServer(), ca?: string) {
  const listener = await listen({ host: '127.0.0.1' })
  const requests: http.IncomingMessage[] = []
  const responses: http.ServerResponse[] = []
  server.on('request', (request, response) => {
    requests.push(request)
    responses.push(response)
  })
  const serving = serve(listener, server)
  cleanUp(() => serving.drain({ timeout: 0 }))
  const client = await rawClient(listener, ca)
  await until(() => serving.connections === 1)
  const release = (index: number, padding?: number) =>
    answer(requests[index] as http.IncomingMessage, responses[index] as http.ServerResponse, padding)
  return { listener, server, serving, requests, responses, client, release }
}

describe('Serving.drain with several requests on one connection', () => {
  leaveNoFds()

  it('answers two requests in progress, with Connection: close on the second response only', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    release(0)
    await until(() => client.received.length > 0)
    release(1)
    assert.equal(await answersTo(client), '/0 /1!')
    assert.equal((await draining).finished, 1)
  })

  it('sends the responses in order when the handlers finish in another order', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    client.socket.write(get('/2') + get('/3'))
    await until(() => responses.length === 4)
    for (const index of [3, 1, 2, 0]) release(index)
    assert.equal(await answersTo(client), '/0 /1 /2 /3!')
    await draining
  })

  it('ends the connection after the last response when its head was written before the drain', async () => {
    const { serving, client, responses } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    for (const response of responses) response.writeHead(200, { 'x-request': response.req.url })
    const draining = serving.drain({ idleGrace: hour })
    for (const response of [...responses].reverse()) response.end(`answer ${response.req.url}`)
    assert.equal(await answersTo(client), '/0 /1')
    assert.equal((await draining).destroyed, 0)
  })

  it('runs no handler for a request that arrives after the head of the last response', async () => {
    const { serving, client, requests, responses } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: hour })
    responses[0]?.writeHead(200, { 'x-request': '/0' })
    responses[0]?.write('answer ')
    await until(() => client.received.length > 0)
    const { socket } = requests[0] as http.IncomingMessage
    const before = socket.bytesRead
    client.socket.write(
      `POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n${'b'.repeat(500_000)}${get('/2')}`,
    )
    await until(() => socket.bytesRead - before > 500_000)
    responses[0]?.end('/0')
    assert.equal(await answersTo(client), '/0!')
    assert.equal(responses.length, 1)
    assert.equal((await draining).finished, 1)
  })

  for (const kind of ['upgrade', 'connect', 'garbage']) {
    it(`completes the last response when ${kind} arrives after its head`, async () => {
      const { server, serving, client, requests, responses } = await serveHeld()
      let emitted = 0
      for (const event of ['upgrade', 'connect', 'clientError']) server.on(event, () => emitted++)
      client.socket.write(get('/0'))
      await until(() => responses.length === 1)
      const draining = serving.drain({ idleGrace: hour })
      responses[0]?.writeHead(200, { 'x-request': '/0' })
      responses[0]?.write('answer ')
      const { socket } = requests[0] as http.IncomingMessage
      const before = socket.bytesRead
      const words: Record<string, string> = {
        upgrade: 'GET /1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\nmore',
        connect: 'CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nmore',
        garbage: '\0\0\0\0\r\n\r\n',
      }
      client.socket.write(words[kind] as string)
      await until(() => socket.bytesRead > before)
      responses[0]?.end('/0')
      assert.equal(await answersTo(client), '/0!')
      assert.equal(emitted, 0)
      assert.equal((await draining).destroyed, 0)
    })
  }

  it('does not end an upgraded connection after the response to an earlier request', async () => {
    const { server, serving, client, responses, release } = await serveHeld()
    let upgraded = false
    server.on('upgrade', (_, socket) => {
      upgraded = true
      socket.pipe(socket)
    })
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: 0 })
    client.socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n')
    await until(() => upgraded)
    const received = () => String(Buffer.concat(client.received))
    release(0)
    await until(() => received().includes('answer /0'))
    client.socket.write('still there')
    await until(() => received().endsWith('still there'))
    assert.doesNotMatch(received(), /Connection: close/i)
    client.socket.end()
    assert.equal((await draining).finished, 1)
  })

  it('answers every request of one segment when the handlers answer synchronously', async () => {
    const { server, serving, client } = await serveHeld()
    server.removeAllListeners('request').on('request', (request, response) => answer(request, response))
    const draining = serving.drain({ idleGrace: hour })
    const post = 'POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody'
    client.socket.write(get('/0') + post + post.replace('/1', '/2') + get('/3'))
    assert.equal(await answersTo(client), '/0 /1 /2 /3!')
    await draining
  })

  it('answers an unread request behind the newest one within the grace period', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: hour })
    // The server reads it in the next turn of the event loop.
    client.socket.write(get('/1'))
    release(0)
    await until(() => responses.length === 2)
    release(1)
    assert.equal(await answersTo(client), '/0 /1!')
    await draining
  })

  it('delivers the last response to a client that continues to send', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: 0 })
    await nextTurn()
    release(0, 1_000_000)
    client.socket.write('x'.repeat(5_000_000))
    assert.equal(await answersTo(client), '/0!')
    assert.equal((await draining).finished, 1)
  })

  it('waits at most one second for a silent client to end its side, and counts it as finished', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.removeAllListeners('end')
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ timeout: 10_000 })
    release(0)
    const { finished, elapsed } = await draining
    assert.equal(finished, 1)
    assert.ok(elapsed >= 900, `${elapsed}`)
  })

  it('does not count a connection as destroyed at the deadline if only its client has yet to end', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.removeAllListeners('end')
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ timeout: 900 })
    release(0)
    const { finished, destroyed } = await draining
    assert.deepEqual({ finished, destroyed }, { finished: 1, destroyed: 0 })
  })

  it('accepts every form of headers that writeHead() accepts', async () => {
    const { serving, client, responses } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain()
    const pairs = [
      ['x-request', '/0'],
      ['set-cookie', 'a=1'],
      ['set-cookie', 'b=2'],
    ]
    responses[0]?.writeHead(200, pairs as unknown as http.OutgoingHttpHeader[])
    responses[0]?.end('answer /0')
    assert.equal(await answersTo(client), '/0!')
    assert.match(String(Buffer.concat(client.received)), /a=1\r\nset-cookie: b=2/)
    await draining
  })

  it('replaces a Connection: keep-alive header of a handler', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    responses[0]?.setHeader('Connection', 'keep-alive')
    const draining = serving.drain()
    release(0)
    assert.equal(await answersTo(client), '/0!')
    await draining
  })

  it('sends Connection: close on the last response only, even if the application sets it on each', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    for (const response of responses) response.setHeader('Connection', 'close')
    release(0)
    await until(() => client.received.length > 0)
    release(1)
    assert.equal(await answersTo(client), '/0 /1!')
    await draining
  })

  it('decides again whether a response is the last when writeHead() throws and is called again', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: hour })
    assert.throws(() => responses[0]?.writeHead(200, 'refused\n'), { code: 'ERR_INVALID_CHAR' })
    client.socket.write(get('/1'))
    await until(() => responses.length === 2)
    if (responses[0]) responses[0].statusMessage = 'OK'
    release(0)
    release(1)
    assert.equal(await answersTo(client), '/0 /1!')
    await draining
  })

  it('ends the connection even if the application has removed all removable listeners', async () => {
    const { server, serving, client, responses } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    responses[0]?.writeHead(200, { 'x-request': '/0' })
    const draining = serving.drain({ idleGrace: hour, unusedGrace: hour })
    server.removeAllListeners('request')
    responses[0]?.removeAllListeners('close')
    responses[0]?.end('answer /0')
    assert.equal(await answersTo(client), '/0')
    assert.equal((await draining).destroyed, 0)
  })

  it('calls the handlers of one segment in the async context of each request', async () => {
    const storage = new AsyncLocalStorage<string>()
    const { server, serving, client } = await serveHeld()
    const stores: (string | undefined)[] = []
    server.removeAllListeners('request').on('request', (request, response) => {
      stores.push(storage.getStore())
      answer(request, response)
    })
    const enter = (message: unknown) =>
      storage.enterWith((message as { request: http.IncomingMessage }).request.url ?? '')
    diagnostics.subscribe('http.server.request.start', enter)
    cleanUp(() => diagnostics.unsubscribe('http.server.request.start', enter))
    const draining = serving.drain()
    client.socket.write(get('/0') + get('/1'))
    assert.equal(await answersTo(client), '/0 /1!')
    assert.deepEqual(stores, ['/0', '/1'])
    await draining
  })

  it('restores server.emit afterwards', async () => {
    const { server, serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain()
    assert.equal(Object.hasOwn(server, 'emit'), true)
    release(0)
    await draining
    assert.equal(Object.hasOwn(server, 'emit'), false)
  })

  it('receives the complete body of the last upload, and answers it', async () => {
    const { serving, client, requests, responses, release } = await serveHeld()
    client.socket.write('POST /0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n')
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: 0, unusedGrace: 0 })
    let size = 0
    requests[0]?.on('data', (bytes) => (size += bytes.length)).on('end', () => release(0))
    for (let i = 0; i < 10; i++) {
      client.socket.write(`4000\r\n${'a'.repeat(0x4000)}\r\n`)
      await nextTurn()
    }
    client.socket.write('0\r\n\r\n')
    assert.equal(await answersTo(client), '/0!')
    assert.equal(size, 10 * 0x4000)
    await draining
  })

  it('answers an upload whose body is incomplete', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write('POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n')
    await until(() => responses.length === 1)
    const draining = serving.drain()
    client.socket.write('a'.repeat(4_000_000))
    release(0)
    assert.equal(await answersTo(client), '/0!')
    await draining
  })

  it('answers maxRequestsPerSocket requests, and ends the connection', async () => {
    const server = http.createServer()
    server.maxRequestsPerSocket = 2
    const { serving, client, responses, release } = await serveHeld(server)
    client.socket.write(get('/0') + get('/1') + get('/2'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    release(0)
    await until(() => client.received.length > 0)
    release(1)
    await until(() => client.socket.destroyed)
    const received = String(Buffer.concat(client.received))
    assert.match(received, /answer \/0.*answer \/1.*HTTP\/1.1 503/s)
    assert.deepEqual({ error: client.error, destroyed: (await draining).destroyed }, { error: undefined, destroyed: 0 })
  })

  it('marks and completes the last response in the same way over TLS', async () => {
    const { localhost, ca } = await certificates()
    const { serving, client, responses, release } = await serveHeld(https.createServer(localhost), ca.cert)
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: 0 })
    client.socket.write(get('/2'))
    await until(() => responses.length === 3)
    for (const index of [1, 0, 2]) release(index, 100_000)
    client.socket.write(get('/3').repeat(10_000))
    assert.equal(await answersTo(client), '/0 /1 /2!')
    assert.equal((await draining).finished, 1)
  })
})
