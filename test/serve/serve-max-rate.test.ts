import assert from 'node:assert/strict'
import http from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Connection, type ServeOptions, serve } from '../../src/index.js'
import { cleanUp, codeOf, connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'

/** Serves a function that closes its connections, until the test ends. */
async function served(options: ServeOptions) {
  const listener = await listen({ host })
  const times: number[] = []
  const start = performance.now()
  const serving = serve(
    listener,
    (connection) => {
      times.push(performance.now() - start)
      connection.close()
    },
    options,
  )
  cleanUp(() => serving.close())
  return { listener, serving, times }
}

/** Lets the event loop handle everything that is ready now. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await nextTurn()
}

describe('serve with maxRate', () => {
  leaveNoFds()

  it('accepts all clients, and never more than the bucket had tokens', async () => {
    const maxRate = 20
    const { listener, times } = await served({ maxRate })
    for (let client = 0; client < 30; client++) await connect(listener)
    await until(() => times.length === 30)
    // The clock of the test starts before that of the limit.
    for (const [index, time] of times.entries())
      assert.ok(index + 1 <= maxRate + (time * maxRate) / 1000 + 1e-6, `connection ${index + 1} after ${time} ms`)
  })

  it('asks for no more connections than there are tokens', async () => {
    const { listener, serving } = await served({ maxRate: 3 })
    assert.equal(listener.pending, 3)
    serving.maxRate = 2
    assert.equal(listener.pending, 2)
    serving.maxRate = 0
    assert.equal(listener.pending, 0)
  })

  it('leaves clients in the backlog at 0, until the rate is set', async () => {
    const { listener, serving, times } = await served({ maxRate: 0 })
    assert.equal(serving.maxRate, 0)
    await connect(listener)
    await settle()
    assert.deepEqual([times.length, listener.backlog().queued], [0, 1])
    serving.maxRate = 1000
    assert.equal(serving.maxRate, 1000)
    await until(() => times.length === 1)
  })

  it('has no limit by default', async () => {
    const { listener, serving } = await served({})
    assert.equal(serving.maxRate, Number.POSITIVE_INFINITY)
    assert.equal(listener.pending, 64)
  })

  it('applies together with maxConnections', async () => {
    const listener = await listen({ host })
    const open: Connection[] = []
    const serving = serve(listener, (each) => open.push(each), { maxRate: 1000, maxConnections: 2 })
    cleanUp(() => serving.drain({ timeout: 0 }))
    for (let client = 0; client < 3; client++) await connect(listener)
    await until(() => open.length === 2)
    await settle()
    assert.deepEqual([open.length, listener.backlog().queued, listener.pending], [2, 1, 0])
    open[0]?.close()
    await until(() => open.length === 3)
  })

  it('rejects an invalid rate, and keeps the old one', async () => {
    const { serving } = await served({ maxRate: 5 })
    for (const [value, code] of [
      ['1', 'ERR_INVALID_ARG_TYPE'],
      [undefined, 'ERR_INVALID_ARG_TYPE'],
      [-1, 'ERR_OUT_OF_RANGE'],
      [0.5, 'ERR_OUT_OF_RANGE'],
      [Number.NaN, 'ERR_OUT_OF_RANGE'],
    ] as const) {
      assert.throws(
        () => {
          serving.maxRate = value as number
        },
        (error) => codeOf(error) === code,
      )
    }
    assert.equal(serving.maxRate, 5)
  })

  it('accepts nothing after the end, also when clients and a token are due', async () => {
    const { listener, serving, times } = await served({ maxRate: 50 })
    for (let client = 0; client < 60; client++) await connect(listener)
    await until(() => times.length >= 50)
    await serving.close()
    const { length } = times
    const again = performance.now() + 40 // two tokens
    await until(() => performance.now() > again)
    assert.equal(times.length, length)
    assert.equal(listener.pending, 0)
  })

  it('counts the connections of a server', async () => {
    const listener = await listen({ host })
    const serving = serve(listener, http.createServer(), { maxRate: 1 })
    cleanUp(() => serving.drain({ timeout: 0 }))
    await connect(listener)
    await until(() => serving.connections === 1)
    assert.equal(listener.pending, 0)
  })
})
