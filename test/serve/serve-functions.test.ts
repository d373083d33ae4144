import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Connection, type ConnectionHandler, type Listener, type Serving, serve } from '../../src/index.js'
import {
  captureExceptions,
  cleanUp,
  codeOf,
  connect,
  gone,
  listen,
  target,
  temporaryDirectory,
  until,
  whileReadingDirectory,
} from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

/** Collects the 'error' events of a serving. */
function errorsOf(serving: Serving): Error[] {
  const errors: Error[] = []
  serving.on('error', (error) => errors.push(error))
  return errors
}

/** A client that waits until the server closes its connection, possibly before 'connect'. */
async function connectUntilClosed(listener: Listener): Promise<void> {
  const client = net.connect(target(listener)).on('error', () => {})
  cleanUp(() => client.destroy())
  await gone(client)
}

/** Returns the text that the client receives before its connection ends. */
async function receivedBy(client: net.Socket): Promise<string> {
  const said = await text(client)
  client.destroy()
  return said
}

async function servedBy(handler: ConnectionHandler): Promise<{ listener: Listener; serving: Serving }> {
  const listener = await listen({ host: '127.0.0.1' })
  return { listener, serving: serve(listener, handler) }
}

const answer = (connection: Connection) => connection.toSocket().resume().end('hello')

describe('A served function', () => {
  leaveNoFds()

  it('receives every connection, and owns it', async () => {
    const { listener, serving } = await servedBy((connection) => {
      assert.ok(connection instanceof Connection)
      connection.toSocket().resume().end(`port ${connection.remotePort}`)
    })
    for (const client of await Promise.all([connect(listener), connect(listener), connect(listener)])) {
      const { localPort } = client
      assert.equal(await receivedBy(client), `port ${localPort}`)
    }
    assert.equal(serving.listener, listener)
    await serving.close()
  })

  it('receives connections of a unix socket', async () => {
    const listener = await listen({ path: join(temporaryDirectory(), 'socket') })
    const serving = serve(listener, answer)
    assert.equal(await receivedBy(await connect(listener)), 'hello')
    await serving.close()
  })

  const ways: [string, (connection: Connection) => unknown][] = [
    ['closes', (connection) => connection.close()],
    ['resets', (connection) => connection.reset()],
    ['detaches', (connection) => closeSync(connection.detach())],
    ['converts to a socket and destroys', (connection) => connection.toSocket().destroy()],
    ['converts to a socket and resets', (connection) => connection.toSocket().resetAndDestroy()],
  ]
  for (const [what, end] of ways) {
    it(`frees the slot of a connection that it ${what}, inside the handler or later`, async () => {
      const held: Connection[] = []
      const { listener, serving } = await servedBy((connection) => held.push(connection))
      const client = await connect(listener)
      await until(() => held.length === 1)
      assert.equal(serving.connections, 1)
      end(held[0] as Connection)
      await until(() => serving.connections === 0)
      await gone(client)
      await serving.close()

      const again = serve(listener, end)
      await connectUntilClosed(listener)
      await until(() => again.connections === 0)
      await again.close()
    })
  }

  it('occupies a slot until both sides of the socket are closed', async () => {
    const sockets: net.Socket[] = []
    const { listener, serving } = await servedBy((connection) => sockets.push(connection.toSocket()))
    const client = await connect(listener)
    await until(() => sockets.length === 1)
    sockets[0]?.resume().end('hello')
    assert.equal(await text(client), 'hello')
    assert.equal(serving.connections, 1)
    client.end()
    await until(() => serving.connections === 0)
    await serving.close()
  })

  for (const [fails, fail] of [
    [
      'throws',
      (error: Error) => {
        throw error
      },
    ],
    [
      'rejects',
      async (error: Error) => {
        throw error
      },
    ],
    [
      'rejects later',
      async (error: Error) => {
        await new Promise(setImmediate)
        throw error
      },
    ],
  ] as const) {
    it(`keeps serving after it ${fails}: the connection is reset and 'error' emitted`, async () => {
      const boom = new Error('boom')
      let calls = 0
      const { listener, serving } = await servedBy((connection) => {
        return ++calls % 2 === 1 ? fail(boom) : answer(connection)
      })
      const errors = errorsOf(serving)
      for (const round of [1, 2]) {
        await connectUntilClosed(listener)
        await until(() => errors.length === round)
        assert.equal(errors.at(-1), boom)
        assert.equal(await receivedBy(await connect(listener)), 'hello')
      }
      await until(() => serving.connections === 0)
      await serving.close()
    })
  }

  it("causes an uncaught exception when 'error' has no handler, even while Node reads a directory", async () => {
    const captured = captureExceptions()
    const thrown = new Error('boom')
    const { listener, serving } = await servedBy(async () => {
      await new Promise<void>((resolve) => whileReadingDirectory(resolve))
      throw thrown
    })
    await connectUntilClosed(listener)
    await until(() => captured.length === 1)
    assert.equal(captured[0], thrown)
    await serving.close()
  })

  it('loses its socket if it throws after toSocket(): the socket is destroyed', async () => {
    const { listener, serving } = await servedBy((connection) => {
      connection.toSocket()
      throw new Error('boom')
    })
    const errors = errorsOf(serving)
    await connectUntilClosed(listener)
    await until(() => errors.length === 1 && serving.connections === 0)
    await serving.close()
  })

  it('keeps the fd if it throws after detach()', async () => {
    const fds: number[] = []
    const { listener, serving } = await servedBy((connection) => {
      fds.push(connection.detach())
      throw new Error('boom')
    })
    const errors = errorsOf(serving)
    const client = await connect(listener)
    await until(() => errors.length === 1)
    assert.equal(serving.connections, 0)
    const taken = Connection.fromFd(fds[0] as number)
    taken.toSocket().resume().end('hello')
    assert.equal(await receivedBy(client), 'hello')
    await serving.close()
  })

  it('frees the slot of an unclaimed connection when it is garbage collected and closed', async () => {
    const { listener, serving } = await servedBy(() => {})
    const warnings: Error[] = []
    const note = (warning: Error) => warnings.push(warning)
    process.on('warning', note)
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    await until(() => {
      globalThis.gc?.()
      return serving.connections === 0
    })
    await gone(client)
    await until(() => warnings.length === 1)
    process.off('warning', note)
    assert.deepEqual(warnings.map(codeOf), ['ASYNC_ACCEPT_UNCLAIMED_CONNECTION'])
    await serving.close()
  })

  it('can close the serving, and still receives connections that were already accepted', async () => {
    const { listener, serving } = await servedBy((connection) => {
      void serving.close()
      answer(connection)
    })
    const client = await connect(listener)
    assert.equal(await receivedBy(client), 'hello')
    await serving.close()
    assert.equal(listener.address() === null, false)
    assert.equal(listener.pending, 0)
  })

  it('can close the listener', async () => {
    const { listener, serving } = await servedBy((connection) => {
      listener.close()
      answer(connection)
    })
    assert.equal(await receivedBy(await connect(listener)), 'hello')
    await serving.close()
    assert.equal(listener.address(), null)
  })
})
