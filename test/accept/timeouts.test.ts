import assert from 'node:assert/strict'
import net, { type Socket } from 'node:net'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import type { AcceptRef, AcceptResult, Listener } from '../../src/index.js'
import { cutOff, fillBacklog } from '../backlog.js'
import { cleanUp, codeOf, collect, connect, listen, refsOf, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

/** `{ ref: outcome }`, the outcome being a code or 'connection'. */
const outcomes = (results: readonly AcceptResult[]) =>
  results.map(({ ref, error }) => [ref, codeOf(error) ?? 'connection'] as const)

/** Keeps the event loop from running until the condition holds. */
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

  it('ends that request and no other', async () => {
    const infinite = listener.asyncAccept()
    const short = listener.asyncAccept(100)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[short, 'ERR_ACCEPT_TIMEOUT']])
    assert.equal(listener.pending, 1)
    await connect(listener)
    await until(() => results.length === 2)
    assert.deepEqual(outcomes(results.slice(1)), [[infinite, 'connection']])
  })

  it('ends that promise and no other', async () => {
    const infinite = listener.accept()
    const short = listener.accept({ timeout: 100 })
    await assert.rejects(short, { code: 'ERR_ACCEPT_TIMEOUT' })
    await connect(listener)
    ;(await infinite).close()
  })

  it('is counted for each request by itself', async () => {
    const timeouts = [30, 10, -1, 20]
    let refs: AcceptRef[]
    // The shorter one runs out first if it was asked for soon enough.
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

  it('never ends before its time', async () => {
    const millisecond = 1_000_000n
    for (const timeout of [1, 2, 3, 5, 10, 0.5, 7.2]) {
      // Late in one millisecond of the clock; the loop goes on in the next.
      block(() => process.hrtime.bigint() % millisecond > 900_000n)
      const start = process.hrtime.bigint()
      const asked = listener.accept({ timeout })
      block(() => process.hrtime.bigint() / millisecond > start / millisecond)
      await assert.rejects(asked, { code: 'ERR_ACCEPT_TIMEOUT' })
      assert.ok(Number(process.hrtime.bigint() - start) >= timeout * 1e6, `${timeout} ms`)
    }
  })

  it('may be longer than anybody waits', async () => {
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

  it('does not outlive a cancel', async () => {
    const cancelled = [listener.asyncAccept(1), listener.asyncAccept(2)]
    for (const ref of cancelled) listener.cancel(ref)
    const later = listener.asyncAccept(5)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[later, 'ERR_ACCEPT_TIMEOUT']])
    assert.equal(listener.stats.timedOut, 1)
  })

  it('does not outlive a connection', async () => {
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

  it('runs out when nobody waits, and not inside the call', async () => {
    const ref = listener.asyncAccept(0)
    assert.deepEqual(results, [])
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'ERR_ACCEPT_TIMEOUT']])
    await assert.rejects(listener.accept({ timeout: 0 }), { code: 'ERR_ACCEPT_TIMEOUT' })
  })

  it('takes a client that waits', async () => {
    await fillBacklog(listener, 2)
    const ref = listener.asyncAccept(0)
    const promised = listener.accept({ timeout: 0 })
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'connection']])
    ;(await promised).close()
  })

  it('takes all clients that wait, however many batches that needs', async () => {
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

  it('runs out behind an earlier request that goes on waiting', async () => {
    const first = listener.asyncAccept()
    const second = listener.asyncAccept(0)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[second, 'ERR_ACCEPT_TIMEOUT']])
    await connect(listener)
    await until(() => results.length === 2)
    assert.equal(results[1]?.ref, first)
  })

  it('takes the second client when the first goes to an earlier request', async () => {
    await fillBacklog(listener, 2)
    const refs = [listener.asyncAccept(), listener.asyncAccept(0)]
    await until(() => results.length === 2)
    assert.deepEqual(
      outcomes(results),
      refs.map((ref) => [ref, 'connection']),
    )
  })

  it('can be made again and again from its own result while everything else goes on', async () => {
    let asked = 0
    listener.on('accept', ({ error }) => {
      asked++
      if (error) listener.asyncAccept(0)
    })
    listener.asyncAccept(0)
    await until(() => asked > 10)
    const client = await connect(listener)
    await until(() => results.at(-1)?.connection !== undefined)
    await cutOff(client)
    assert.equal(listener.stats.timedOut, results.length - 1)
  })
})

describe('A request whose deadline passes while the event loop is blocked', () => {
  leaveNoFds()

  it('gets the client that waits nevertheless', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    const ref = listener.asyncAccept(1)
    const deadline = performance.now() + 2
    const connected = connect(listener)
    // Comes after the client's own connect(2), which Node defers to the next tick.
    process.nextTick(() => block(() => performance.now() > deadline && listener.backlog().queued === 1))
    await connected
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'connection']])
  })

  it('gets it over a unix socket, too', async () => {
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

  it('gets it when others were before it and a batch is too small for all', async () => {
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
    // In one turn of the loop a timer and the readiness bring a batch each; then others have their turn.
    assert.ok(most <= 2, `${most} in one turn`)
    assert.deepEqual(
      outcomes(results),
      refs.map((ref) => [ref, 'connection']),
    )
    assert.equal(listener.stats.timedOut, 0)
  })

  it('gets it when each handler blocks beyond the deadlines of the rest', async () => {
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

  it('runs out when nobody waits', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    const ref = listener.asyncAccept(1)
    const deadline = performance.now() + 2
    block(() => performance.now() > deadline)
    await until(() => results.length === 1)
    assert.deepEqual(outcomes(results), [[ref, 'ERR_ACCEPT_TIMEOUT']])
  })
})
