import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type Listener, serve } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { cleanUp, connect, listen, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { addressOf, closing, countOf, dial, endLater, waysIn } from '../ways-in.js'

const host = '127.0.0.1'

/** A server that stores its sockets by the name that each client sends. */
function holding() {
  const sockets = new Map<string, net.Socket>()
  const dropped: unknown[] = []
  const server = endLater(
    net.createServer((socket) => socket.once('data', (name) => void sockets.set(String(name), socket))),
  )
  server.on('drop', (data) => dropped.push(data))
  return { server, sockets, dropped }
}

/** Connects a client that sends its name, and waits until the server has stored its socket. */
async function held(listener: Listener, sockets: Map<string, net.Socket>, name: string): Promise<net.Socket> {
  const client = await connect(listener)
  client.write(name)
  await until(() => sockets.has(name))
  return client
}

describe('A server that is served again while old connections are open', () => {
  leaveNoFds()

  it('stays open when the connections of ten earlier Servings end', async () => {
    const { server, sockets } = holding()
    const closed: Promise<void>[] = []
    const listeners: Listener[] = []
    for (let life = 0; life < 10; life++) {
      const listener = await listen({ host })
      const serving = serve(listener, server)
      await held(listener, sockets, `life ${life}`)
      listeners.push(listener)
      closed.push(serving.close())
    }
    const last = await listen({ host })
    const serving = serve(last, server)
    for (const [life, done] of closed.entries()) {
      sockets.get(`life ${life}`)?.destroy()
      await done
      assert.equal(server.listening, true)
    }
    assert.equal(serving.state, 'serving')
    assert.deepEqual(
      listeners.map(({ fd }) => fd >= 0),
      Array(10).fill(true),
    )
    await held(last, sockets, 'the last')
    assert.equal(await countOf(server), 1)
  })

  it('stays open when a connection of an earlier Serving ends after its own listen()', async () => {
    const { server, sockets } = holding()
    const listener = await listen({ host })
    const first = serve(listener, server)
    await held(listener, sockets, 'old')
    const closed = first.close()
    server.listen(0, host)
    await once(server, 'listening')
    sockets.get('old')?.destroy()
    await closed
    assert.equal(server.listening, true)
    const client = await dial(server)
    client.write('new')
    await until(() => sockets.has('new'))
  })

  it('closes its first Serving when the connections of that Serving have ended', async () => {
    const { server, sockets } = holding()
    const [one, two] = [await listen({ host }), await listen({ host })]
    const first = serve(one, server)
    await held(one, sockets, 'first')
    const closed = first.close()
    serve(two, server)
    await held(two, sockets, 'second')
    assert.equal(first.state, 'closing')
    sockets.get('first')?.destroy()
    await closed
    assert.equal(first.state, 'closed')
    assert.equal(await countOf(server), 1)
    assert.equal(sockets.get('second')?.destroyed, false)
  })

  for (const [what, restart] of [
    ['serve', (server: net.Server, next: Listener) => void serve(next, server)],
    ['listen', (server: net.Server) => void server.listen(0, host)],
  ] as const) {
    it(`continues after ${what}() in the tick of close(), and emits 'close' once`, async () => {
      const events: string[] = []
      const { server, sockets } = holding()
      for (const event of ['listening', 'close']) server.on(event, () => events.push(event))
      const [one, two] = [await listen({ host }), await listen({ host })]
      const first = serve(one, server)
      const over = once(first, 'close')
      await once(server, 'listening')
      server.close()
      restart(server, two)
      await once(server, 'listening')
      await over
      // net.Server, when it listens itself, also emits both.
      assert.deepEqual(events.sort(), ['close', 'listening', 'listening'])
      assert.equal(one.fd, -1)
      const client = net.connect(addressOf(server))
      cleanUp(() => client.destroy())
      client.write('hello')
      await until(() => sockets.has('hello'))
    })
  }

  it('drops no connection because of maxConnections and connections of an earlier Serving', async () => {
    const { server, sockets, dropped } = holding()
    server.maxConnections = 2
    const [one, two] = [await listen({ host }), await listen({ host })]
    const first = serve(one, server)
    await held(one, sockets, 'a')
    await held(one, sockets, 'b')
    const closed = first.close()
    const second = serve(two, server)
    const [client] = await fillBacklog(two, 1)
    client?.write('c')
    assert.equal(two.pending, 0)
    sockets.get('a')?.destroy()
    await until(() => sockets.has('c'))
    assert.deepEqual([second.connections, await countOf(server), dropped], [1, 2, []])
    sockets.get('b')?.destroy()
    await closed
  })

  it('is not affected by the drain of an earlier Serving', async () => {
    const [one, two] = [await listen({ host }), await listen({ host })]
    const held: http.ServerResponse[] = []
    const server = http.createServer((request, response) => {
      if (request.url === '/held') held.push(response)
      else response.end('ok')
    })
    const first = serve(one, server)
    const before = await connect(one)
    before.write('GET /held HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => held.length === 1)
    void first.close()
    const second = serve(two, server)
    const client = await connect(two)
    const drained = first.drain({ idleGrace: 0 })
    for (let request = 0; request < 2; request++) {
      client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      const [answer] = await once(client, 'data')
      assert.match(String(answer), /\r\nConnection: keep-alive\r\n/)
    }
    held[0]?.end()
    await drained
    assert.deepEqual([second.state, second.connections], ['serving', 1])
    await second.drain({ idleGrace: 0 })
  })

  it('drops no connection because of maxConnections and connections of its own listen()', async () => {
    const { server, sockets, dropped } = holding()
    server.maxConnections = 1
    server.listen(0, host)
    await once(server, 'listening')
    const own = await dial(server)
    own.write('own')
    await until(() => sockets.has('own'))
    server.close()
    const listener = await listen({ host })
    serve(listener, server)
    const [client] = await fillBacklog(listener, 1)
    client?.write('served')
    sockets.get('own')?.destroy()
    await until(() => sockets.has('served'))
    assert.deepEqual(dropped, [])
  })

  it('closes none of its listeners when connections of an earlier Serving end', async () => {
    const server = http.createServer((_, response) => setImmediate(() => response.end('ok')))
    const listener = await listen({ host })
    for (let life = 0; life < 5; life++) {
      const serving = serve(listener, server)
      const { port } = server.address() as net.AddressInfo
      const response = await fetch(`http://${host}:${port}`, { headers: { connection: 'close' } })
      void serving.close()
      assert.equal(await response.text(), 'ok')
      assert.notEqual(listener.fd, -1)
    }
    await until(async () => (await countOf(server)) === 0)
  })

  for (const way of waysIn) {
    it(`restores its own properties on close(); through ${way.name}`, async () => {
      const server = endLater(net.createServer())
      server.maxConnections = 7
      const names = () =>
        ['_handle', 'maxConnections', '_connections'].map((name) => {
          const property = Object.getOwnPropertyDescriptor(server, name)
          return property && { value: property.value, enumerable: property.enumerable, writable: property.writable }
        })
      const before = names()
      await way.open(server)
      server.maxConnections = 8
      server.maxConnections = 7
      await closing(server)
      assert.deepEqual(names(), before)
    })
  }

  it('drains its first Serving without affecting connections of the second', async () => {
    const held: http.ServerResponse[] = []
    const server = http.createServer((request, response) => {
      if (request.url === '/held') held.push(response)
      else response.end('ok')
    })
    const [one, two] = [await listen({ host }), await listen({ host })]
    const heard = { old: '', fresh: '' }
    const request = (url: string) => `GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`
    const first = serve(one, server)
    const old = await connect(one)
    old.on('data', (data) => (heard.old += data)).write(request('/held'))
    await until(() => held.length === 1)
    void first.close()
    const second = serve(two, server)
    const fresh = await connect(two)
    fresh.on('data', (data) => (heard.fresh += data)).write(request('/1'))
    await until(() => heard.fresh.endsWith('ok'))
    const drained = first.drain({ idleGrace: 0, unusedGrace: 0 })
    held[0]?.end('the last')
    const { finished, idle, unused, destroyed } = await drained
    assert.deepEqual({ finished, idle, unused, destroyed }, { finished: 1, idle: 0, unused: 0, destroyed: 0 })
    assert.match(heard.old, /Connection: close\r\n.*the last/s)
    heard.fresh = ''
    fresh.write(request('/2'))
    await until(() => heard.fresh.endsWith('ok'))
    assert.doesNotMatch(heard.fresh, /Connection: close/)
    fresh.destroy()
    await second.drain()
  })

  it('answers in each Serving, also over a unix socket', async () => {
    const server = endLater(net.createServer((socket) => socket.resume().end('hello')))
    const directory = temporaryDirectory()
    for (const path of ['one', 'two', 'three'].map((name) => join(directory, name))) {
      const listener = await listen({ path })
      const serving = serve(listener, server)
      assert.equal(server.address(), path)
      assert.equal(await text(await dial(server)), 'hello')
      await serving.close({ closeListener: true })
    }
  })
})
