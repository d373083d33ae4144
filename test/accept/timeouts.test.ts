import assert from 'node:assert/strict'
import net, { type Socket } from 'node:net'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import type { AcceptRef, AcceptResult, Listener } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { cleanUp, codeOf, collect, connect, gone, listen, refsOf, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

/** Pairs of ref and outcome: a code, or 'connection'. */
const outcomes = (results: readonly AcceptResult[]) =>
  results.map(({ ref, error }) => [ref, codeOf(error) ?? 'connection'] as const)

/** Blocks the event loop until the condition holds. */
function block(condition: () => boolean): void {
  while (!condition());
}

describe('The timeout of a request', () => {
  let listener: Listener
  let results: AcceptResult[]
  leaveNoFds()

  beforeEach(async () => {
    listener = await listen({ host: '127.0.0.1' })
    results = collect(listener)
  })

  it('ends its own request and no other', async () => {
    const infinite = listener.asyncAccept()
    const short = listener.asyncAccept(100)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[short, 'ERR_ACCEPT_TIMEOUT']])
    assert.equal(listener.pending, 1)
    await connect(listener)
    await until(() => results.length === 2)
    assert.deepEqual(outcomes(results.slice(1)), [[infinite, 'connection']])
  })

  it('rejects its own promise and no other', async () => {
    const infinite = listener.accept()
    const short = listener.accept({ timeout: 100 })
    await assert.rejects(short, { code: 'ERR_ACCEPT_TIMEOUT' })
    await connect(listener)
    ;(await infinite).close()
  })

  it('runs separately for each request', async () => {
    const timeouts = [30, 10, -1, 20]
    let refs: AcceptRef[]
    // The shorter timeout expires first only if all requests are made soon enough.
    for (;;) {
      const start = performance.now()
      refs = timeouts.map((timeout) => listener.asyncAccept(timeout))
      if (performance.now() - start < 9) break
      refs.forEach((ref) => {
        listener.cancel(ref)
      })
    }
    await until(() => results.length === 3)
    assert.deepEqual(refsOf(results), [refs[1], refs[3], refs[0]])
    assert.ok(listener.cancel(refs[2] as AcceptRef))
  })

  it('never expires early', async () => {
    const millisecond = 1_000_000n
    for (const timeout of [1, 2, 3, 5, 10, 0.5, 7.2]) {
      // Starts late in one millisecond of the clock. The event loop continues in the next.
      block(() => process.hrtime.bigint() % millisecond > 900_000n)
      const start = process.hrtime.bigint()
      const asked = listener.accept({ timeout })
      block(() => process.hrtime.bigint() / millisecond > start / millisecond)
      await assert.rejects(asked, { code: 'ERR_ACCEPT_TIMEOUT' })
      assert.ok(Number(process.hrtime.bigint() - start) >= timeout * 1e6, `${timeout} ms`)
    }
  })

  it('may be arbitrarily long', async () => {
    const refs = [Number.MAX_SAFE_INTEGER, Number.POSITIVE_INFINITY, 2 ** 32, -5].map((timeout) =>
      listener.asyncAccept(timeout),
    )
    const last = listener.asyncAccept(1)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[last, 'ERR_ACCEPT_TIMEOUT']])
    for (const _ of refs) await connect(listener)
    await until(() => results.length === 5)
    assert.deepEqual(
      outcomes(results.slice(1)),
      refs.map((ref) => [ref, 'connection']),
    )
  })

  it('ends with a cancel', async () => {
    const cancelled = [listener.asyncAccept(1), listener.asyncAccept(2)]
    for (const ref of cancelled) listener.cancel(ref)
    const later = listener.asyncAccept(5)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[later, 'ERR_ACCEPT_TIMEOUT']])
    assert.equal(listener.stats.timedOut, 1)
  })

  it('ends with a connection', async () => {
    await fillBacklog(listener, 2)
    const served = [listener.asyncAccept(10), listener.asyncAccept(20)]
    const later = listener.asyncAccept(30)
    await until(() => results.length === 3)
    assert.deepEqual(outcomes(results), [...served.map((ref) => [ref, 'connection']), [later, 'ERR_ACCEPT_TIMEOUT']])
  })
})

