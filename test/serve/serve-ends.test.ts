import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { Listener, serve } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { fillBacklog } from '../backlog.js'
import { cleanUp, codeOf, connect, gone, listen, runNode, startNode, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { closing, connected, countOf, dial, endLater, served } from '../ways-in.js'

const answering = (answer: string) => endLater(net.createServer((socket) => socket.resume().end(answer)))

describe('The end of serving', () => {
  leaveNoFds()

  it('closes the listener when the server closes', async () => {
    const server = answering('hello')
    const { listener } = await served(server)
    const closed = once(listener, 'close')
    assert.equal(await closing(server), undefined)
    assert.equal(listener.fd, -1)
    await closed
  })

  it('closes the listener at once, while open connections of the server continue', async () => {
    const server = net.createServer()
    const to = { host: '127.0.0.1', port: reservedPort() }
    const serving = await served(server, undefined, to)
    const { socket } = await connected(server)
    let ended = false
    const closed = closing(server).then(() => (ended = true))
    assert.equal(serving.listener.fd, -1)
    const [error] = await once(net.connect(to), 'error')
    assert.equal(codeOf(error), 'ECONNREFUSED')
    assert.deepEqual([ended, serving.connections], [false, 1])
    const over = once(serving, 'close')
    socket.destroy()
    await Promise.all([closed, over])
    assert.equal(serving.connections, 0)
  })

  it('leaves the listener open after serving.close(), and the next server accepts the waiting clients', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    for (const answer of ['one', 'two', 'three']) {
      const [client] = await fillBacklog(listener, 1)
      const server = answering(answer)
      const serving = serve(listener, server)
      assert.equal(await text(client as net.Socket), answer)
      client?.destroy()
      await serving.close()
      assert.equal(server.listening, false)
      assert.equal(listener.pending, 0)
      assert.notEqual(listener.fd, -1)
    }
  })

  it('allows the same server to be served again', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const server = answering('hello')
    for (const _ of [1, 2, 3]) {
      const serving = serve(listener, server)
      assert.equal(await text(await dial(server)), 'hello')
      await serving.close()
    }
    assert.deepEqual(
      ['close', 'secureConnection', 'session', 'tlsClientError'].map((event) => server.listenerCount(event)),
      [0, 0, 0, 0],
    )
    assert.deepEqual([listener.listenerCount('accept'), listener.listenerCount('close')], [0, 0])
  })

  it('closes the listener after serving.close({ closeListener: true }), and waits for open connections', async () => {
    const server = net.createServer()
    const serving = await served(server)
    const { socket } = await connected(server)
    const closed = serving.close({ closeListener: true })
    assert.equal(serving.close(), closed)
    assert.equal(server.listening, false)
    assert.equal(serving.listener.fd, -1)
    assert.equal(serving.connections, 1)
    socket.destroy()
    await closed
    assert.equal(await countOf(server), 0)
  })

  it('follows an abort of the signal, or asyncDispose, and leaves the listener open', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const ends = new AbortController()
    const first = serve(listener, answering('first'), { signal: ends.signal })
    const closed = once(first, 'close')
    ends.abort()
    await closed
    const second = serve(listener, answering('second'))
    await second[Symbol.asyncDispose]()
    const server = answering('third')
    serve(listener, server)
    assert.equal(await text(await dial(server)), 'third')
  })

  for (const [when, maxConnections] of [
    ['accept requests are pending', 2],
    ['the connection limit is reached', 1],
  ] as const) {
    it(`follows listener.close() while ${when}, and closes the server too`, async () => {
      const server = net.createServer()
      const serving = await served(server, { maxConnections })
      const { socket } = await connected(server)
      const closed = once(server, 'close')
      const over = once(serving, 'close')
      await serving.listener.close()
      assert.equal(server.listening, false)
      assert.equal(server.address(), null)
      socket.destroy()
      await Promise.all([closed, over])
    })
  }

  it('follows listener.detach(), and leaves the fd open', async () => {
    const server = answering('hello')
    const serving = await served(server)
    const closed = Promise.all([once(server, 'close'), once(serving, 'close')])
    const again = Listener.fromFd(serving.listener.detach())
    cleanUp(() => again.close())
    await closed
    const [client, connection] = await Promise.all([connect(again), again.accept()])
    connection.toSocket().resume().end('still here')
    assert.equal(await text(client), 'still here')
  })

  it("delivers no further connection to a server that closes in its own 'connection' handler", async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const clients = await fillBacklog(listener, 10)
    const server = endLater(net.createServer())
    let sockets = 0
    server.on('connection', (socket) => {
      sockets++
      server.close()
      socket.destroy()
    })
    const serving = serve(listener, server)
    await Promise.all([once(server, 'close'), ...clients.map(gone)])
    await until(() => serving.connections === 0)
    assert.deepEqual([sockets, listener.fd], [1, -1])
  })

  it("delivers every accepted connection when a 'connection' handler closes the serving", async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const clients = await fillBacklog(listener, 10)
    const server = answering('hello')
    const serving = serve(listener, server)
    server.on('connection', () => void serving.close())
    assert.deepEqual(await Promise.all(clients.map(text)), Array(10).fill('hello'))
    for (const client of clients) client.destroy()
    await serving.close()
    assert.equal(listener.backlog().queued, 0)
  })

  it('closes a socket that is reset while its end is pending', async () => {
    const server = net.createServer()
    const serving = await served(server)
    const { socket, client } = await connected(server)
    socket.end()
    socket.resetAndDestroy()
    await Promise.all([serving.close(), gone(client)])
    assert.equal(serving.connections, 0)
  })

  it('waits for the connections that a function owns', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const sockets: net.Socket[] = []
    const serving = serve(listener, (connection) => sockets.push(connection.toSocket()))
    await connect(listener)
    await until(() => sockets.length === 1)
    const closed = serving.close()
    assert.equal(listener.pending, 0)
    sockets[0]?.destroy()
    await closed
    assert.equal(serving.connections, 0)
  })

  for (const [target, printed] of [
    ['server', ['server error EBADF accept', 'server close', 'serving close', '0 0 false', '']],
    ['function', ['serving error EBADF accept4', 'serving close', '0 0 undefined', '']],
  ] as const) {
    it(`follows a permanent accept error, which emits an 'error' event on the ${target}`, async () => {
      const { code, stdout, stderr } = await runNode('served-closed-behind.mjs', [target])
      assert.equal(code, 0, stderr)
      assert.deepEqual(
        stdout.split('\n').map((line) => line.trim()),
        printed,
      )
    })

    it(`follows a permanent accept error of one of several listeners; 'error' is emitted on the ${target}`, async () => {
      const { code, stdout, stderr } = await runNode('served-closed-behind.mjs', [target, 'several'])
      assert.equal(code, 0, stderr)
      assert.deepEqual(
        stdout.split('\n').map((line) => line.trim()),
        [...printed.slice(0, -1), 'true 0', ''],
      )
    })
  }
})

