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
import { answer, get, heard, rawClient } from './pipelining.js'

const hour = 3_600_000

/** A server whose handlers have run, and which answers when the test says so. */
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

describe('Serving.drain and the requests of one connection', () => {
  leaveNoFds()

  it('answers two that had begun, and says behind the second that it was the last', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    release(0)
    await until(() => client.received.length > 0)
    release(1)
    assert.equal(await heard(client), '/0 /1!')
    assert.equal((await draining).finished, 1)
  })

  it('answers them in order when the handlers answer in another', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    client.socket.write(get('/2') + get('/3'))
    await until(() => responses.length === 4)
    for (const index of [3, 1, 2, 0]) release(index)
    assert.equal(await heard(client), '/0 /1 /2 /3!')
    await draining
  })

  it('ends the connection behind the last when a head was written before the drain', async () => {
    const { serving, client, responses } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    for (const response of responses) response.writeHead(200, { 'x-request': response.req.url })
    const draining = serving.drain({ idleGrace: hour })
    for (const response of [...responses].reverse()) response.end(`answer ${response.req.url}`)
    assert.equal(await heard(client), '/0 /1')
    assert.equal((await draining).destroyed, 0)
  })

  it('runs no handler for a request that comes behind the head of the last response', async () => {
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
    assert.equal(await heard(client), '/0!')
    assert.equal(responses.length, 1)
    assert.equal((await draining).finished, 1)
  })

  for (const kind of ['upgrade', 'connect', 'garbage']) {
    it(`answers the last one when ${kind} comes behind its head`, async () => {
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
      assert.equal(await heard(client), '/0!')
      assert.equal(emitted, 0)
      assert.equal((await draining).destroyed, 0)
    })
  }

  it('does not end an upgraded connection behind the response to an earlier request', async () => {
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

  it('answers all that stand in one segment, with handlers that answer at once', async () => {
    const { server, serving, client } = await serveHeld()
    server.removeAllListeners('request').on('request', (request, response) => answer(request, response))
    const draining = serving.drain({ idleGrace: hour })
    const post = 'POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody'
    client.socket.write(get('/0') + post + post.replace('/1', '/2') + get('/3'))
    assert.equal(await heard(client), '/0 /1 /2 /3!')
    await draining
  })

  it('answers within the grace what is already there, unread, behind the newest', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: hour })
    // The server reads it when this turn is over.
    client.socket.write(get('/1'))
    release(0)
    await until(() => responses.length === 2)
    release(1)
    assert.equal(await heard(client), '/0 /1!')
    await draining
  })

  it('lets a client that goes on sending read the last response', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: 0 })
    await nextTurn()
    release(0, 1_000_000)
    client.socket.write('x'.repeat(5_000_000))
    assert.equal(await heard(client), '/0!')
    assert.equal((await draining).finished, 1)
  })

  it('waits no longer than a second for the end of a client that has gone silent, and calls that no cut', async () => {
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

  it('does not count as destroyed at the deadline what only waits for the end of the client', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.removeAllListeners('end')
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain({ timeout: 900 })
    release(0)
    const { finished, destroyed } = await draining
    assert.deepEqual({ finished, destroyed }, { finished: 1, destroyed: 0 })
  })

  it('lets handlers write heads in all the forms that writeHead() takes', async () => {
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
    assert.equal(await heard(client), '/0!')
    assert.match(String(Buffer.concat(client.received)), /a=1\r\nset-cookie: b=2/)
    await draining
  })

  it('replaces the Connection: keep-alive that a handler has set', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    responses[0]?.setHeader('Connection', 'keep-alive')
    const draining = serving.drain()
    release(0)
    assert.equal(await heard(client), '/0!')
    await draining
  })

  it('says it on the last response only, also when the application says it on each', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: hour })
    for (const response of responses) response.setHeader('Connection', 'close')
    release(0)
    await until(() => client.received.length > 0)
    release(1)
    assert.equal(await heard(client), '/0 /1!')
    await draining
  })

  it('decides anew when a handler writes another head because the first was refused', async () => {
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
    assert.equal(await heard(client), '/0 /1!')
    await draining
  })

  it('ends the connection also when an application has removed all listeners that can be removed', async () => {
    const { server, serving, client, responses } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    responses[0]?.writeHead(200, { 'x-request': '/0' })
    const draining = serving.drain({ idleGrace: hour, unusedGrace: hour })
    server.removeAllListeners('request')
    responses[0]?.removeAllListeners('close')
    responses[0]?.end('answer /0')
    assert.equal(await heard(client), '/0')
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
    assert.equal(await heard(client), '/0 /1!')
    assert.deepEqual(stores, ['/0', '/1'])
    await draining
  })

  it('leaves a server as it was', async () => {
    const { server, serving, client, responses, release } = await serveHeld()
    client.socket.write(get('/0'))
    await until(() => responses.length === 1)
    const draining = serving.drain()
    assert.equal(Object.hasOwn(server, 'emit'), true)
    release(0)
    await draining
    assert.equal(Object.hasOwn(server, 'emit'), false)
  })

  it('answers the last upload whole, and refuses no body of it', async () => {
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
    assert.equal(await heard(client), '/0!')
    assert.equal(size, 10 * 0x4000)
    await draining
  })

  it('answers an upload that its client has not finished', async () => {
    const { serving, client, responses, release } = await serveHeld()
    client.socket.write('POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n')
    await until(() => responses.length === 1)
    const draining = serving.drain()
    client.socket.write('a'.repeat(4_000_000))
    release(0)
    assert.equal(await heard(client), '/0!')
    await draining
  })

  it('answers as many as maxRequestsPerSocket says, and ends the connection', async () => {
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

  it('says with TLS what it says without', async () => {
    const { localhost, ca } = await certificates()
    const { serving, client, responses, release } = await serveHeld(https.createServer(localhost), ca.cert)
    client.socket.write(get('/0') + get('/1'))
    await until(() => responses.length === 2)
    const draining = serving.drain({ idleGrace: 0 })
    client.socket.write(get('/2'))
    await until(() => responses.length === 3)
    for (const index of [1, 0, 2]) release(index, 100_000)
    client.socket.write(get('/3').repeat(10_000))
    assert.equal(await heard(client), '/0 /1 /2!')
    assert.equal((await draining).finished, 1)
  })
})
