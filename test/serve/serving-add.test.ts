import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import tls from 'node:tls'
import { binding } from '../../src/core/binding.js'
import { Connection, Listener, type ServeOptions } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { channels } from '../channels.js'
import { captureExceptions, cleanUp, codeOf, connect, gone, listen, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { served } from './collecting-refusals.js'

const host = '127.0.0.1'
const request = 'GET / HTTP/1.0\r\n\r\n'
const header = 'PROXY TCP4 203.0.113.9 192.0.2.1 5555 80\r\n'
const answering = () => http.createServer((_, response) => response.end('hello'))

/** A connection that was accepted elsewhere, and its client. */
async function accepted(from?: Listener) {
  const listener = from ?? (await listen({ host }))
  const [connection, client] = await Promise.all([listener.accept(), connect(listener)])
  cleanUp(() => connection.close())
  return { connection, client }
}

describe('serving.add()', () => {
  lookedBefore()
  leaveNoFds()

  it('serves a connection that was accepted elsewhere', async () => {
    const { serving } = await served(answering())
    const { connection, client } = await accepted()
    serving.add(connection)
    assert.equal(serving.connections, 1)
    assert.equal(connection.fd, -1)
    client.end(request)
    assert.match(await text(client), /hello$/)
    await until(() => serving.connections === 0)
  })

  it('serves a connection that came through an FdChannel', async () => {
    const { serving } = await served(answering())
    const [near, far] = channels('stream')
    const { connection, client } = await accepted()
    await near.send('serve this', [connection.fd])
    connection.close()
    for await (const { fds } of far) {
      const fd = fds[0]?.detach() as number
      serving.add(Connection.fromFd(fd))
      break
    }
    client.end(request)
    assert.match(await text(client), /hello$/)
  })

  it('serves a connection of another address family than that of the listener', async () => {
    const { serving } = await served(answering())
    const { connection, client } = await accepted(await listen({ path: join(temporaryDirectory(), 'socket') }))
    serving.add(connection)
    client.end(request)
    assert.match(await text(client), /hello$/)
  })

  it('passes the connection itself to a function, in the async context of serve()', async () => {
    const store = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const { serving } = await store.run('serve', () =>
      served((connection: Connection) => seen.push(connection, store.getStore())),
    )
    const { connection } = await accepted()
    store.run('add', () => serving.add(connection))
    assert.deepEqual(seen, [connection, 'serve'])
    assert.equal(serving.connections, 1)
    connection.close()
    assert.equal(serving.connections, 0)
  })

  it('emits the exception of a function as error, and closes the connection', async () => {
    const { serving } = await served(() => {
      throw new Error('broken')
    })
    const { connection, client } = await accepted()
    const failed = once(serving, 'error')
    serving.add(connection)
    assert.equal((await failed)[0].message, 'broken')
    assert.equal(serving.connections, 0)
    await gone(client)
  })

  it('counts the connection, so that the listener accepts fewer', async () => {
    const { listener, serving } = await served(net.createServer(), { maxConnections: 2 })
    assert.equal(listener.pending, 2)
    const { connection, client } = await accepted()
    serving.add(connection)
    assert.equal(listener.pending, 1)
    client.destroy()
    await until(() => listener.pending === 2)
  })

  it('takes a token of maxRate', async () => {
    const { listener, serving } = await served(net.createServer(), { maxRate: 1 })
    assert.equal(listener.pending, 1)
    serving.add((await accepted()).connection)
    assert.equal(listener.pending, 0)
  })

  it('emits an alarm', async () => {
    const { serving } = await served(net.createServer(), { alarm: { threshold: 1 } })
    const alarm = once(serving, 'alarm')
    serving.add((await accepted()).connection)
    assert.deepEqual(await alarm, [{ threshold: 1, connections: 1 }])
  })

  for (const [when, limit] of [
    ['beyond maxConnections', (serving: { maxConnections: number }) => (serving.maxConnections = 0)],
    ["beyond the server's maxConnections", (_: unknown, server: net.Server) => (server.maxConnections = 1)],
    ['while paused', (serving: { pause(): unknown }) => serving.pause()],
    ['beyond maxRate', (serving: { maxRate: number }) => (serving.maxRate = 0)],
  ] as const) {
    it(`serves the connection at once ${when}`, async () => {
      const server = net.createServer((socket) => socket.end('hello'))
      const { listener, serving } = await served(server)
      const open = await accepted()
      serving.add(open.connection) // the client keeps it open
      limit(serving as never, server)
      server.on('drop', () => assert.fail('the server dropped a connection'))
      const { connection, client } = await accepted()
      serving.add(connection)
      assert.equal(serving.connections, 2)
      assert.equal(listener.pending, 0)
      client.end()
      assert.equal(await text(client), 'hello')
    })
  }

  it('calls the filter', async () => {
    const { serving, refusals } = await served(net.createServer(), { filter: () => false })
    const { connection, client } = await accepted()
    serving.add(connection)
    assert.deepEqual(
      refusals.map(({ error }) => codeOf(error)),
      ['ERR_CONNECTION_FILTERED'],
    )
    assert.equal(serving.connections, 0)
    await gone(client)
  })

  it('reads the PROXY header', async () => {
    const addresses: unknown[] = []
    const server = net.createServer((socket) => addresses.push(socket.remoteAddress))
    const { serving, refusals } = await served(server, { proxyProtocol: 'require', trust: [host] })
    const [first, second] = [await accepted(), await accepted()]
    serving.add(first.connection)
    serving.add(second.connection)
    first.client.write(header)
    second.client.write(request)
    await until(() => addresses.length + refusals.length === 2)
    assert.deepEqual([addresses, refusals.map(({ error }) => codeOf(error))], [['203.0.113.9'], ['ERR_PROXY_HEADER']])
  })

  for (const how of ['of an https server', 'of the option tls']) {
    it(`makes the handshake ${how}`, async () => {
      const { localhost, ca } = await certificates()
      const answer: http.RequestListener = (_, response) => response.end('hello')
      const { serving } = await (how === 'of the option tls'
        ? served(answering(), { tls: localhost })
        : served(https.createServer(localhost, answer)))
      const { connection, client } = await accepted()
      serving.add(connection)
      const secure = tls.connect({ socket: client, ca: ca.cert, servername: 'localhost' })
      secure.write(request)
      assert.match(await text(secure), /hello$/)
    })
  }

  it('makes the connection a part of the drain', async () => {
    const { serving } = await served(answering())
    const { connection } = await accepted()
    serving.add(connection)
    const { elapsed, ...ended } = await serving.drain({ unusedGrace: 0 })
    assert.deepEqual(ended, { idle: 0, unused: 1, finished: 0, destroyed: 0 })
  })

  it('rejects a value that is not a Connection', async () => {
    const { listener, serving } = await served(() => {})
    for (const value of [undefined, null, 3, {}, listener, new net.Socket()])
      assert.throws(() => serving.add(value as Connection), { code: 'ERR_INVALID_ARG_TYPE', message: /"connection"/ })
  })

  it('rejects a claimed connection', async () => {
    const { serving } = await served(() => assert.fail('it was delivered'))
    const { connection } = await accepted()
    connection.close()
    assert.throws(() => serving.add(connection), { code: 'ERR_CONNECTION_CLAIMED' })
    assert.equal(serving.connections, 0)
  })

  it('rejects a seqpacket connection for a server, but not for a function', async () => {
    const { AF_UNIX, SOCK_SEQPACKET } = binding.constants as Record<string, number>
    const path = join(temporaryDirectory(), 'socket')
    const fd = binding.socket(AF_UNIX as number, SOCK_SEQPACKET as number)
    assert.equal(binding.bindPath(fd, path), 0)
    assert.equal(binding.listen(fd, 1), 0)
    const client = binding.socket(AF_UNIX as number, SOCK_SEQPACKET as number)
    assert.equal(binding.connectPath(client, path), 0)
    cleanUp(() => binding.close(client))
    binding.release(fd)
    const listener = Listener.fromFd(fd)
    cleanUp(() => listener.close())
    const connection = await listener.accept()
    const { serving } = await served(net.createServer())
    assert.throws(() => serving.add(connection), { code: 'ERR_SOCKET_TYPE' })
    assert.ok(connection.fd >= 0)
    const other = await served(() => {})
    other.serving.add(connection)
    assert.equal(other.serving.connections, 1)
    connection.close()
  })

  for (const end of ['close', 'drain'] as const) {
    it(`throws after ${end}(), and the caller keeps the connection`, async () => {
      const held: Connection[] = []
      const { listener, serving } = await served((connection: Connection) => held.push(connection))
      await connect(listener)
      await until(() => held.length === 1)
      const ended = serving[end]()
      const { connection } = await accepted()
      assert.throws(() => serving.add(connection), { code: 'ERR_SERVING_CLOSED' })
      held[0]?.close()
      await ended
      assert.throws(() => serving.add(connection), { code: 'ERR_SERVING_CLOSED' })
      assert.ok(connection.fd >= 0)
    })
  }
})

describe('serving.add() with a connection of another Serving', () => {
  lookedBefore()
  leaveNoFds()

  it('moves the connection, which no longer counts in the other Serving', async () => {
    const { serving } = await served(answering())
    const router = await served((connection: Connection) => serving.add(connection), { maxConnections: 1 })
    for (let client = 0; client < 3; client++) {
      const open = await connect(router.listener)
      open.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      await once(open, 'data')
      assert.deepEqual([router.serving.connections, serving.connections], [0, client + 1])
    }
  })

  it('keeps the client that the PROXY header named, and reads no second header', async () => {
    const seen: unknown[] = []
    const options: ServeOptions = { proxyProtocol: 'require', trust: [host] }
    const server = http.createServer(({ socket }, response) => {
      seen.push(socket.remoteAddress)
      response.end('hello')
    })
    const { serving } = await served(server, options)
    const router = await served((connection: Connection) => serving.add(connection), options)
    const client = await connect(router.listener)
    client.end(header + request)
    assert.match(await text(client), /hello$/)
    assert.deepEqual(seen, ['203.0.113.9'])
  })

  it('is not affected by a later exception of the function that moved it', async () => {
    const { serving } = await served(answering())
    const router = await served(async (connection: Connection) => {
      serving.add(connection)
      throw new Error('broken')
    })
    const failed = once(router.serving, 'error')
    const client = await connect(router.listener)
    await failed
    client.end(request)
    assert.match(await text(client), /hello$/)
  })

  for (const verdict of [true, false]) {
    it(`refuses the connection in the other Serving if a filter moved it and returned ${verdict}`, async () => {
      const exceptions = captureExceptions()
      const { serving } = await served(answering())
      const router = await served(() => assert.fail('it was delivered'), {
        filter: (connection) => {
          serving.add(connection)
          return verdict
        },
      })
      const client = await connect(router.listener)
      client.end(request)
      assert.match(await text(client), /hello$/)
      const code = verdict ? 'ERR_CONNECTION_CLAIMED' : 'ERR_CONNECTION_FILTERED'
      assert.deepEqual(
        router.refusals.map(({ error }) => codeOf(error)),
        [code],
      )
      assert.equal(router.serving.connections, 0)
      assert.deepEqual(exceptions, [])
    })
  }

  it('is not affected by the drain of the Serving whose asynchronous filter moved it to a function', async () => {
    const held: Connection[] = []
    const { serving } = await served((connection: Connection) => held.push(connection))
    const router = await served(() => assert.fail('it was delivered'), {
      filter: (connection) => {
        serving.add(connection)
        return new Promise(() => {})
      },
    })
    const client = await connect(router.listener)
    client.write('hello')
    await until(() => held.length === 1)
    await router.serving.drain({ unusedGrace: 0 })
    assert.equal(String(await held[0]?.peek(5)), 'hello')
    assert.equal(serving.connections, 1)
  })
})
