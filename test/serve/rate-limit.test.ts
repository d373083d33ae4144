import assert from 'node:assert/strict'
import { RateLimit } from '../../src/serve/rate-limit.js'
import { cleanUp, until } from '../helpers.js'

/** A limit whose clock only the test moves. */
function limited(rate: number) {
  const clock = { now: 1000, tokens: 0 }
  const limit = new RateLimit(
    rate,
    () => clock.tokens++,
    () => clock.now,
  )
  cleanUp(() => limit.stop())
  /** Accepts what the limit allows, and returns the number. */
  const acceptAll = () => {
    let accepted = 0
    for (; limit.room > 0 && accepted < 10_000; accepted++) limit.take()
    return accepted
  }
  return { limit, clock, acceptAll }
}

describe('RateLimit', () => {
  it('allows the connections of one second at first', () => {
    for (const rate of [1, 2, 100]) assert.equal(limited(rate).acceptAll(), rate)
  })

  it('allows one connection per interval after that', () => {
    const { clock, acceptAll } = limited(4)
    acceptAll()
    const accepted = [250, 249, 1, 500, 100, 150].map((elapsed) => {
      clock.now += elapsed
      return acceptAll()
    })
    assert.deepEqual(accepted, [1, 0, 1, 2, 0, 1])
  })

  it('saves the tokens of one second at most', () => {
    const { clock, acceptAll } = limited(5)
    acceptAll()
    clock.now += 60_000
    assert.equal(acceptAll(), 5)
  })

  it('loses no token to rounding', () => {
    const { clock, acceptAll } = limited(3)
    let accepted = acceptAll()
    for (let step = 0; step < 100_000; step++) {
      clock.now += 0.1
      accepted += acceptAll()
    }
    // 10 s, whose last token may be due a rounding error later.
    assert.ok(accepted === 3 + 30 || accepted === 3 + 29, `${accepted}`)
  })

  it('owes the tokens of connections that came beyond the limit', () => {
    const { limit, clock, acceptAll } = limited(1)
    for (let connection = 0; connection < 3; connection++) limit.take()
    assert.equal(limit.room, -2)
    clock.now += 2000
    assert.equal(acceptAll(), 0)
    clock.now += 1000
    assert.equal(acceptAll(), 1)
  })

  it('keeps the saved tokens when the rate changes, as many as the new rate allows', () => {
    const { limit, clock, acceptAll } = limited(10)
    limit.rate = 4
    limit.rate = 10
    assert.equal(acceptAll(), 4)
    limit.rate = 2
    assert.equal(acceptAll(), 0)
    clock.now += 500
    assert.equal(acceptAll(), 1)
  })

  it('counts the time before a change at the old rate', () => {
    const { limit, clock, acceptAll } = limited(2)
    acceptAll()
    clock.now += 500
    limit.rate = 1000
    assert.equal(acceptAll(), 1)
  })

  it('has no limit at Infinity, and afterwards a full bucket', () => {
    const { limit, clock } = limited(Number.POSITIVE_INFINITY)
    for (let connection = 0; connection < 100; connection++) limit.take()
    assert.equal(limit.room, Number.POSITIVE_INFINITY)
    clock.now += 1
    assert.equal(limit.room, Number.POSITIVE_INFINITY)
    limit.rate = 3
    assert.equal(limit.room, 3)
    limit.rate = Number.POSITIVE_INFINITY
    assert.equal(limit.room, Number.POSITIVE_INFINITY)
  })

  it('allows nothing at 0', () => {
    const { limit, clock } = limited(0)
    clock.now += 10_000
    assert.equal(limit.room, 0)
  })

  for (const rate of [0, 1]) {
    it(`does not keep the process alive while it waits, at rate ${rate}`, () => {
      const { limit, acceptAll } = limited(rate)
      acceptAll()
      const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
      const before = timers()
      limit.wait()
      assert.equal(timers(), before)
    })
  }

  it('calls back once for any number of waits', async () => {
    const { limit, clock, acceptAll } = limited(1000)
    acceptAll()
    for (let wait = 0; wait < 3; wait++) limit.wait()
    await until(() => clock.tokens > 0)
    limit.wait()
    await until(() => clock.tokens > 1)
    assert.equal(clock.tokens, 2)
  })

  it('sets a new timer for a new rate', async () => {
    const { limit, clock, acceptAll } = limited(1)
    acceptAll()
    limit.wait() // for one second of the clock
    limit.rate = 1000
    limit.wait()
    await until(() => clock.tokens === 1)
  })
})
