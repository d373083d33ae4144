import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { type Listener, type Serving, type ServingState, serve } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { collect, connect, gone, listen, refsOf, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { closing, endLater } from '../ways-in.js'

const host = '127.0.0.1'

/** Counts the calls of server.close(), and the 'close' events of both. */
function countEnds(server: net.Server, serving: Serving) {
  const seen = { calls: 0, server: 0, serving: 0 }
  const { close } = server
  server.close = function (...args) {
    seen.calls++
    return close.apply(this, args)
  }
  server.on('close', () => seen.server++)
  serving.on('close', () => seen.serving++)
  return seen
}

describe('The state of a Serving', () => {
  leaveNoFds()

  it("goes from 'serving' through 'draining' to 'closed'", async () => {
    const listener = await listen({ host })
    const server = http.createServer((_, response) => void held.push(response))
    const held: http.ServerResponse[] = []
    const serving = serve(listener, server)
    const client = await connect(listener)
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => held.length === 1)
    const states: ServingState[] = [serving.state]
    const drained = serving.drain()
    states.push(serving.state)
    held[0]?.end()
    await drained
    states.push(serving.state)
    assert.deepEqual(states, ['serving', 'draining', 'closed'])
  })

  for (const [how, end] of [
    ['close()', (serving: Serving) => serving.close()],
    ['server.close()', (_: Serving, server: net.Server) => closing(server)],
    ['listener.close()', ({ listener }: Serving) => listener.close()],
    ['listener.detach()', ({ listener }: Serving) => process.nextTick(() => assert.equal(listener.fd, -1))],
  ] as const) {
    it(`is 'closing' after ${how} until the last connection has ended`, async () => {
      const listener = await listen({ host })
      const sockets: net.Socket[] = []
      const server = endLater(net.createServer((socket) => sockets.push(socket)))
      const serving = serve(listener, server)
      await connect(listener)
      await until(() => sockets.length === 1)
      let detached = -1
      if (how === 'listener.detach()') detached = listener.detach()
      void end(serving, server)
      await until(() => serving.state !== 'serving')
      assert.equal(serving.state, 'closing')
      const over = once(serving, 'close')
      sockets[0]?.destroy()
      await over
      assert.equal(serving.state, 'closed')
      if (detached >= 0) new net.Socket({ fd: detached }).destroy()
    })
  }
})

describe('A Serving', () => {
  leaveNoFds()

  const rooms: [when: string, options: { maxConnections?: number }, connections: number][] = [
    ['at limit 0', { maxConnections: 0 }, 0],
    ['at the limit', { maxConnections: 1 }, 1],
    ['below the limit, without connections', { maxConnections: 2 }, 0],
    ['below the limit, with a connection', { maxConnections: 2 }, 1],
    ['without a limit', {}, 1],
  ]
  const ends: [how: string, end: (serving: Serving, server: net.Server) => unknown][] = [
    ['server.close()', (_, server) => server.close()],
    ['serving.close()', (serving) => serving.close()],
    ['serving.close({ closeListener })', (serving) => serving.close({ closeListener: true })],
    ['listener.close()', ({ listener }) => listener.close()],
    ['drain()', (serving) => serving.drain({ timeout: 0 })],
    ['an aborted signal', (serving) => abort.get(serving)?.abort()],
    [
      'all of these at once',
      (serving) => {
        void serving.drain({ timeout: 0 })
        void serving.close()
        void serving.listener.close()
      },
    ],
  ]
  const abort = new WeakMap<Serving, AbortController>()

  for (const [when, options, connections] of rooms) {
    for (const [how, end] of ends) {
      it(`emits 'close' once after ${how}, ${when}`, async () => {
        const listener = await listen({ host })
        const sockets: net.Socket[] = []
        const server = endLater(net.createServer((socket) => sockets.push(socket)))
        const ending = new AbortController()
        const serving = serve(listener, server, { ...options, signal: ending.signal })
        abort.set(serving, ending)
        for (let i = 0; i < connections; i++) await connect(listener)
        await until(() => sockets.length === connections)
        const seen = countEnds(server, serving)
        const over = once(serving, 'close')
        end(serving, server)
        for (const socket of sockets) socket.destroy()
        await over
        await serving.close()
        await serving.drain()
        assert.deepEqual(seen, { calls: 1, server: 1, serving: 1 })
      })
    }
  }

  const idleEnds: [how: string, end: (serving: Serving, server: net.Server) => unknown, calls: number][] = [
    ['serving.close()', (serving) => serving.close(), 1],
    ['server.close()', (_, server) => server.close(), 1],
    [
      'server.close() during a drain',
      (serving, server) => {
        void serving.drain()
        server.close()
      },
      1,
    ],
  ]
  for (const [how, end, calls] of idleEnds) {
    it(`emits 'close' once after ${how} when Node then closes the last connection, which is idle`, async () => {
      const listener = await listen({ host })
      const server = http.createServer((_, response) => response.end('ok'))
      const serving = serve(listener, server)
      const client = await connect(listener)
      client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      await once(client, 'data')
      const seen = countEnds(server, serving)
      const over = once(serving, 'close')
      end(serving, server)
      await over
      assert.deepEqual(seen, { calls, server: 1, serving: 1 })
    })
  }

  it("emits 'close' once when the limit becomes 0 and the 'close' handler ends the serving again", async () => {
    const listener = await listen({ host })
    const server = http.createServer()
    const serving = serve(listener, server)
    serving.maxConnections = 0
    const seen = countEnds(server, serving)
    server.on('close', () => serving.close())
    listener.on('close', () => server.listening && server.close())
    const over = once(serving, 'close')
    server.close()
    await over
    assert.deepEqual(seen, { calls: 1, server: 1, serving: 1 })
  })
})

