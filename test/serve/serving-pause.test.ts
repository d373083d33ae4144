import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Connection, type Listener, type Serving, serve } from '../../src/index.js'
import { cleanUp, connect, gone, listen, runNode, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'
const request = 'GET / HTTP/1.0\r\n\r\n'

/** Serves an http server that answers 'hello', until the test ends. */
async function served(options?: { maxConnections: number }) {
  const listener = await listen({ host })
  const server = http.createServer((_, response) => response.end('hello'))
  const serving = serve(listener, server, options)
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { listener, server, serving }
}

/** Connects a client and sends a request. Resolves when the client is in the backlog or accepted. */
async function ask(listener: Listener): Promise<net.Socket> {
  const client = await connect(listener)
  client.end(request)
  return client
}

/** Lets the event loop handle everything that is ready now. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await nextTurn()
}

const queued = (listener: Listener) => listener.backlog().queued

describe('serving.pause()', () => {
  leaveNoFds()

  it('leaves clients in the backlog until resume()', async () => {
    const { listener, server, serving } = await served()
    assert.equal(serving.paused, false)
    assert.equal(serving.pause(), serving)
    assert.equal(serving.paused, true)
    assert.equal(listener.pending, 0)
    const clients = [await ask(listener), await ask(listener)]
    await settle()
    assert.deepEqual([serving.connections, queued(listener), server.listening], [0, 2, true])
    assert.equal(serving.resume(), serving)
    assert.equal(serving.paused, false)
    for (const client of clients) assert.match(await text(client), /hello$/)
  })

  it('lets open connections continue', async () => {
    const { listener, serving } = await served()
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    serving.pause()
    client.end(request)
    assert.match(await text(client), /hello$/)
    await until(() => serving.connections === 0)
    // The end of a connection must not make the serving accept again.
    assert.equal(listener.pending, 0)
  })

  it('has the same effect when it is called twice, as resume() has', async () => {
    const { listener, serving } = await served({ maxConnections: 3 })
    serving.pause().pause()
    assert.equal(listener.pending, 0)
    serving.resume().resume()
    assert.equal(listener.pending, 3)
    serving.resume()
    assert.equal(listener.pending, 3)
  })

  it('keeps maxConnections, and a new limit applies after resume()', async () => {
    const { listener, serving } = await served({ maxConnections: 3 })
    serving.pause()
    assert.equal(serving.maxConnections, 3)
    serving.maxConnections = 2
    assert.equal(listener.pending, 0)
    serving.resume()
    assert.equal(listener.pending, 2)
  })

  it('delivers every connection of the batch during which it is called', async () => {
    const listener = await listen({ host, maxBatch: 3 })
    const serving = serve(listener, (connection) => {
      accepted.push(connection)
      serving.pause()
    })
    const accepted: Connection[] = []
    cleanUp(() => serving.drain({ timeout: 0 }))
    serving.pause()
    for (let client = 0; client < 5; client++) await connect(listener)
    serving.resume()
    await until(() => accepted.length > 0)
    await settle()
    assert.deepEqual([accepted.length, queued(listener)], [3, 2])
  })

  const ends: [how: string, end: (serving: Serving, server: net.Server) => unknown, listening: boolean][] = [
    ['serving.close()', (serving) => serving.close(), true],
    ['drain()', (serving) => serving.drain(), true],
    ['server.close()', (_, server) => server.close(), false],
    ['listener.close()', ({ listener }) => listener.close(), false],
  ]
  for (const [how, end, listening] of ends) {
    it(`does not prevent ${how}, after which resume() has no effect`, async () => {
      const { listener, server, serving } = await served()
      serving.pause()
      const client = await connect(listener)
      const closed = once(serving, 'close')
      end(serving, server)
      serving.resume()
      await closed
      assert.equal(server.listening, false)
      assert.equal(listener.fd >= 0, listening)
      assert.equal(serving.connections, 0)
      if (!listening) return gone(client)
      assert.deepEqual([listener.pending, queued(listener)], [0, 1])
      // A pause must not outlive its serving.
      const next = serve(listener, (connection) => connection.toSocket().end('next'))
      client.end()
      assert.equal(await text(client), 'next')
      await next.close()
    })
  }

  for (const what of ['server', 'function']) {
    it(`keeps the process alive for a ${what}, and unref() lets it exit`, async () => {
      assert.match((await runNode('kept-by-serving.mjs', [what, '1', 'serving.pause', 'serving.unref'])).stdout, /idle/)
      const finished = await runNode('paused-serving.mjs', [what])
      assert.deepEqual(finished, { code: 0, signal: null, stdout: 'alive\nserved\n', stderr: '' })
    })
  }
})
