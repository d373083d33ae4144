import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import type { ConnectionsOptions, Listener } from '../../src/index.js'
import { fillBacklog, queued } from '../backlog.js'
import { connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

describe('Listener.connections', () => {
  let listener: Listener
  leaveNoFds()

  beforeEach(async () => {
    listener = await listen({ host: '127.0.0.1' })
  })

  /** Iterates, closes each connection, and counts it. */
  async function count(options?: ConnectionsOptions, each: (seen: number) => unknown = () => {}): Promise<number> {
    let seen = 0
    for await (const connection of listener.connections(options)) {
      connection.close()
      await each(++seen)
    }
    return seen
  }

  describe('without options', () => {
    it('iterates until the listener closes', async () => {
      await fillBacklog(listener, 3)
      const seen = await count(undefined, (seen) => seen === 3 && listener.close())
      assert.equal(seen, 3)
    })

    it('withdraws the outstanding request when the loop is left', async () => {
      const iterator = listener.connections()
      const next = iterator.next()
      assert.equal(listener.pending, 1)
      await iterator.return?.()
      assert.deepEqual(await next, { value: undefined, done: true })
      assert.deepEqual([listener.pending, listener.stats.cancelled], [0, 1])
    })
  })

  describe('with a limit', () => {
    it('ends after that many connections, and leaves the other clients in the backlog', async () => {
      await fillBacklog(listener, 5)
      assert.equal(await count({ limit: 3 }), 3)
      await queued(listener, 2)
      assert.equal(listener.pending, 0)
      assert.equal(await count({ limit: 2 }), 2)
    })

    it('of 0 ends at once and accepts no client', async () => {
      await fillBacklog(listener, 1)
      assert.equal(await count({ limit: 0 }), 0)
      assert.deepEqual([listener.stats.accepted, listener.pending], [0, 0])
    })

    it('of Infinity does not end', async () => {
      await fillBacklog(listener, 2)
      const counting = count({ limit: Number.POSITIVE_INFINITY })
      await until(() => listener.stats.accepted === 2 && listener.pending === 1)
      await listener.close()
      assert.equal(await counting, 2)
    })

    it('makes no more requests than the limit allows, over several next() at once', async () => {
      const iterator = listener.connections({ limit: 2 })
      const [first, second, third] = [iterator.next(), iterator.next(), iterator.next()]
      assert.equal(listener.pending, 2)
      assert.equal((await third).done, true)
      for (let i = 0; i < 3; i++) await connect(listener)
      for (const next of [first, second]) (await next).value.close()
      assert.equal((await iterator.next()).done, true)
      await queued(listener, 1)
      assert.equal(listener.stats.accepted, 2)
    })

    it('does not count a request that timed out', async () => {
      const iterator = listener.connections({ limit: 1, timeout: 0 })
      await assert.rejects(iterator.next(), { code: 'ERR_ACCEPT_TIMEOUT' })
      await fillBacklog(listener, 1)
      ;(await iterator.next()).value.close()
      assert.equal((await iterator.next()).done, true)
    })
  })

  describe('with a timeout', () => {
    it('rejects when no client comes within the timeout', async () => {
      await assert.rejects(count({ timeout: 1 }), { code: 'ERR_ACCEPT_TIMEOUT' })
      assert.deepEqual([listener.pending, listener.stats.timedOut], [0, 1])
    })

    it('of 0 takes the clients in the backlog, and then rejects', async () => {
      await fillBacklog(listener, 3)
      let seen = 0
      await assert.rejects(
        count({ timeout: 0 }, () => seen++),
        { code: 'ERR_ACCEPT_TIMEOUT' },
      )
      assert.equal(seen, 3)
    })

    it('applies to each request, and not to the body of the loop', async () => {
      await fillBacklog(listener, 2)
      const timeout = 20
      const seen = await count({ timeout, limit: 2 }, async () => {
        const began = performance.now()
        await until(() => performance.now() - began > 2 * timeout)
      })
      assert.equal(seen, 2)
    })
  })

  describe('with a signal', () => {
    it('rejects with an AbortError when aborted, and withdraws the request', async () => {
      const controller = new AbortController()
      const { signal } = controller
      const counting = count({ signal })
      await connect(listener)
      await until(() => listener.stats.accepted === 1 && listener.pending === 1)
      const reason = new Error('enough')
      controller.abort(reason)
      await assert.rejects(counting, { name: 'AbortError', code: 'ABORT_ERR', cause: reason })
      assert.equal(listener.pending, 0)
      await fillBacklog(listener, 1)
      assert.equal(listener.stats.accepted, 1)
    })

    it('rejects at the next request when aborted within the loop', async () => {
      const controller = new AbortController()
      const { signal } = controller
      await fillBacklog(listener, 2)
      let seen = 0
      await assert.rejects(
        count({ signal }, () => {
          seen++
          controller.abort()
        }),
        { code: 'ABORT_ERR' },
      )
      assert.equal(seen, 1)
      assert.equal(listener.backlog().queued, 1)
    })

    it('rejects every outstanding request, and every later one', async () => {
      const controller = new AbortController()
      const { signal } = controller
      const iterator = listener.connections({ signal })
      const nexts = [iterator.next(), iterator.next()]
      controller.abort()
      for (const next of [...nexts, iterator.next()]) await assert.rejects(next, { code: 'ABORT_ERR' })
      assert.equal(listener.pending, 0)
      assert.equal((await iterator.return?.())?.done, true)
      assert.equal((await iterator.next()).done, true)
    })

    it('that is aborted already rejects the first request', async () => {
      await fillBacklog(listener, 1)
      await assert.rejects(count({ signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
      assert.deepEqual([listener.backlog().queued, listener.stats.cancelled], [1, 0], 'no request was made')
    })

    it('has a listener only while a request is outstanding', async () => {
      const { signal } = new AbortController()
      const listeners = () => getEventListeners(signal, 'abort').length
      await fillBacklog(listener, 2)
      await count({ signal, limit: 2 }, () => assert.equal(listeners(), 0))
      await assert.rejects(count({ signal, timeout: 0 }), { code: 'ERR_ACCEPT_TIMEOUT' })
      assert.equal(listeners(), 0)
      const iterator = listener.connections({ signal })
      const nexts = [iterator.next(), iterator.next()]
      assert.equal(listeners(), 1)
      await iterator.return?.()
      assert.deepEqual(
        (await Promise.all(nexts)).map(({ done }) => done),
        [true, true],
      )
      assert.equal(listeners(), 0)
      const last = listener.connections({ signal }).next()
      await listener.close()
      assert.equal((await last).done, true)
      assert.equal(listeners(), 0)
    })
  })
})
