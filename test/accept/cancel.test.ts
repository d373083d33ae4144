import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { text } from 'node:stream/consumers'
import type { AcceptRef, AcceptResult, Connection, Listener } from '../../src/index.js'
import { answer, fillBacklog } from '../backlog.js'
import { cleanUp, codeOf, collect, connect, listen, refsOf, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

let listener: Listener

const opened = async () => {
  listener = await listen({ host: '127.0.0.1' })
}

describe('Listener.cancel', () => {
  leaveNoFds()
  beforeEach(opened)

  it('withdraws a request, which gets no result; the client goes to the next request', async () => {
    const results = collect(listener)
    const [cancelled, next] = [listener.asyncAccept(), listener.asyncAccept()]
    assert.equal(listener.cancel(cancelled), true)
    assert.equal(listener.pending, 1)
    await connect(listener)
    await until(() => results.length > 0)
    await listener.close()
    assert.deepEqual(refsOf(results), [next])
  })

  it('leaves the client in the backlog when the only request is withdrawn', async () => {
    const results = collect(listener)
    await fillBacklog(listener, 1)
    // The listener could accept at once, but the cancel comes first.
    assert.equal(listener.cancel(listener.asyncAccept()), true)
    await fillBacklog(listener, 1)
    assert.equal(listener.stats.accepted, 0)
    const refs = [listener.asyncAccept(), listener.asyncAccept()]
    await until(() => results.length === 2)
    assert.deepEqual(refsOf(results), refs)
  })

  for (const [name, chosen] of [
    ['the head', [0]],
    ['the middle', [2]],
    ['the tail', [4]],
    ['all but the middle', [4, 0, 1, 3]],
    ['neighbours', [1, 2]],
  ] as const) {
    it(`keeps the order of the others: ${name}`, async () => {
      const results: AcceptResult[] = []
      listener.on('accept', (result) => results.push(result))
      const refs = Array.from({ length: 5 }, () => listener.asyncAccept())
      for (const index of chosen) assert.equal(listener.cancel(refs[index] as AcceptRef), true)
      // One more request, so that the tail is needed.
      refs.push(listener.asyncAccept())
      const rest = refs.filter((_, index) => !(chosen as readonly number[]).includes(index))
      assert.equal(listener.pending, rest.length)

      const clients = await Promise.all(rest.map(() => connect(listener)))
      await until(() => results.length === rest.length)
      assert.deepEqual(refsOf(results), rest)
      for (const { connection } of results) answer(connection as Connection, 'served')
      for (const client of clients) assert.equal(await text(client), 'served')
    })
  }

  it('returns false while the result is being delivered, and the result still arrives', async () => {
    await fillBacklog(listener, 3)
    const refs = [listener.asyncAccept(), listener.asyncAccept(), listener.asyncAccept()]
    const beyond = listener.asyncAccept()
    const results = collect(listener)
    const cancelled: boolean[] = []
    listener.once('accept', () => {
      for (const ref of [...refs, beyond]) cancelled.push(listener.cancel(ref))
    })
    await until(() => results.length === 3)
    assert.deepEqual(cancelled, [false, false, false, true])
    assert.deepEqual(refsOf(results), refs)
    assert.ok(results.every(({ connection }) => connection !== undefined))
    assert.equal(listener.stats.cancelled, 1)
  })

  it('returns false while a timeout is being delivered, and the timeout still arrives', async () => {
    const refs = [listener.asyncAccept(0), listener.asyncAccept(0)]
    const results = collect(listener)
    let cancelled: boolean | undefined
    listener.once('accept', () => {
      cancelled = listener.cancel(refs[1] as AcceptRef)
    })
    await until(() => results.length > 0)
    // Both deadlines are nearly always in the same millisecond. Otherwise the cancel comes in time.
    if (cancelled === false) await until(() => results.length === 2)
    else assert.equal(listener.pending, 0)
    assert.equal(results.length + listener.stats.cancelled, 2)
  })

  it('returns false after the result, on a second cancel, and for an unknown ref', async () => {
    const results = collect(listener)
    const served = listener.asyncAccept()
    await connect(listener)
    await until(() => results.length === 1)
    assert.equal(listener.cancel(served), false)

    const cancelled = listener.asyncAccept()
    assert.equal(listener.cancel(cancelled), true)
    assert.equal(listener.cancel(cancelled), false)
    for (const ref of [0, cancelled + 1, Number.MAX_SAFE_INTEGER]) assert.equal(listener.cancel(ref), false)
    assert.equal(listener.stats.cancelled, 1)
  })

  it('does not affect requests of another listener', async () => {
    const other = await listen({ host: '127.0.0.1' })
    const ref = listener.asyncAccept()
    assert.equal(other.cancel(ref), false)
    assert.equal(listener.pending, 1)
  })
})

describe('The signal of Listener.accept', () => {
  leaveNoFds()
  beforeEach(opened)

  const aborted = { name: 'AbortError', code: 'ABORT_ERR' }
  const listenersOf = (signal: AbortSignal) => getEventListeners(signal, 'abort').length

  it('rejects when it is already aborted, and makes no request', async () => {
    const reason = new Error('why')
    const signal = AbortSignal.abort(reason)
    const asked = listener.accept({ signal })
    assert.equal(listener.pending, 0)
    await assert.rejects(asked, { ...aborted, cause: reason })
    assert.equal(listenersOf(signal), 0)
    assert.equal(listener.stats.cancelled, 0)
  })

  it('withdraws an outstanding request; the client goes to the next request', async () => {
    const controller = new AbortController()
    const reason = new Error('why')
    const first = listener.accept({ signal: controller.signal, timeout: 600_000 })
    const second = listener.accept()
    controller.abort(reason)
    assert.equal(listener.pending, 1)
    await assert.rejects(first, { ...aborted, cause: reason })
    await connect(listener)
    ;(await second).close()
    assert.equal(listener.stats.cancelled, 1)
  })

  it('does not affect an accepted connection', async () => {
    const controller = new AbortController()
    const [connection, client] = await Promise.all([listener.accept({ signal: controller.signal }), connect(listener)])
    assert.equal(listenersOf(controller.signal), 0)
    controller.abort()
    answer(connection, 'still here')
    assert.equal(await text(client), 'still here')
    assert.equal(listener.stats.cancelled, 0)
  })

  it('has no effect while the result is being delivered', async () => {
    await fillBacklog(listener, 2)
    const controller = new AbortController()
    listener.once('accept', ({ connection }) => {
      connection?.close()
      controller.abort()
    })
    listener.asyncAccept()
    const late = listener.accept({ signal: controller.signal })
    const waiting = listener.accept({ signal: controller.signal })
    await assert.rejects(waiting, aborted)
    ;(await late).close()
    assert.equal(listener.stats.accepted, 2)
    assert.equal(listener.stats.cancelled, 1)
  })

  it('has no listener left after a request ends, in any way', async () => {
    const { signal } = new AbortController()
    await assert.rejects(listener.accept({ signal, timeout: 0 }), { code: 'ERR_ACCEPT_TIMEOUT' })
    assert.equal(listenersOf(signal), 0)
    const [connection] = await Promise.all([listener.accept({ signal }), connect(listener)])
    connection.close()
    assert.equal(listenersOf(signal), 0)
    const pending = listener.accept({ signal })
    assert.equal(listenersOf(signal), 1)
    await Promise.all([assert.rejects(pending, { code: 'ERR_LISTENER_CLOSED' }), listener.close()])
    assert.equal(listenersOf(signal), 0)
    await assert.rejects(listener.accept({ signal }), { code: 'ERR_LISTENER_CLOSED' })
    assert.equal(listenersOf(signal), 0)
  })

  it('serves 100 requests at once without a warning', async () => {
    const warnings: Error[] = []
    const onWarning = (warning: Error) => warnings.push(warning)
    process.on('warning', onWarning)
    cleanUp(() => process.off('warning', onWarning))
    const controller = new AbortController()
    const { signal } = controller
    const asked = Array.from({ length: 100 }, () => listener.accept({ signal }))
    await Promise.all([
      ...asked.slice(0, 10).map(async (each) => (await each).close()),
      ...asked.slice(0, 10).map(() => connect(listener)),
    ])
    assert.equal(listener.pending, 90)
    controller.abort()
    assert.equal(listener.pending, 0)
    const rest = await Promise.allSettled(asked.slice(10))
    assert.ok(rest.every((each) => each.status === 'rejected' && codeOf(each.reason) === 'ABORT_ERR'))
    assert.equal(listenersOf(signal), 0)
    // Warnings are emitted in the next tick.
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(warnings, [])
  })

  it('rejects requests in the order in which they were made', async () => {
    const controller = new AbortController()
    const { signal } = controller
    const order: number[] = []
    const asked = Array.from({ length: 10 }, (_, index) => listener.accept({ signal }).catch(() => order.push(index)))
    controller.abort()
    await Promise.all(asked)
    assert.deepEqual(
      order,
      asked.map((_, index) => index),
    )
  })
})
