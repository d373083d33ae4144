import assert from 'node:assert/strict'
import type { AcceptRef, AcceptResult, Listener } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { temporaryFd } from '../descriptors.js'
import { codeOf, collect, connect, gone, listen, refsOf, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'
const longTimeout = 3_600_000

/** Runs `run` in the handler of the first of `clients` connections. Returns the results. */
async function inHandler(listener: Listener, run: () => void, clients = 1): Promise<AcceptResult[]> {
  await fillBacklog(listener, clients)
  listener.once('accept', run)
  const results = collect(listener)
  listener.asyncAccept()
  await until(() => results.length > 0)
  return results
}

const closeAll = (results: readonly AcceptResult[]) => {
  for (const { connection } of results) connection?.close()
}

const range = (first: AcceptRef, count: number) => Array.from({ length: count }, (_, i) => first + i)

describe('Requests that an accept handler makes', () => {
  leaveNoFds()

  const count = 1_000

  it('get consecutive refs and are fulfilled in their order, with and without a timeout', async () => {
    const listener = await listen({ host })
    const refs: AcceptRef[] = []
    const askAll = () => {
      for (let i = 0; i < count; i++) refs.push(listener.asyncAccept(i % 7 === 3 ? longTimeout : undefined))
    }
    const results = await inHandler(listener, askAll, count + 1)
    assert.deepEqual(refs, range((results[0]?.ref as number) + 1, count))
    await until(() => results.length === count + 1)
    assert.deepEqual(refsOf(results).slice(1), refs)
    assert.equal(listener.pending, 0)
    closeAll(results)
    await listener.close()
  })

  it('count as pending at once', async () => {
    const listener = await listen({ host })
    const pending: number[] = []
    closeAll(
      await inHandler(listener, () => {
        for (let i = 0; i < 200; i++) {
          listener.asyncAccept()
          pending.push(listener.pending)
        }
      }),
    )
    assert.deepEqual(pending, range(1, 200))
    await listener.close()
  })

  it('can be cancelled in the same handler, in any order', async () => {
    const listener = await listen({ host })
    const kept: AcceptRef[] = []
    const askAndCancel = () => {
      const refs = range(0, 200).map(() => listener.asyncAccept())
      for (const ref of refs.toReversed()) {
        if (ref % 3 === 0) kept.unshift(ref)
        else assert.equal(listener.cancel(ref), true)
      }
      assert.equal(listener.cancel(refs.find((ref) => ref % 3 !== 0) as number), false)
      kept.push(listener.asyncAccept())
    }
    const results = await inHandler(listener, askAndCancel, 200)
    await until(() => results.length === kept.length + 1)
    assert.deepEqual(refsOf(results).slice(1), kept)
    closeAll(results)
    await listener.close()
  })

  for (const end of ['close', 'detach'] as const) {
    it(`are rejected by ${end}() in the same handler, which makes further requests throw`, async () => {
      const listener = await listen({ host })
      const refs: AcceptRef[] = []
      const results = await inHandler(listener, () => {
        for (let i = 0; i < 5; i++) refs.push(listener.asyncAccept())
        if (end === 'detach') temporaryFd(listener.detach())
        else void listener.close()
        assert.throws(() => listener.asyncAccept(), { code: 'ERR_LISTENER_CLOSED' })
      })
      await until(() => results.length === 6)
      assert.deepEqual(refsOf(results).slice(1), refs)
      for (const { error } of results.slice(1)) assert.equal(codeOf(error), 'ERR_LISTENER_CLOSED')
      assert.equal(listener.stats.rejected, 5)
      closeAll(results)
    })
  }

  it('go to the listener for which they are made', async () => {
    const [one, other] = [await listen({ host }), await listen({ host })]
    const made: AcceptRef[] = []
    await fillBacklog(other, 10)
    const results = collect(other)
    closeAll(
      await inHandler(one, () => {
        for (let i = 0; i < 10; i++) {
          one.asyncAccept()
          made.push(other.asyncAccept())
        }
      }),
    )
    assert.deepEqual(made, range(1, 10))
    assert.equal(one.pending, 10)
    await until(() => results.length === 10)
    assert.deepEqual(refsOf(results), made)
    assert.equal(one.pending, 10)
    closeAll(results)
    await Promise.all([one.close(), other.close()])
  })

  it('accept a client that comes later', async () => {
    const listener = await listen({ host })
    const results = await inHandler(listener, () => listener.asyncAccept())
    const client = await connect(listener)
    await until(() => results.length === 2)
    closeAll(results)
    await gone(client)
    await listener.close()
  })
})