describe('A request with the timeout 0', () => {
  let listener: Listener
  let results: AcceptResult[]
  leaveNoFds()

  beforeEach(async () => {
    listener = await listen({ host: '127.0.0.1', maxBatch: 4 })
    results = collect(listener)
  })

  it('times out when no client waits, but not inside the call', async () => {
    const ref = listener.asyncAccept(0)
    assert.deepEqual(results, [])
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'ERR_ACCEPT_TIMEOUT']])
    await assert.rejects(listener.accept({ timeout: 0 }), { code: 'ERR_ACCEPT_TIMEOUT' })
  })

  it('accepts a waiting client', async () => {
    await fillBacklog(listener, 2)
    const ref = listener.asyncAccept(0)
    const promised = listener.accept({ timeout: 0 })
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'connection']])
    ;(await promised).close()
  })

  it('accepts all waiting clients, in as many batches as necessary', async () => {
    await fillBacklog(listener, 30)
    const refs = Array.from({ length: 32 }, () => listener.asyncAccept(0))
    await until(() => results.length === refs.length)
    assert.deepEqual(
      outcomes(results),
      refs.map((ref, index) => [ref, index < 30 ? 'connection' : 'ERR_ACCEPT_TIMEOUT']),
    )
  })

  it('does not overtake an earlier request', async () => {
    await fillBacklog(listener, 1)
    const first = listener.asyncAccept()
    const second = listener.asyncAccept(0)
    await until(() => results.length === 2)
    assert.deepEqual(outcomes(results), [
      [first, 'connection'],
      [second, 'ERR_ACCEPT_TIMEOUT'],
    ])
  })

  it('times out while an earlier request remains outstanding', async () => {
    const first = listener.asyncAccept()
    const second = listener.asyncAccept(0)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[second, 'ERR_ACCEPT_TIMEOUT']])
    await connect(listener)
    await until(() => results.length === 2)
    assert.equal(results[1]?.ref, first)
  })

  it('accepts the second client when the first goes to an earlier request', async () => {
    await fillBacklog(listener, 2)
    const refs = [listener.asyncAccept(), listener.asyncAccept(0)]
    await until(() => results.length === 2)
    assert.deepEqual(
      outcomes(results),
      refs.map((ref) => [ref, 'connection']),
    )
  })

  it('can be repeated from its own result without blocking the event loop', async () => {
    let asked = 0
    listener.on('accept', ({ error }) => {
      asked++
      if (error) listener.asyncAccept(0)
    })
    listener.asyncAccept(0)
    await until(() => asked > 10)
    const client = await connect(listener)
    await until(() => results.at(-1)?.connection !== undefined)
    await gone(client)
    assert.equal(listener.stats.timedOut, results.length - 1)
  })
})

describe('A request whose deadline passes while the event loop is blocked', () => {
  leaveNoFds()

  it('still gets a waiting client', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    const ref = listener.asyncAccept(1)
    const deadline = performance.now() + 2
    const connected = connect(listener)
    // After the client's connect(2), which Node defers to the next tick.
    process.nextTick(() => block(() => performance.now() > deadline && listener.backlog().queued === 1))
    await connected
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'connection']])
  })

  it('still gets a waiting client over a unix socket', async () => {
    const listener = await listen({ path: join(temporaryDirectory(), 'socket') })
    const results = collect(listener)
    const refs = [listener.asyncAccept(1), listener.asyncAccept(2), listener.asyncAccept(3)]
    const deadline = performance.now() + 4
    for (let i = 0; i < 2; i++) {
      const client: Socket = net.connect({ path: listener.address() as string })
      cleanUp(() => client.destroy())
    }
    block(() => performance.now() > deadline && listener.backlog().queued === 2)
    await until(() => results.length === 3)
    assert.deepEqual(outcomes(results), [
      [refs[0], 'connection'],
      [refs[1], 'connection'],
      [refs[2], 'ERR_ACCEPT_TIMEOUT'],
    ])
  })

  it('still gets a client when earlier requests fill a batch', async () => {
    const listener = await listen({ host: '127.0.0.1', maxBatch: 1 })
    const results = collect(listener)
    await fillBacklog(listener, 20)
    const refs = Array.from({ length: 20 }, () => listener.asyncAccept(1))
    let most = 0
    let seen = 0
    listener.on('accept', () => {
      setImmediate(() => {
        most = Math.max(most, results.length - seen)
        seen = results.length
      })
    })
    const deadline = performance.now() + 2
    block(() => performance.now() > deadline)
    await until(() => results.length === refs.length)
    // In one event loop turn, a timer and the readiness event bring one batch each. Then other handles get their turn.
    assert.ok(most <= 2, `${most} results in one turn`)
    assert.deepEqual(
      outcomes(results),
      refs.map((ref) => [ref, 'connection']),
    )
    assert.equal(listener.stats.timedOut, 0)
  })

  it('still gets a client when each handler blocks past the remaining deadlines', async () => {
    const listener = await listen({ host: '127.0.0.1', maxBatch: 1 })
    const results = collect(listener)
    await fillBacklog(listener, 5)
    listener.on('accept', () => {
      const end = performance.now() + 5
      block(() => performance.now() > end)
    })
    const refs = Array.from({ length: 5 }, () => listener.asyncAccept(3))
    await until(() => results.length === refs.length)
    assert.deepEqual(
      outcomes(results),
      refs.map((ref) => [ref, 'connection']),
    )
  })

  it('times out when no client waits', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    const ref = listener.asyncAccept(1)
    const deadline = performance.now() + 2
    block(() => performance.now() > deadline)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'ERR_ACCEPT_TIMEOUT']])
  })
})
