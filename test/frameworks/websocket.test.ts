import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import { Server } from 'socket.io'
import { io as connectIo, type ManagerOptions } from 'socket.io-client'
import { WebSocket, WebSocketServer } from 'ws'
import { cleanUp, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { assertEnded, closeServer, serveOnLoopback } from './served.js'

describe('serve() with ws', () => {
  leaveNoFds()

  it('carries messages in both directions, and closes from both sides', async () => {
    const server = http.createServer((_request, response) => response.end('plain'))
    const sockets = new WebSocketServer({ server, perMessageDeflate: true })
    sockets.on('connection', (socket) => {
      socket.on('message', (data, binary) => socket.send(data, { binary }))
    })
    const listening = once(sockets, 'listening')
    const served = await serveOnLoopback(server)
    await listening
    assert.deepEqual(sockets.address(), served.listener.address())

    const clients = [1, 2, 3].map(() => new WebSocket(`ws://${served.host}`))
    cleanUp(() => {
      for (const client of clients) client.terminate()
    })
    await Promise.all(
      clients.map(async (client) => {
        await once(client, 'open')
        const message = randomBytes(1_000_000)
        client.send(message)
        assert.deepEqual(await once(client, 'message'), [message, true])
        client.ping('still there?')
        assert.deepEqual(await once(client, 'pong'), [Buffer.from('still there?')])
      }),
    )
    assert.equal(await (await fetch(`http://${served.host}`)).text(), 'plain')
    assert.equal(served.serving.connections, 4)

    const farewells = clients.map((client) => once(client, 'close'))
    for (const socket of sockets.clients) socket.close(1001, 'going away')
    // ws does not close a server that it did not create.
    const closed = once(sockets, 'close')
    sockets.close()
    await Promise.all([closed, closeServer(server)])
    for (const farewell of farewells) assert.deepEqual(await farewell, [1001, Buffer.from('going away')])
    await assertEnded(served)
  })
})

describe('serve() with socket.io', () => {
  leaveNoFds()

  const ways: Record<string, NonNullable<ManagerOptions['transports']>> = {
    'a WebSocket': ['websocket'],
    'long polling': ['polling'],
    'long polling that becomes a WebSocket': ['polling', 'websocket'],
  }

  for (const [way, transports] of Object.entries(ways)) {
    it(`carries events over ${way}, and closes with io.close()`, async () => {
      const server = http.createServer()
      const io = new Server(server)
      io.on('connection', (socket) => {
        socket.on('greet', (name: string, answer: (greeting: string) => void) => answer(`hello ${name}`))
      })
      const served = await serveOnLoopback(server)
      const clients = [1, 2].map(() =>
        connectIo(`http://${served.host}`, { transports, reconnection: false, forceNew: true }),
      )
      cleanUp(() => {
        for (const client of clients) client.disconnect()
      })
      for (const client of clients) assert.equal(await client.emitWithAck('greet', 'you'), 'hello you')
      const last = transports.at(-1)
      await until(() => clients.every((client) => client.io.engine.transport.name === last))

      const news = clients.map((client) => new Promise((resolve) => client.on('news', resolve)))
      io.emit('news', Buffer.from('today'))
      for (const heard of await Promise.all(news)) assert.deepEqual(Buffer.from(heard as Buffer), Buffer.from('today'))

      const farewells = clients.map((client) => new Promise((resolve) => client.on('disconnect', resolve)))
      await io.close()
      // A client that polls after the close receives an error.
      for (const reason of await Promise.all(farewells)) assert.match(String(reason), /^transport (close|error)$/)
      await assertEnded(served)
    })
  }
})
