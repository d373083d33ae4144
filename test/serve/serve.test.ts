import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { serve } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { socketOptions } from '../descriptors.js'
import { cleanUp, codeOf, gone, listen, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsFamilyOf, skip } from '../needs.js'
import { closing, connected, countOf, dial, waysIn } from '../ways-in.js'

type Options = net.ServerOpts & { blockList?: net.BlockList }

const fdOf = (socket: net.Socket) => (socket as unknown as { _handle: { fd: number } })._handle.fd

for (const { name, open } of waysIn) {
  describe(`A net.Server that gets its connections through ${name}`, () => {
    leaveNoFds()

    async function accepted(options: Options) {
      const server = net.createServer(options)
      await open(server)
      return { server, ...(await connected(server)) }
    }

    it('sets noDelay, keepAlive and keepAliveInitialDelay on each socket', async () => {
      const { socket } = await accepted({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 7000 })
      assert.deepEqual(socketOptions(fdOf(socket)), { noDelay: true, keepAlive: true, keepIdle: 7 })
      socket.setNoDelay(false).setKeepAlive(false)
      const { noDelay, keepAlive } = socketOptions(fdOf(socket))
      assert.deepEqual([noDelay, keepAlive], [false, false])
    })

    it('sets no socket option by default', async () => {
      const { socket } = await accepted({})
      const { noDelay, keepAlive } = socketOptions(fdOf(socket))
      assert.deepEqual([noDelay, keepAlive], [false, false])
    })

    it('sets its highWaterMark on each socket', async () => {
      const { socket } = await accepted({ highWaterMark: 1234 })
      assert.deepEqual([socket.readableHighWaterMark, socket.writableHighWaterMark], [1234, 1234])
      const { socket: other } = await accepted({})
      const unasked = new net.Socket()
      assert.equal(other.readableHighWaterMark, unasked.readableHighWaterMark)
    })

    it('keeps its side open only with allowHalfOpen', async () => {
      for (const allowHalfOpen of [true, false]) {
        const server = net.createServer({ allowHalfOpen })
        await open(server)
        const { socket, client } = await connected(server, { allowHalfOpen: true })
        assert.equal(socket.allowHalfOpen, allowHalfOpen)
        const ended = once(socket.resume(), 'end')
        client.end()
        await ended
        assert.equal(socket.writableEnded, !allowHalfOpen)
        socket.end('still here')
        assert.equal(await text(client), allowHalfOpen ? 'still here' : '')
      }
    })

    it('does not read before resume() with pauseOnConnect', async () => {
      const { socket, client } = await accepted({ pauseOnConnect: true })
      assert.equal(socket.isPaused(), true)
      client.end('later')
      socket.on('data', () => assert.equal(resumed, true))
      const resumed = true
      assert.equal(await text(socket.resume()), 'later')
    })

    it('drops connections from addresses in its blockList', async function () {
      const blockList = new net.BlockList()
      blockList.addAddress('127.0.0.1')
      const server = net.createServer({ blockList } as Options)
      if (!('blockList' in server)) {
        skip(this, `net.Server of Node ${process.versions.node} has no blockList`)
      }
      await open(server)
      server.on('connection', () => assert.fail('unexpected connection event'))
      const client = await dial(server)
      await gone(client)
      assert.equal(await countOf(server), 0)
    })

    it('counts its connections until they close', async () => {
      const { server, socket } = await accepted({})
      const { socket: second } = await connected(server)
      assert.equal(await countOf(server), 2)
      socket.destroy()
      await once(socket, 'close')
      assert.equal(await countOf(server), 1)
      second.resetAndDestroy()
      await once(second, 'close')
      assert.equal(await countOf(server), 0)
    })

    it('is the server property of its sockets', async () => {
      const { server, socket } = await accepted({})
      assert.equal((socket as unknown as { server: net.Server }).server, server)
    })

    for (const [host, family] of [
      ['127.0.0.1', 'IPv4'],
      ['::1', 'IPv6'],
    ] as const) {
      it(`has an address over ${family}, as have both ends of its sockets`, async function () {
        needsFamilyOf(this, host)
        const server = net.createServer()
        await open(server, { host })
        const { socket, client } = await connected(server)
        const { port } = server.address() as net.AddressInfo
        assert.deepEqual(server.address(), { address: host, family, port: client.remotePort })
        assert.deepEqual(socket.address(), { address: host, family, port })
        assert.deepEqual([socket.localAddress, socket.localPort, socket.localFamily], [host, port, family])
        assert.deepEqual(
          [socket.remoteAddress, socket.remotePort, socket.remoteFamily],
          [host, client.localPort, family],
        )
      })
    }

    for (const [kind, makePath] of [
      ['path', () => join(temporaryDirectory(), 'socket')],
      // net.connect of Node 20 pads abstract names with null bytes.
      ['abstract name', () => `\0async-accept-${process.pid}-${Math.random()}`.padEnd(108, '\0')],
    ] as const) {
      it(`returns the ${kind} of a unix socket from address()`, async () => {
        const path = makePath()
        const server = net.createServer()
        await open(server, { path })
        assert.equal(server.address(), path)
        const { socket, client } = await connected(server)
        assert.equal(socket.remoteAddress, undefined)
        assert.equal(await countOf(server), 1)
        socket.end('hello')
        assert.equal(await text(client), 'hello')
      })
    }

    it("is listening as soon as the call returns, and emits 'close' after its last connection has ended", async () => {
      const server = net.createServer()
      const events: string[] = []
      for (const event of ['listening', 'connection', 'close', 'error', 'drop']) {
        server.on(event, () => events.push(event))
      }
      assert.equal(server.listening, false)
      assert.equal(server.address(), null)
      await open(server)
      assert.equal(server.listening, true)
      const { socket } = await connected(server)
      const closed = closing(server)
      assert.equal(server.listening, false)
      assert.equal(server.address(), null)
      assert.equal(await countOf(server), 1)
      assert.deepEqual(events, ['listening', 'connection'])
      socket.destroy()
      assert.equal(await closed, undefined)
      assert.deepEqual(events, ['listening', 'connection', 'close'])
    })

    it('reports an error when closed twice', async () => {
      const server = net.createServer()
      await open(server)
      assert.equal(await closing(server), undefined)
      assert.equal(codeOf(await closing(server)), 'ERR_SERVER_NOT_RUNNING')
      await assert.rejects(async () => {
        const error = await closing(server)
        if (error) throw error
      }, /not running/)
    })

    it('waits in asyncDispose for its connections to end', async () => {
      const { server, socket } = await accepted({})
      const disposed = server[Symbol.asyncDispose]()
      assert.equal(server.listening, false)
      const closed = once(server, 'close')
      socket.destroy()
      await Promise.all([disposed, closed])
      await server[Symbol.asyncDispose]()
    })

    it('refuses clients after it is closed', async () => {
      const server = net.createServer()
      const port = reservedPort()
      await open(server, { host: '127.0.0.1', port })
      await closing(server)
      const client = net.connect(port, '127.0.0.1')
      const [error] = await once(client, 'error')
      assert.equal(codeOf(error), 'ECONNREFUSED')
    })

    it('cannot listen again before close(), and can listen or be served afterwards', async () => {
      const server = net.createServer((socket) => socket.resume().end('hello'))
      await open(server)
      const listener = await listen({ host: '127.0.0.1' })
      assert.throws(() => serve(listener, server), { code: 'ERR_SERVER_ALREADY_LISTEN' })
      assert.equal(listener.pending, 0)
      assert.throws(() => server.listen(0), { code: 'ERR_SERVER_ALREADY_LISTEN' })
      assert.equal(await text(await dial(server)), 'hello')
      for (const way of waysIn) {
        await closing(server)
        await way.open(server)
        assert.equal(await text(await dial(server)), 'hello')
      }
    })

    it("receives no further connection after it closes in its own 'connection' handler", async () => {
      const server = net.createServer()
      await open(server)
      // The clients wait in the backlog before this event loop polls again.
      const { port } = server.address() as net.AddressInfo
      const clients = Array.from({ length: 10 }, () => net.connect(port, '127.0.0.1').on('error', () => {}))
      for (const client of clients) cleanUp(() => client.destroy())
      let sockets = 0
      server.on('connection', (socket) => {
        sockets++
        server.close()
        socket.destroy()
      })
      await once(server, 'close')
      await Promise.all(clients.map(gone))
      assert.equal(sockets, 1)
      assert.equal(server.address(), null)
    })

    it("publishes each socket on 'net.server.socket'", async () => {
      const published: unknown[] = []
      const note = (message: unknown) => published.push((message as { socket: net.Socket }).socket)
      diagnostics.subscribe('net.server.socket', note)
      cleanUp(() => diagnostics.unsubscribe('net.server.socket', note))
      const { server, socket } = await accepted({})
      const { socket: second } = await connected(server)
      assert.deepEqual(published.length, 2)
      assert.ok(published[0] === socket && published[1] === second)
    })

    it('runs its handlers in the async context of the listen call', async () => {
      const context = new AsyncLocalStorage<string>()
      const server = net.createServer()
      const seen: (string | undefined)[] = []
      server.on('connection', (socket: net.Socket) => {
        seen.push(context.getStore())
        socket.destroy()
      })
      await context.run('listening', () => open(server))
      await gone(await dial(server))
      assert.deepEqual(seen, ['listening'])
    })
  })
}
