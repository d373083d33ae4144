import assert from 'node:assert/strict'
import { once } from 'node:events'
import { stat } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Connection, Listener, type ServeOptions, serve } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { cleanUp, codeOf, connect, gone, listen, target, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { hasIpv6, skip } from '../needs.js'

const host = '127.0.0.1'
const request = 'GET / HTTP/1.0\r\n\r\n'

const tcp = () => listen({ host })
const unix = () => listen({ path: join(temporaryDirectory(), 'socket') })

type Target = net.Server | ((connection: Connection) => unknown)

/** Serves until the test ends. */
function served(listeners: readonly Listener[], to: Target, options?: ServeOptions) {
  const serving = serve(listeners, to, options)
  cleanUp(() => serving.drain({ timeout: 0 }))
  return serving
}

const answering = () => http.createServer((_, response) => response.end('hello'))

async function answerOf(listener: Listener): Promise<string> {
  const client = await connect(listener)
  client.end(request)
  return (await text(client)).split('\r\n\r\n')[1] ?? ''
}

const pending = (listeners: readonly Listener[]) => listeners.map((each) => each.pending)

async function settle(): Promise<void> {
  for (let turn = 0; turn < 6; turn++) await nextTurn()
}

describe('serve with several listeners', () => {
  leaveNoFds()

  it('drives one server with the connections of all', async () => {
    const listeners = [await tcp(), await unix(), await tcp()]
    const server = answering()
    const serving = served(listeners, server)
    for (const listener of listeners) assert.equal(await answerOf(listener), 'hello')
    assert.deepEqual(server.address(), listeners[0]?.address())
    assert.equal(serving.listener, listeners[0])
    assert.deepEqual(serving.servedListeners, listeners)
    assert.throws(() => (serving.servedListeners as Listener[]).push(listeners[0] as Listener), TypeError)
  })

  it('drives one server on a unix socket first, and on TCP', async () => {
    const listeners = [await unix(), await tcp()]
    const server = answering()
    served(listeners, server)
    for (const listener of listeners) assert.equal(await answerOf(listener), 'hello')
    assert.equal(server.address(), listeners[0]?.address())
  })

  it('drives one server on IPv4 and IPv6', async function () {
    if (!hasIpv6) return skip(this, 'there is no ::1')
    const families: unknown[] = []
    const first = await tcp()
    const second = await listen({ host: '::1', port: first.port, ipv6Only: true })
    const server = net.createServer((socket) => {
      families.push(socket.remoteFamily)
      socket.end()
    })
    served([first, second], server)
    for (const listener of [first, second]) await gone(await connect(listener))
    assert.deepEqual(families, ['IPv4', 'IPv6'])
  })

  it('accepts an array with one listener', async () => {
    const listener = await tcp()
    const serving = served([listener], answering())
    assert.equal(await answerOf(listener), 'hello')
    assert.deepEqual(serving.servedListeners, [listener])
  })

  it('copies the array', async () => {
    const listeners = [await tcp(), await unix()]
    const [, second] = listeners as [Listener, Listener]
    const serving = served(listeners, answering())
    listeners.pop()
    assert.equal(serving.servedListeners.length, 2)
    assert.equal(await answerOf(second), 'hello')
  })

  it('divides the accept requests', async () => {
    const listeners = [await tcp(), await tcp(), await unix()]
    const serving = served(listeners, () => {}, { maxConnections: 10 })
    assert.deepEqual(pending(listeners), [4, 3, 3])
    serving.maxConnections = 3
    assert.deepEqual(pending(listeners), [1, 1, 1])
    serving.maxConnections = Number.POSITIVE_INFINITY
    assert.deepEqual(pending(listeners), [64, 64, 64])
    serving.pause()
    assert.deepEqual(pending(listeners), [0, 0, 0])
    serving.resume().maxRate = 4
    assert.deepEqual(pending(listeners), [2, 1, 1])
  })

  it('accepts on any listener when there is room for one connection', async () => {
    const listeners = [await tcp(), await tcp(), await unix()]
    const open: Connection[] = []
    const serving = served(listeners, (connection) => open.push(connection), { maxConnections: 1 })
    for (const listener of [...listeners, ...listeners.reverse()]) {
      await connect(listener)
      await until(() => serving.connections === 1)
      assert.deepEqual(pending(listeners), [0, 0, 0])
      open.pop()?.close()
    }
  })

  it('applies maxRate to all listeners together', async () => {
    const listeners = [await tcp(), await tcp()]
    const serving = served(listeners, (connection) => connection.close(), { maxRate: 1 })
    let accepted = 0
    const counted = () => {
      accepted = listeners.reduce((sum, { stats }) => sum + stats.accepted, 0)
      return accepted
    }
    for (const listener of listeners) await connect(listener)
    await until(() => counted() === 1)
    await settle()
    assert.equal(counted(), 1)
    serving.maxRate = Number.POSITIVE_INFINITY
    await until(() => counted() === 2)
  })

  // The phase of the event loop in which a connection ends decides which listener libuv would ask first.
  const ends: [when: string, end: (close: () => void) => unknown][] = [
    ['at once', (close) => close()],
    ['in a tick', (close) => process.nextTick(close)],
    ['in the check phase', (close) => setImmediate(close)],
    ['in the check phase of the next turn', (close) => setImmediate(() => setImmediate(close))],
    ['in the poll phase', (close) => stat('.', close)],
    ['in the timers phase', (close) => setTimeout(close, 1)],
  ]
  for (const count of [2, 3]) {
    for (const [when, end] of ends) {
      it(`accepts from ${count} busy listeners in turn when connections end ${when}`, async () => {
        const listeners: Listener[] = []
        for (let each = 0; each < count; each++) listeners.push(await tcp())
        const order: (number | undefined)[] = []
        const serving = served(
          listeners,
          (connection) => {
            assert.ok(serving.connections <= 1)
            order.push(connection.localPort)
            end(() => connection.close())
          },
          { maxConnections: 1 },
        )
        serving.pause()
        const each = 12
        for (const listener of listeners) await fillBacklog(listener, each)
        serving.resume()
        await until(() => order.length === each * count)
        for (let at = 0; at < order.length; at += count)
          assert.equal(new Set(order.slice(at, at + count)).size, count, `connections from ${at}: ${order}`)
      })
    }
  }

  it('accepts from a listener at once while the others are idle', async () => {
    const listeners = [await tcp(), await tcp()]
    const [, busy] = listeners as [Listener, Listener]
    let accepted = 0
    const serving = served(
      listeners,
      (connection) => {
        accepted++
        connection.close()
      },
      { maxConnections: 1 },
    )
    serving.pause()
    await fillBacklog(busy, 20)
    serving.resume()
    await until(() => accepted === 20)
  })

  it('never exceeds the limit, and serves every client', async () => {
    const listeners = [await tcp(), await unix(), await tcp(), await tcp()]
    let accepted = 0
    let most = 0
    const serving = served(
      listeners,
      (connection) => {
        accepted++
        most = Math.max(most, serving.connections)
        const close = () => connection.close()
        const ends = [close, () => setImmediate(close), () => setTimeout(close, 1), () => process.nextTick(close)]
        ends[accepted % ends.length]?.()
      },
      { maxConnections: 3 },
    )
    const clients = Array.from({ length: 200 }, async (_, index) => {
      const client = net.connect(target(listeners[(index * 7) % 4] as Listener))
      cleanUp(() => client.destroy())
      await gone(client)
    })
    await Promise.all(clients)
    assert.equal(accepted, 200)
    assert.ok(most <= 3, `${most}`)
  })

  it('has one open connection at a time with a limit of 1, as the clients see it, while a listener closes', async () => {
    const listeners = [await tcp(), await unix(), await tcp()]
    const closing = listeners[0] as Listener
    const server = net.createServer((socket) => {
      socket.write('hello')
      setTimeout(() => socket.end(), Math.random() * 2)
    })
    served(listeners, server, { maxConnections: 1 })
    let open = 0
    let most = 0
    let ended = 0
    const greeted = new Map(listeners.map((listener) => [listener, 0]))
    const clients = Array.from({ length: 180 }, async (_, index) => {
      const listener = listeners[index % 3] as Listener
      const client = net.connect(target(listener))
      cleanUp(() => client.destroy())
      client.on('error', () => {})
      client.once('data', () => {
        greeted.set(listener, (greeted.get(listener) ?? 0) + 1)
        most = Math.max(most, ++open)
      })
      client.on('end', () => {
        open--
        if (++ended === 45) void closing.close()
      })
      await gone(client)
    })
    await Promise.all(clients)
    assert.equal(most, 1)
    const [cut, ...others] = greeted.values()
    assert.deepEqual(others, [60, 60])
    // The kernel has reset the clients in the accept queue of the listener that was closed.
    assert.ok((cut as number) > 0 && (cut as number) < 60, `${cut}`)
  })

  it('keeps the limit of the server', async () => {
    const listeners = [await tcp(), await tcp()]
    const server = net.createServer()
    server.maxConnections = 1
    server.on('drop', () => assert.fail('the server dropped a connection'))
    served(listeners, server)
    for (const listener of listeners) await connect(listener)
    await until(() => listeners.some(({ stats }) => stats.accepted === 1))
    await settle()
    assert.equal(
      listeners.reduce((sum, { stats }) => sum + stats.accepted, 0),
      1,
    )
  })
})

describe('The end of one of several listeners', () => {
  leaveNoFds()

  for (const [which, index] of [
    ['first', 0],
    ['last', 1],
  ] as const) {
    it(`leaves the others served when the ${which} is closed`, async () => {
      const listeners = [await tcp(), await tcp()]
      const server = answering()
      const serving = served(listeners, server, { maxConnections: 6 })
      const address = server.address()
      const ended = listeners[index] as Listener
      const other = listeners[1 - index] as Listener
      const to = target(ended)
      void ended.close()
      const [error] = await once(net.connect(to), 'error')
      assert.equal(codeOf(error), 'ECONNREFUSED')
      assert.equal(await answerOf(other), 'hello')
      assert.deepEqual([serving.state, server.listening, other.pending], ['serving', true, 6])
      assert.deepEqual(server.address(), address)
      const closed = once(serving, 'close')
      await other.close()
      await closed
      assert.equal(server.listening, false)
    })
  }

  it('leaves the others served when it is detached', async () => {
    const listeners = [await tcp(), await tcp()]
    const [first, second] = listeners as [Listener, Listener]
    const serving = served(listeners, answering())
    const again = Listener.fromFd(first.detach())
    cleanUp(() => again.close())
    assert.equal(await answerOf(second), 'hello')
    assert.equal(serving.state, 'serving')
    const next = served([again], answering())
    assert.equal(await answerOf(again), 'hello')
    await next.close()
  })

  it('ends serving when all are closed in one tick', async () => {
    const listeners = [await tcp(), await tcp()]
    const serving = served(listeners, answering())
    const closed = once(serving, 'close')
    for (const listener of listeners) void listener.close()
    await closed
    assert.equal(serving.state, 'closed')
  })
})

describe('The end of serving several listeners', () => {
  leaveNoFds()

  const ends = {
    'serving.close({ closeListener: true })': true,
    'drain({ closeListener: true })': true,
    'server.close()': true,
    'serving.close()': false,
    'drain()': false,
  } as const
  for (const [how, closes] of Object.entries(ends)) {
    it(`${closes ? 'closes' : 'leaves open'} all of them after ${how}`, async () => {
      const listeners = [await tcp(), await unix()]
      const server = answering()
      const serving = served(listeners, server)
      serving.unref()
      const closed = once(serving, 'close')
      if (how === 'server.close()') server.close()
      else if (how.startsWith('drain')) void serving.drain({ closeListener: closes })
      else void serving.close({ closeListener: closes })
      await closed
      assert.deepEqual(
        listeners.map(({ fd }) => fd < 0),
        [closes, closes],
      )
      if (closes) return
      assert.deepEqual(pending(listeners), [0, 0])
      served(listeners, answering())
      for (const listener of listeners) assert.equal(await answerOf(listener), 'hello')
    })
  }
})

describe('serve with an invalid array of listeners', () => {
  leaveNoFds()

  async function refused(listeners: unknown, code: string, message: RegExp): Promise<void> {
    const server = net.createServer()
    for (const to of [server, () => {}])
      assert.throws(() => serve(listeners as Listener[], to as never), { code, message })
    assert.equal(server.listening, false)
    for (const each of Array.isArray(listeners) ? listeners : [])
      if (each instanceof Listener) assert.equal(each.pending, 0)
  }

  it('rejects an empty array', () => refused([], 'ERR_INVALID_ARG_VALUE', /'listener' must not be empty/))

  it('rejects an element that is not a Listener', async () => {
    for (const value of [undefined, null, 3, net.createServer(), [await tcp()]])
      await refused([await tcp(), value], 'ERR_INVALID_ARG_TYPE', /"listener\[1\]"/)
  })

  it('rejects an iterable other than an array', async () => {
    await refused(new Set([await tcp()]), 'ERR_INVALID_ARG_TYPE', /"listener"/)
  })

  it('rejects a listener that is in the array twice', async () => {
    const listener = await tcp()
    await refused(
      [listener, await tcp(), listener],
      'ERR_INVALID_ARG_VALUE',
      /'listener\[2\]' is also an earlier element/,
    )
  })

  it('rejects a closed listener', async () => {
    const closed = await tcp()
    await closed.close()
    await refused([await tcp(), closed], 'ERR_LISTENER_CLOSED', /closed/)
  })
})
