import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { type Connection, type Listener, type Serving, serve } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { captureExceptions, cleanUp, codeOf, connect, gone, listen, target, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'

/** Sends a word. Returns the answer, or '' when the connection closes without an answer. */
async function ask(address: net.NetConnectOpts): Promise<string> {
  const socket = net.connect(address)
  cleanUp(() => socket.destroy())
  socket.end('hello')
  return text(socket).catch(() => '')
}

/** Serves with a function that keeps its connections open for the test. */
async function keeping(options: Parameters<typeof serve>[2]) {
  const listener = await listen({ host })
  const kept: Connection[] = []
  const serving = serve(listener, (connection) => void kept.push(connection), options)
  cleanUp(() => {
    for (const connection of kept) connection.close()
    return serving.close()
  })
  return { listener, serving, kept }
}

const clients = (listener: Listener, count: number) =>
  Promise.all(Array.from({ length: count }, () => connect(listener)))

describe('serve with maxConnections', () => {
  leaveNoFds()

  const room = 10

  /**
   * Connects ten times more clients than `room` to a server that answers only when it is full and all clients have
   * connected. Returns the number of answered clients, and the maximum number of connections at once.
   */
  async function crowd(open: (server: net.Server) => Promise<net.NetConnectOpts>) {
    const seen = { connected: 0, dropped: 0, most: 0 }
    const sockets: net.Socket[] = []
    const server = net.createServer({ allowHalfOpen: true }, async (socket) => {
      sockets.push(socket.on('error', () => {}))
      // Not by 'close': the next connection may arrive before the 'close' of a destroyed socket.
      seen.most = Math.max(seen.most, sockets.filter(({ destroyed }) => !destroyed).length)
      await until(() => seen.connected === 10 * room && seen.most === room)
      if (server.maxConnections === room) await until(() => seen.dropped === 9 * room)
      socket.end('answer')
      socket.resume()
    })
    server.on('drop', () => seen.dropped++)
    const address = await open(server)
    const answers = await Promise.all(
      Array.from({ length: 10 * room }, async () => {
        const socket = net.connect(address)
        cleanUp(() => socket.destroy())
        const answer = text(socket).catch(() => '')
        await once(socket, 'connect')
        seen.connected++
        return answer
      }),
    )
    server.close()
    return { answered: answers.filter((answer) => answer === 'answer').length, most: seen.most }
  }

  it('answers ten times more clients than the limit, and never exceeds the limit', async () => {
    const result = await crowd(async (server) => {
      const listener = await listen({ host })
      serve(listener, server, { maxConnections: room })
      return target(listener)
    })
    assert.deepEqual(result, { answered: 10 * room, most: room })
  })

  it('loses no client, where maxConnections of a listening net.Server drops all beyond the limit', async () => {
    const result = await crowd(async (server) => {
      server.maxConnections = room
      await once(server.listen(0, host), 'listening')
      return { host, port: (server.address() as net.AddressInfo).port }
    })
    assert.deepEqual(result, { answered: room, most: room })
  })

  it('counts a connection until its fd is closed, regardless of its owner', async () => {
    const { listener, serving, kept } = await keeping({ maxConnections: 1 })
    const first = await connect(listener)
    await until(() => kept.length === 1)
    const second = await connect(listener)
    const socket = (kept[0] as Connection).toSocket({ allowHalfOpen: true })
    assert.equal(serving.connections, 1)
    // Both sides have ended the socket, but it is not closed yet.
    first.end()
    await once(socket.resume(), 'end')
    assert.equal(serving.connections, 1)
    assert.equal(kept.length, 1)
    socket.destroy()
    assert.equal(serving.connections, 0)
    await until(() => kept.length === 2)
    assert.equal(serving.connections, 1)
    second.destroy()
  })

  it('accepts again when a socket is reset', async () => {
    const { listener, serving, kept } = await keeping({ maxConnections: 1 })
    const first = await connect(listener)
    await until(() => kept.length === 1)
    await connect(listener)
    const socket = (kept[0] as Connection).toSocket()
    socket.resetAndDestroy()
    assert.equal(serving.connections, 0)
    await gone(first)
    await until(() => kept.length === 2)
  })

  it('keeps serving after clients in the backlog were reset', async () => {
    const listener = await listen({ host })
    const server = http.createServer((_, response) => response.end('answer'))
    const serving = serve(listener, server, { maxConnections: 0 })
    for (const client of await fillBacklog(listener, 5)) client.resetAndDestroy()
    serving.maxConnections = 1
    const response = await fetch(`http://${host}:${(server.address() as net.AddressInfo).port}`)
    assert.equal(await response.text(), 'answer')
    assert.equal(listener.stats.accepted, 6)
    await serving.drain({ idleGrace: 0 })
  })

  it('leaves clients beyond the limit in the backlog', async () => {
    const { listener, serving, kept } = await keeping({ maxConnections: 2 })
    await clients(listener, 5)
    await until(() => kept.length === 2)
    await until(() => listener.backlog().queued === 3)
    assert.equal(listener.pending, 0)
    kept[0]?.close()
    await until(() => kept.length === 3)
    assert.equal(listener.backlog().queued, 2)
    assert.equal(serving.connections, 2)
  })

  it('pauses at 0 and resumes at a higher limit, on the same listening socket', async () => {
    const { listener, serving, kept } = await keeping({ maxConnections: 0 })
    await fillBacklog(listener, 3)
    assert.equal(listener.pending, 0)
    serving.maxConnections = 2
    await until(() => kept.length === 2)
    assert.equal(listener.backlog().queued, 1)
    serving.maxConnections = Infinity
    await until(() => kept.length === 3)
    serving.maxConnections = 0
    assert.equal(listener.pending, 0)
    assert.equal(serving.connections, 3)
    await connect(listener)
    await until(() => listener.backlog().queued === 1)
    assert.equal(kept.length, 3)
  })

  it('closes no connection when the limit becomes lower', async () => {
    const { listener, serving, kept } = await keeping({ maxConnections: 3 })
    await clients(listener, 4)
    await until(() => kept.length === 3)
    serving.maxConnections = 1
    kept[0]?.close()
    kept[1]?.close()
    await until(() => serving.connections === 1)
    assert.equal(listener.pending, 0)
    kept[2]?.close()
    await until(() => kept.length === 4)
  })

  it("keeps the server's own maxConnections from dropping clients", async () => {
    const listener = await listen({ host })
    const server = net.createServer((socket) => socket.on('data', (word) => setImmediate(() => socket.end(word))))
    server.maxConnections = 2
    let dropped = 0
    server.on('drop', () => dropped++)
    const serving = serve(listener, server)
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(target(listener))))
    assert.deepEqual(answers, Array(20).fill('hello'))
    assert.equal(dropped, 0)
    await serving.close()
  })

  it('rejects an invalid number of connections', async () => {
    const { serving } = await keeping({})
    for (const wrong of [-1, 1.5, Number.NaN]) {
      assert.throws(() => (serving.maxConnections = wrong), { code: 'ERR_OUT_OF_RANGE' })
    }
    assert.throws(() => (serving.maxConnections = '5' as unknown as number), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.equal(serving.maxConnections, Infinity)
  })
})

