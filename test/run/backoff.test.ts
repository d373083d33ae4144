import assert from 'node:assert/strict'
import { Backoff } from '../../src/run/backoff.js'

/** The delays after starts that fail one after the other, each at once. */
function delays(backoff: Backoff, count: number): number[] {
  let now = 0
  return Array.from({ length: count }, () => {
    backoff.noteFailure({ startedAt: now, readyAt: undefined }, now + 1)
    const delay = backoff.until - now - 1
    now = backoff.until
    return delay
  })
}

describe('The backoff of starts', () => {
  it('doubles from 1 s to 30 s', () => {
    assert.deepEqual(delays(new Backoff(() => 0.5), 7), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000])
  })

  it('has jitter of a quarter, and is never longer than 30 s', () => {
    assert.deepEqual(delays(new Backoff(() => 0), 2), [750, 1500])
    assert.deepEqual(delays(new Backoff(() => 1), 6), [1250, 2500, 5000, 10_000, 20_000, 30_000])
  })

  it('counts workers that were started together once', () => {
    const backoff = new Backoff(() => 0.5)
    for (const now of [10, 11, 12]) backoff.noteFailure({ startedAt: 0, readyAt: undefined }, now)
    assert.equal(backoff.until, 1010)
  })

  it('lets a worker that was ready be replaced 1 s after its own start, and begins anew', () => {
    const backoff = new Backoff(() => 0.5)
    delays(backoff, 3)
    backoff.noteReady()
    const now = backoff.until
    backoff.noteFailure({ startedAt: now - 300, readyAt: now - 100 }, now)
    assert.equal(backoff.until, now + 700)
    backoff.noteFailure({ startedAt: now + 700, readyAt: undefined }, now + 800)
    assert.equal(backoff.until, now + 1800)
  })

  it('ends when the operator asks for a start', () => {
    const backoff = new Backoff(() => 0.5)
    delays(backoff, 3)
    backoff.reset()
    assert.equal(backoff.until, Number.NEGATIVE_INFINITY)
  })
})
