// A random sequence of accepts, ends of connections, limits and ends of listeners, with requests that are only counted.
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { type AcceptRequests, maxOutstanding } from '../../src/serve/accept-requests.js'
import { EqualParts } from '../../src/serve/equal-parts.js'
import { checkSequences, record, sequences, type TurnOf } from '../model-sequences.js'

/** Counts requests as `AcceptRequests` does. The addon may have accepted connections for some of them already. */
class CountedRequests {
  readonly listener = { fd: 1 }
  size = 0
  /** The number of requests that are being delivered, and cannot be withdrawn. */
  delivering = 0
  memory = true
  adjusted = 0

  adjust(count: number): void {
    this.adjusted++
    this.size = Math.max(Math.min(this.size, count), this.delivering)
    if (this.listener.fd >= 0 && this.memory) this.size = Math.max(this.size, Math.min(count, maxOutstanding))
  }
}

type Step =
  | { do: 'accept'; on: number; count: number }
  | { do: 'end'; count: number }
  | { do: 'limit'; limit: number }
  | { do: 'close' | 'loseMemory' | 'findMemory'; on: number }

const which = fc.nat(9)
const steps = {
  accept: record({ do: fc.constant('accept'), on: which, count: fc.integer({ min: 1, max: 5 }) }),
  end: record({ do: fc.constant('end'), count: fc.integer({ min: 1, max: 3 }) }),
  limit: record({ do: fc.constant('limit'), limit: fc.oneof(fc.nat(30), fc.nat(1000)) }),
  close: record({ do: fc.constant('close'), on: which }),
  loseMemory: record({ do: fc.constant('loseMemory'), on: which }),
  findMemory: record({ do: fc.constant('findMemory'), on: which }),
} satisfies Record<string, fc.Arbitrary<Step>>

class Run {
  readonly all: CountedRequests[]
  connections = 0
  #limit: number
  #parts: EqualParts | undefined
  #before = Number.NaN

  constructor(count: number, limit: number) {
    this.all = Array.from({ length: count }, () => new CountedRequests())
    this.#limit = limit
    this.share()
  }

  get open() {
    return this.all.filter(({ listener }) => listener.fd >= 0)
  }

  get room() {
    return this.#limit - this.connections
  }

  do(step: Step): void {
    if (step.do === 'end') this.connections -= Math.min(step.count, this.connections)
    else if (step.do === 'limit') this.#limit = step.limit
    else this.#doWith(step, this.all[step.on % this.all.length] as CountedRequests)
    this.share()
  }

  #doWith(step: Exclude<Step, { do: 'end' | 'limit' }>, requests: CountedRequests): void {
    if (step.do === 'loseMemory') requests.memory = false
    else if (step.do === 'findMemory') {
      requests.memory = true
      this.#changed(requests)
    } else if (step.do === 'accept') {
      if (requests.listener.fd < 0) return
      requests.delivering = Math.min(requests.size, step.count)
      while (requests.delivering > 0) {
        requests.delivering--
        requests.size--
        this.connections++
        this.#changed(requests)
        this.share()
      }
    } else {
      requests.listener.fd = -1
      // An adjustment comes between the end of the listener and that of its requests.
      this.share()
      while (requests.size > 0) {
        requests.size--
        this.#changed(requests)
        this.share()
      }
    }
  }

  #changed(requests: CountedRequests): void {
    this.#parts?.markChanged(requests as unknown as AcceptRequests)
  }

  /** As `RequestPool` does, without turns of the listeners when the room is scarce. */
  share(): void {
    const { room, open, all } = this
    const adjusted = () => all.reduce((sum, each) => sum + each.adjusted, 0)
    const before = adjusted()
    const wanted = Math.min(room, open.length * maxOutstanding)
    const change = Math.abs(wanted - this.#before)
    if (this.#parts?.share(room)) {
      // One adjustment for each request more or less, one for each listener that has changed, and those of an end.
      const others = all.filter(({ memory, listener }) => !memory || listener.fd < 0).length
      const most = change + 1 + others * (maxOutstanding + 2)
      if (change < open.length) assert.ok(adjusted() - before <= most, `${adjusted() - before} adjustments`)
    } else if (room >= open.length) {
      this.#parts = new EqualParts(open as unknown as AcceptRequests[])
      assert.ok(this.#parts.share(room))
    } else {
      this.#parts = undefined
      for (const [index, requests] of open.entries()) requests.adjust(index < room ? 1 : 0)
    }
    this.#before = wanted
  }

  check(): void {
    const { room, open, all } = this
    const sum = all.reduce((total, { size }) => total + size, 0)
    assert.ok(sum <= Math.max(room, 0), `${sum} requests, room for ${room}`)
    if (room < open.length || open.some(({ memory }) => !memory)) return
    const sizes = open.map(({ size }) => size)
    assert.equal(sum, Math.min(room, open.length * maxOutstanding))
    assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1 || open.length === 0, `requests: ${sizes}`)
  }
}

describe('EqualParts', () => {
  it('gives each open listener an equal part of the room, whatever happens', async function () {
    const weights = { accept: 10, end: 8, limit: 2, close: 1, loseMemory: 1, findMemory: 2 }
    const args: [fc.Arbitrary<number>, fc.Arbitrary<number>, fc.Arbitrary<TurnOf<Step>[]>] = [
      fc.integer({ min: 2, max: 10 }),
      fc.nat(100),
      sequences(steps, weights, 60),
    ]
    const extent = { file: 'test/serve/equal-parts.test.ts', runs: 2000, share: 1 }
    await checkSequences<[number, number, TurnOf<Step>[]]>(this, extent, args, async (count, limit, turns) => {
      const run = new Run(count, limit)
      run.check()
      for (const { step } of turns) {
        run.do(step)
        run.check()
      }
    })
  })
})