describe('A process that serves a server', () => {
  /** Returns the response of the server, from a process that exits when it has answered. */
  async function answerOf(...args: string[]): Promise<string> {
    const child = startNode('kept-alive.mjs', args)
    child.stdin?.end()
    const [port] = await once(child.stdout as NodeJS.ReadableStream, 'data')
    const client = net.connect(Number(port), '127.0.0.1')
    cleanUp(() => client.destroy())
    const [answer] = await Promise.all([text(client), once(child, 'close')])
    return answer
  }

  const printedBy = async (...args: string[]) => (await runNode('kept-alive.mjs', args)).stdout

  for (const way of ['listen', 'serve']) {
    it(`stays alive while the server listens, unless unref() was called; through ${way}`, async () => {
      assert.equal(await answerOf(way, 'open'), 'hello')
      assert.match(await printedBy(way, 'open', 'unref'), /idle/)
      assert.match(await printedBy(way, 'unref', 'open'), /idle/)
      assert.equal(await answerOf(way, 'open', 'unref', 'ref'), 'hello')
      assert.equal(await answerOf(way, 'unref', 'ref', 'open'), 'hello')
    })
  }

  it('stays alive if unref() was called on a server that then closed and is served again', async () => {
    assert.equal(await answerOf('serve', 'other', 'open'), 'hello')
  })

  it('can be a cluster worker, with its own listener instead of one in the primary process', async () => {
    const { stdout, stderr, code } = await runNode('served-in-cluster.mjs')
    assert.equal(code, 0, stderr)
    assert.deepEqual(JSON.parse(stdout), { answeredByWorker: true, asked: 0, code: 0 })
  })
})
