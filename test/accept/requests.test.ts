import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import type { AddressInfo, Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import type { AcceptResult, Connection, ConnectionMessage, Listener } from '../../src/index.js'
import { answer, fillBacklog } from '../backlog.js'
import { cleanUp, codeOf, collect, connect, listen, refsOf, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

describe('100,000 outstanding requests', () => {
  const count = 100_000
  let listener: Listener
  leaveNoFds()

  beforeEach(async () => {
    listener = await listen({ host: '127.0.0.1' })
  })

  const askAll = (timeout?: number) => Array.from({ length: count }, () => listener.asyncAccept(timeout))

  it('each have a unique ref, and can be cancelled in any order', () => {
    const refs = askAll()
    assert.equal(new Set(refs).size, count)
    assert.equal(listener.pending, count)
    // From both ends to the middle.
    for (let i = 0; i < count / 2; i++) {
      assert.equal(listener.cancel(refs[i] as number), true)
      assert.equal(listener.cancel(refs[count - 1 - i] as number), true)
    }
    assert.equal(listener.pending, 0)
    assert.equal(listener.stats.cancelled, count)
    assert.ok(!refs.includes(listener.asyncAccept()), 'no ref is reused')
  })

  it('time out, each once, in order', async () => {
    const results = collect(listener)
    const refs = askAll(1)
    await until(() => listener.pending === 0)
    assert.deepEqual(refsOf(results), refs)
    assert.ok(results.every(({ error }) => codeOf(error) === 'ERR_ACCEPT_TIMEOUT'))
    assert.equal(listener.stats.timedOut, count)
  })

  it('are rejected by close(), each once, in order', async () => {
    const results = collect(listener)
    const refs = askAll()
    await listener.close()
    assert.deepEqual(refsOf(results), refs)
    assert.ok(results.every(({ error }) => codeOf(error) === 'ERR_LISTENER_CLOSED'))
    assert.equal(listener.stats.rejected, count)
  })

  it('are rejected by close() as promises', async () => {
    const order: number[] = []
    const promises = Array.from({ length: count }, (_, index) =>
      listener.accept().catch((error) => {
        assert.equal(codeOf(error), 'ERR_LISTENER_CLOSED')
        order.push(index)
      }),
    )
    await listener.close()
    await Promise.all(promises)
    assert.equal(order.length, count)
    assert.ok(order.every((each, index) => each === index))
  })

  it('keep the first request in its place when all others are cancelled', async () => {
    const results = collect(listener)
    const [first, ...others] = askAll()
    for (const ref of others) listener.cancel(ref)
    await connect(listener)
    await until(() => results.length > 0)
    assert.deepEqual(refsOf(results), [first])
  })
})

describe('A client that resets in the backlog', () => {
  let listener: Listener
  leaveNoFds()

  beforeEach(async () => {
    listener = await listen({ host: '127.0.0.1' })
  })

  // When the reset has arrived, the kernel removes the connection from /proc/net/tcp. Only the backlog still has it.
  const known = (port: number) => {
    const hex = (number: number) => number.toString(16).toUpperCase().padStart(4, '0')
    const ends = `0100007F:${hex((listener.address() as AddressInfo).port)} 0100007F:${hex(port)}`
    return readFileSync('/proc/net/tcp', 'ascii').includes(ends)
  }

  const reset = async (client: Socket) => {
    const port = client.localPort as number
    assert.ok(known(port))
    client.resetAndDestroy()
    await until(() => !known(port))
    return port
  }

  it('is delivered to the next request with its address, and later clients are served', async () => {
    const results: AcceptResult[] = []
    listener.on('accept', (result) => results.push(result))
    const clients = await fillBacklog(listener, 4)
    const ports = clients.map(({ localPort }) => localPort)
    await reset(clients[0] as Socket)
    await reset(clients[2] as Socket)
    assert.equal(listener.backlog().queued, 4)

    const refs = clients.map(() => listener.asyncAccept())
    await until(() => results.length === clients.length)
    assert.deepEqual(refsOf(results), refs)
    for (const [index, { connection }] of results.entries()) {
      assert.equal(connection?.remoteAddress, '127.0.0.1')
      assert.equal(connection?.remoteFamily, 'IPv4')
      assert.equal(connection?.remotePort, ports[index])
      answer(connection as Connection, `${index}`)
    }
    assert.equal(await text(clients[1] as Socket), '1')
    assert.equal(await text(clients[3] as Socket), '3')
  })

  it('does not affect promises and iterations', async () => {
    const clients = await fillBacklog(listener, 3)
    const port = await reset(clients[0] as Socket)
    const first = await listener.accept()
    assert.equal(first.remotePort, port)
    first.close()
    await reset(clients[1] as Socket)
    let seen = 0
    for await (const connection of listener) {
      answer(connection, 'hello')
      if (++seen === 2) break
    }
    assert.equal(await text(clients[2] as Socket), 'hello')
  })
})

describe('Listener.stats', () => {
  leaveNoFds()

  it('counts the outcome of each request', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const nothing = {
      accepted: 0,
      retried: 0,
      capacityPauses: 0,
      reset: 0,
      timedOut: 0,
      cancelled: 0,
      rejected: 0,
    }
    assert.deepEqual(listener.stats, nothing)
    const results = collect(listener)

    await fillBacklog(listener, 3)
    listener.asyncAccept()
    listener.asyncAccept(0)
    ;(await listener.accept()).close()
    assert.deepEqual(listener.stats, { ...nothing, accepted: 3 })

    listener.asyncAccept(0)
    listener.asyncAccept(1)
    await assert.rejects(listener.accept({ timeout: 1 }), { code: 'ERR_ACCEPT_TIMEOUT' })
    await until(() => results.length === 4)
    assert.deepEqual(listener.stats, { ...nothing, accepted: 3, timedOut: 3 })

    const ref = listener.asyncAccept()
    assert.deepEqual([listener.cancel(ref), listener.cancel(ref), listener.cancel(ref + 1)], [true, false, false])
    const controller = new AbortController()
    const aborted = assert.rejects(listener.accept({ signal: controller.signal }), { code: 'ABORT_ERR' })
    controller.abort()
    await aborted
    const counted = listener.stats
    assert.deepEqual(counted, { ...nothing, accepted: 3, timedOut: 3, cancelled: 2 })

    listener.asyncAccept()
    const rejected = assert.rejects(listener.accept(), { code: 'ERR_LISTENER_CLOSED' })
    await listener.close()
    await rejected
    assert.deepEqual(listener.stats, { ...nothing, accepted: 3, timedOut: 3, cancelled: 2, rejected: 2 })
    assert.equal(counted.rejected, 0, 'a copy does not change')
  })
})

describe('The channel async-accept.connection', () => {
  leaveNoFds()

  it('publishes each connection before its requester gets it', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const told: string[] = []
    const messages: ConnectionMessage[] = []
    const onMessage = (message: unknown) => {
      const { connection } = message as ConnectionMessage
      messages.push(message as ConnectionMessage)
      told.push(`channel ${connection.ref}`)
    }
    subscribe('async-accept.connection', onMessage)
    cleanUp(() => unsubscribe('async-accept.connection', onMessage))
    const got = (connection: Connection) => {
      told.push(`result ${connection.ref}`)
      connection.close()
    }
    listener.on('accept', ({ connection }) => {
      if (connection) got(connection)
    })

    await fillBacklog(listener, 3)
    const first = listener.asyncAccept()
    const second = listener.accept().then(got)
    const third = listener[Symbol.asyncIterator]()
      .next()
      .then(({ value }) => got(value))
    await Promise.all([second, third])
    for (const ref of [first, first + 1, first + 2]) {
      const before = told.indexOf(`channel ${ref}`)
      assert.ok(before >= 0 && before < told.indexOf(`result ${ref}`), told.join(', '))
    }
    assert.equal(told.length, 6)
    assert.ok(messages.every((message) => message.listener === listener))

    // It does not publish errors.
    await assert.rejects(listener.accept({ timeout: 0 }))
    assert.equal(messages.length, 3)
  })

  it('lets a subscriber claim the connection', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const claim = (message: unknown) => (message as ConnectionMessage).connection.close()
    subscribe('async-accept.connection', claim)
    cleanUp(() => unsubscribe('async-accept.connection', claim))
    const [connection] = await Promise.all([listener.accept(), connect(listener)])
    assert.equal(connection.fd, -1)
    assert.throws(() => connection.detach(), { code: 'ERR_CONNECTION_CLAIMED' })
  })
})
