import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import { type Handle, handleBeneath } from '../../src/core/node-internals.js'
import { type Connection, type DrainReport, type Listener, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { awaitBytes, standStill } from '../descriptors.js'
import { cleanUp, connect, gone, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

const host = '127.0.0.1'

/** The compared part of a report: everything but the elapsed time. */
const counts = ({ idle, finished, destroyed }: DrainReport) => ({ idle, finished, destroyed })

/** A server whose requests stay unanswered until the test answers them. */
async function serveHeld(server: http.Server | https.Server = http.createServer()) {
  const listener = await listen({ host })
  const responses: http.ServerResponse[] = []
  server.on('request', (_, response) => responses.push(response))
  const serving = serve(listener, server)
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { listener, server, serving, responses }
}

/** A client that sends raw HTTP/1.1 requests, and the text that it has received. */
async function rawHttpClient(listener: Listener) {
  const socket = await connect(listener)
  const received = { text: '' }
  socket.on('data', (bytes) => (received.text += bytes))
  socket.on('end', () => socket.end())
  return { socket, received, ask: () => socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n') }
}

const answersIn = (words: string) => words.match(/HTTP\/1.1 200 OK/g)?.length ?? 0

/** A client with one answered request and an idle keep-alive connection. */
async function idleHttpClient(listener: Listener, responses: http.ServerResponse[]) {
  const client = await rawHttpClient(listener)
  const before = responses.length
  client.ask()
  await until(() => responses.length === before + 1)
  responses.at(-1)?.end('ok')
  await until(() => client.received.text.endsWith('ok'))
  return client
}

/** A server with one request whose response has begun, and its client. */
async function serveBegun() {
  const held = await serveHeld()
  const client = await rawHttpClient(held.listener)
  client.ask()
  await until(() => held.responses.length === 1)
  held.responses[0]?.write('the beginning ')
  await until(() => client.received.text.includes('the beginning'))
  return { ...held, client }
}

describe('Serving.drain', () => {
  leaveNoFds()

  it('ends idle connections, and stops listening', async () => {
    const { listener, server, serving, responses } = await serveHeld()
    const clients = [await idleHttpClient(listener, responses), await idleHttpClient(listener, responses)]
    const report = await serving.drain({ idleGrace: 0 })
    assert.deepEqual(counts(report), { idle: 2, finished: 0, destroyed: 0 })
    for (const { socket } of clients) await gone(socket)
    assert.equal(server.listening, false)
    assert.ok(listener.fd >= 0)
  })

  it('answers requests in progress with Connection: close', async () => {
    const { listener, serving, responses } = await serveHeld()
    const client = await rawHttpClient(listener)
    client.ask()
    await until(() => responses.length === 1)
    const draining = serving.drain()
    responses[0]?.end('the answer')
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
    await gone(client.socket)
    assert.match(client.received.text, /Connection: close\r\n.*the answer/s)
  })

  it('completes a response that has begun, and then ends the connection after idleGrace', async () => {
    const { client, serving, responses } = await serveBegun()
    const draining = serving.drain({ idleGrace: 50 })
    standStill(60)
    await nextTurn()
    const since = performance.now()
    responses[0]?.end('and the end')
    assert.equal((await draining).destroyed, 0)
    assert.ok(performance.now() - since >= 49)
    await gone(client.socket)
    assert.match(client.received.text, /and the end/)
    assert.doesNotMatch(client.received.text, /Connection: close/)
  })

  it('answers a request that follows a response that had begun', async () => {
    const { client, serving, responses } = await serveBegun()
    const draining = serving.drain({ idleGrace: 3_600_000 })
    responses[0]?.end('and the end')
    await once(responses[0] as http.ServerResponse, 'close')
    // The checks after the response.
    for (let i = 0; i < 3; i++) await nextTurn()
    client.ask()
    await until(() => responses.length === 2 || client.socket.readableEnded)
    responses[1]?.end('the last')
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
    await gone(client.socket)
    assert.match(client.received.text, /Connection: close\r\n.*the last/s)
  })

  it('answers a request that arrives on an idle connection with Connection: close', async () => {
    const { listener, serving, responses } = await serveHeld()
    const client = await idleHttpClient(listener, responses)
    const draining = serving.drain({ idleGrace: 3_600_000 })
    client.ask()
    await until(() => responses.length === 2)
    responses[1]?.end('the last')
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
    await gone(client.socket)
    assert.match(client.received.text, /Connection: close\r\n.*the last/s)
  })

  it('answers a request that is received but unread when the idle connection would be ended', async () => {
    const { listener, server, serving, responses } = await serveHeld()
    const accepted = once(server, 'connection') as Promise<[net.Socket]>
    const client = await idleHttpClient(listener, responses)
    const { fd } = handleBeneath((await accepted)[0]) as Handle
    const draining = serving.drain({ idleGrace: 0 })
    client.ask()
    awaitBytes(fd)
    // The grace period has elapsed, and the event loop runs its timer before it polls.
    standStill(5)
    await until(() => responses.length === 2 || client.socket.readableEnded)
    responses[1]?.end('heard')
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
    await gone(client.socket)
    assert.match(client.received.text, /heard/)
  })

  it('waits for the request of a client that has only connected', async () => {
    const { listener, serving, responses } = await serveHeld()
    const client = await rawHttpClient(listener)
    await until(() => serving.connections === 1)
    const idle = await idleHttpClient(listener, responses)
    const draining = serving.drain({ idleGrace: 0 })
    // If the drain ended silent connections at once, this client's would have ended before the idle one.
    await gone(idle.socket)
    client.ask()
    await until(() => responses.length === 2)
    responses[1]?.end()
    assert.deepEqual(counts(await draining), { idle: 1, finished: 1, destroyed: 0 })
  })

  it('ends a connection whose response says Connection: keep-alive', async () => {
    const { listener, serving, responses } = await serveHeld()
    const client = await rawHttpClient(listener)
    client.ask()
    await until(() => responses.length === 1)
    const draining = serving.drain({ idleGrace: 3_600_000 })
    responses[0]?.writeHead(200, { Connection: 'keep-alive' })
    responses[0]?.end('mine')
    assert.equal((await draining).destroyed, 0)
    await gone(client.socket)
    assert.match(client.received.text, /keep-alive.*mine/s)
  })

  it('destroys the remaining connections at the deadline', async () => {
    const { listener, serving, responses } = await serveHeld()
    const stuck = await rawHttpClient(listener)
    stuck.ask()
    const silent = await connect(listener)
    await until(() => responses.length === 1 && serving.connections === 2)
    assert.deepEqual(counts(await serving.drain({ timeout: 0 })), { idle: 0, finished: 0, destroyed: 2 })
    await gone(stuck.socket)
    await gone(silent)
    assert.equal(answersIn(stuck.received.text), 0)
  })

  it('leaves new clients in the backlog for the next Serving', async () => {
    const { listener, server, serving, responses } = await serveHeld()
    const first = await rawHttpClient(listener)
    first.ask()
    await until(() => responses.length === 1)
    const draining = serving.drain()
    const second = await rawHttpClient(listener)
    second.ask()
    await until(() => listener.backlog().queued === 1)
    responses[0]?.end()
    await draining
    const next = serve(listener, server)
    cleanUp(() => next.drain({ timeout: 0 }))
    await until(() => responses.length === 2)
    responses[1]?.end('by the next')
    await until(() => second.received.text.includes('by the next'))
  })

  it('closes the listener with closeListener: true', async () => {
    const { listener, serving } = await serveHeld()
    await serving.drain({ closeListener: true })
    assert.equal(listener.fd, -1)
  })

  it('returns the same promise when called again, after which close() resolves', async () => {
    const { listener, serving } = await serveHeld()
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    const draining = serving.drain({ timeout: 3_600_000 })
    assert.equal(serving.drain({ timeout: 0 }), draining)
    client.destroy()
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
    await serving.close()
  })

  it('lets an upgraded connection continue until it ends', async () => {
    const { listener, server, serving } = await serveHeld()
    server.on('upgrade', (_, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
      socket.pipe(socket)
    })
    const client = await rawHttpClient(listener)
    client.socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n')
    await until(() => client.received.text.includes('101'))
    const draining = serving.drain({ idleGrace: 0 })
    client.socket.write('still there')
    await until(() => client.received.text.includes('still there'))
    client.socket.end()
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
  })

  it('rejects invalid options', async () => {
    const { serving } = await serveHeld()
    assert.throws(() => serving.drain({ timeout: '1' as unknown as number }), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.throws(() => serving.drain({ idleGrace: -1 }), { code: 'ERR_OUT_OF_RANGE' })
    assert.throws(() => serving.drain({ closeListener: 1 as unknown as boolean }), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.throws(() => serving.drain(null as unknown as undefined), { code: 'ERR_INVALID_ARG_TYPE' })
  })
})

describe('Serving.drain of a function', () => {
  lookedBefore()
  leaveNoFds()

  async function serveFunction(handler: (connection: Connection) => unknown) {
    const listener = await listen({ host })
    const serving = serve(listener, handler)
    const errors: Error[] = []
    serving.on('error', (error) => errors.push(error))
    return { listener, serving, errors }
  }

  it("may be called in a handler of 'drain', which gets the same promise", async () => {
    const serving = serve(await listen({ host: '127.0.0.1' }), http.createServer())
    const drains: Promise<DrainReport>[] = []
    serving.on('drain', () => drains.push(serving.drain()))
    const drained = serving.drain()
    await drained
    assert.deepEqual([drains.length, drains[0] === drained], [1, true])
  })

  it("emits 'drain', and waits until the last connection has ended", async () => {
    const sockets: net.Socket[] = []
    const { listener, serving } = await serveFunction((connection) => sockets.push(connection.toSocket()))
    const client = await connect(listener)
    await until(() => sockets.length === 1)
    serving.on('drain', () => sockets[0]?.end('goodbye'))
    client.end()
    const [report, goodbye] = await Promise.all([serving.drain(), text(client)])
    assert.deepEqual({ ...counts(report), goodbye }, { idle: 0, finished: 1, destroyed: 0, goodbye: 'goodbye' })
  })

  it("resets unclaimed connections at the deadline, without an 'error' event", async () => {
    const { listener, serving, errors } = await serveFunction((connection) => connection.peek(10, { timeout: -1 }))
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    assert.deepEqual(counts(await serving.drain({ timeout: 0 })), { idle: 0, finished: 0, destroyed: 1 })
    await gone(client)
    assert.deepEqual(errors, [])
  })
})

describe('Serving.drain with TLS', () => {
  leaveNoFds()

  /** OpenSSL's client, whose stderr reports a connection that ends without a close_notify. */
  async function opensslClient(listener: Listener, lines: string) {
    const { port } = listener.address() as net.AddressInfo
    const args = ['s_client', '-connect', `${host}:${port}`, '-ign_eof', '-quiet', '-verify_quiet']
    const child = spawn('openssl', args, { stdio: ['pipe', 'pipe', 'pipe'] })
    cleanUp(() => child.kill('SIGKILL'))
    const said = Promise.all([text(child.stdout), text(child.stderr)])
    child.stdin.write(lines)
    return { child, said, ended: once(child, 'close') }
  }

  const truncated = /unexpected eof/

  it('ends idle connections with a close_notify', async () => {
    const { localhost } = await certificates()
    const { listener, serving, responses } = await serveHeld(https.createServer(localhost))
    const client = await opensslClient(listener, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => responses.length === 1)
    responses[0]?.end('ok')
    await once(responses[0] as http.ServerResponse, 'close')
    assert.deepEqual(counts(await serving.drain({ idleGrace: 0 })), { idle: 1, finished: 0, destroyed: 0 })
    await client.ended
    const [answer, complaints] = await client.said
    assert.match(answer, /200 OK/)
    assert.doesNotMatch(complaints, truncated)
  })

  it('sends a close_notify when it destroys a connection at the deadline', async () => {
    const { localhost } = await certificates()
    const listener = await listen({ host })
    const serving = serve(
      listener,
      tls.createServer(localhost, (socket) => socket.write('hello')),
    )
    const client = await opensslClient(listener, '')
    await once(client.child.stdout, 'data')
    assert.deepEqual(counts(await serving.drain({ timeout: 0 })), { idle: 0, finished: 0, destroyed: 1 })
    await client.ended
    assert.doesNotMatch((await client.said)[1], truncated)
  })

  it('lets a handshake in progress, and the request after it, finish', async () => {
    const { localhost, ca } = await certificates()
    const { listener, serving, responses } = await serveHeld(https.createServer(localhost))
    const raw = await connect(listener)
    await until(() => serving.connections === 1)
    const draining = serving.drain({ idleGrace: 0 })
    const client = tls.connect({ socket: raw, ca: ca.cert, servername: 'localhost' })
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => responses.length === 1)
    responses[0]?.end('in time')
    assert.match(await text(client), /Connection: close.*in time/s)
    assert.deepEqual(counts(await draining), { idle: 0, finished: 1, destroyed: 0 })
  })
})