describe('The first call that ends a Serving', () => {
  leaveNoFds()

  /** Ends a serving twice. Returns whether the listener is open afterwards. */
  async function openAfter(first: (serving: Serving) => unknown, second: (serving: Serving) => unknown) {
    const listener = await listen({ host })
    const sockets: net.Socket[] = []
    const server = endLater(net.createServer((socket) => sockets.push(socket)))
    servers.set(listener, server)
    const serving = serve(listener, server)
    await connect(listener)
    await until(() => sockets.length === 1)
    const over = once(serving, 'close')
    first(serving)
    second(serving)
    sockets[0]?.destroy()
    await over
    return listener.fd >= 0
  }

  const servers = new WeakMap<Listener, net.Server>()
  const closeServer = ({ listener }: Serving) => servers.get(listener)?.close()
  const keep: Record<string, (serving: Serving) => unknown> = {
    'drain()': (serving) => serving.drain(),
    'close()': (serving) => serving.close(),
  }
  const end: Record<string, (serving: Serving) => unknown> = {
    'server.close()': closeServer,
    'drain({ closeListener })': (serving) => serving.drain({ closeListener: true }),
    'close({ closeListener })': (serving) => serving.close({ closeListener: true }),
  }
  for (const [one, keeps] of Object.entries(keep)) {
    for (const [two, ends] of Object.entries(end)) {
      it(`decides about the listener: ${one} before ${two} leaves it open`, async () => {
        assert.equal(await openAfter(keeps, ends), true)
      })
      it(`decides about the listener: ${two} before ${one} closes it`, async () => {
        assert.equal(await openAfter(ends, keeps), false)
      })
    }
  }
})

describe('A listener that is closed during a drain', () => {
  leaveNoFds()

  it('releases its port at once, while the drain continues', async () => {
    const listener = await listen({ host })
    const held: http.ServerResponse[] = []
    const serving = serve(
      listener,
      http.createServer((_, response) => void held.push(response)),
    )
    const client = await connect(listener)
    client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => held.length === 1)
    const drained = serving.drain()
    const [waiting] = await fillBacklog(listener, 1)
    const { port } = listener.address() as net.AddressInfo
    await listener.close()
    await gone(waiting as net.Socket)
    const next = await listen({ host, port })
    assert.equal(next.backlog().queued, 0)
    assert.equal(serving.state, 'draining')
    held[0]?.end()
    const { finished, destroyed } = await drained
    assert.deepEqual([finished, destroyed], [1, 0])
  })
})

describe('The requests of a Serving', () => {
  leaveNoFds()

  it("are private: 'accept' handlers receive none of its connections, and cancel() ignores their refs", async () => {
    const listener = await listen({ host })
    const results = collect(listener)
    const server = endLater(net.createServer((socket) => socket.resume().end('served')))
    const serving = serve(listener, server)
    const own = listener.asyncAccept()
    const cancelled = Array.from({ length: 100 }, (_, ref) => listener.cancel(ref)).filter(Boolean)
    assert.equal(cancelled.length, own < 100 ? 1 : 0)
    const client = await connect(listener)
    await gone(client)
    client.destroy()
    assert.deepEqual(refsOf(results), [])
    await serving.drain()
  })

  it('share the queue with the requests of an application, in order', async () => {
    const listener = await listen({ host })
    const before = listener.accept()
    const server = endLater(net.createServer((socket) => socket.resume().end('served')))
    const serving = serve(listener, server, { maxConnections: 1 })
    const client = await connect(listener)
    const connection = await before
    assert.equal(connection.remotePort, client.localPort)
    connection.close()
    const next = await connect(listener)
    await gone(next)
    next.destroy()
    await serving.drain()
  })

  it('survive removeAllListeners() on every object', async () => {
    const listener = await listen({ host })
    const sockets: net.Socket[] = []
    const server = endLater(net.createServer((socket) => sockets.push(socket)))
    const serving = serve(listener, server)
    listener.removeAllListeners()
    const [client] = [await connect(listener)]
    await until(() => sockets.length === 1)
    server.removeAllListeners()
    sockets[0]?.removeAllListeners()
    serving.removeAllListeners()
    const report = await serving.drain({ timeout: 0, closeListener: true })
    assert.equal(report.destroyed, 1)
    await gone(client as net.Socket)
    assert.equal(listener.fd, -1)
  })
})