describe('serve with alarm', () => {
  leaveNoFds()

  const heard = (serving: Serving) => {
    const alarms: { threshold: number; connections: number }[] = []
    serving.on('alarm', (alarm) => alarms.push(alarm))
    return alarms
  }

  it('fires when the number of connections reaches the threshold, once per cooldown', async () => {
    const { listener, serving, kept } = await keeping({ alarm: { threshold: 2, cooldown: 3_600_000 } })
    const alarms = heard(serving)
    await clients(listener, 1)
    await until(() => kept.length === 1)
    assert.deepEqual(alarms, [])
    await clients(listener, 3)
    await until(() => kept.length === 4)
    assert.deepEqual(alarms, [{ threshold: 2, connections: 2 }])
  })

  it('fires again for each connection after the cooldown', async () => {
    const { listener, serving, kept } = await keeping({ alarm: { threshold: 2, cooldown: 0 } })
    const alarms = heard(serving)
    await clients(listener, 3)
    await until(() => kept.length === 3)
    assert.deepEqual(
      alarms.map(({ connections }) => connections),
      [2, 3],
    )
  })

  it('may have several thresholds', async () => {
    const alarm = [
      { threshold: 1, cooldown: 3_600_000 },
      { threshold: 3, cooldown: 3_600_000 },
    ]
    const { listener, serving, kept } = await keeping({ alarm })
    const alarms = heard(serving)
    await clients(listener, 4)
    await until(() => kept.length === 4)
    assert.deepEqual(
      alarms.map(({ threshold }) => threshold),
      [1, 3],
    )
  })

  it('loses no connections when a handler throws', async () => {
    const { listener, serving, kept } = await keeping({ alarm: { threshold: 1, cooldown: 0 } })
    const thrown = captureExceptions()
    serving.on('alarm', () => {
      throw new Error('alarmed')
    })
    const [client] = await clients(listener, 3)
    await until(() => kept.length === 3 && thrown.length === 3)
    for (const connection of kept) connection.close()
    await gone(client as net.Socket)
  })

  it('rejects an invalid threshold or cooldown', async () => {
    const listener = await listen({ host })
    for (const alarm of [{ threshold: 0 }, { threshold: 1.5 }, { threshold: 1, cooldown: -1 }]) {
      assert.throws(
        () => serve(listener, () => {}, { alarm }),
        (error) => codeOf(error) === 'ERR_OUT_OF_RANGE',
      )
    }
  })
})
