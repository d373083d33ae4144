import { join } from 'node:path'
import fc from 'fast-check'
import type { AcceptingOptions } from '../../src/accept/options.js'
import type { ListenOptions } from '../../src/index.js'
import { openFds, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { checkSequences, record, sequences } from '../model-sequences.js'
import { hasIpv6, needs } from '../needs.js'
import { ModelRun, type Step, type Turn } from './model-run.js'

const number = fc.nat(1000)
const oneOf = fc.constantFrom
const timeout = fc.oneof(
  { weight: 3, arbitrary: fc.constant(-1) },
  { weight: 2, arbitrary: oneOf(0, 1, 2, 3) },
  { weight: 1, arbitrary: fc.constant(3_600_000) },
)
const way = oneOf('event', 'event', 'event', 'promise', 'promise', 'next', 'aborted')

const steps = {
  ask: record({ do: fc.constant('ask'), on: number, way, timeout, again: fc.boolean() }),
  askWithSignal: record({ do: fc.constant('askWithSignal'), on: number, group: fc.nat(1), timeout }),
  cancel: record({ do: fc.constant('cancel'), on: number, which: number }),
  abort: record({ do: fc.constant('abort'), group: fc.nat(1) }),
  endIteration: record({ do: fc.constant('endIteration'), on: number }),
  connect: record({ do: fc.constant('connect'), count: fc.integer({ min: 1, max: 3 }) }),
  resetClient: record({ do: fc.constant('resetClient'), which: number }),
  closeConnection: record({ do: fc.constant('closeConnection'), which: number }),
  linger: record({ do: fc.constant('lingerUntilAllRanOut') }),
  close: record({ do: fc.constant('close'), on: number }),
  detach: record({ do: fc.constant('detach'), on: number, adopt: fc.boolean() }),
  adopt: record({ do: fc.constant('adopt') }),
  duplicate: record({ do: fc.constant('duplicate'), on: number }),
  startThread: record({ do: fc.constant('startThread'), on: number }),
  askInThread: record({
    do: fc.constant('askInThread'),
    which: number,
    timeout,
    count: fc.integer({ min: 1, max: 3 }),
  }),
  cancelInThread: record({ do: fc.constant('cancelInThread'), which: number }),
  endThread: record({
    do: fc.constant('endThread'),
    which: number,
    how: oneOf('terminate', 'exit', 'close'),
    meanwhile: fc.nat(4),
  }),
  exhaust: record({ do: fc.constant('exhaust') }),
  free: record({ do: fc.constant('free'), count: oneOf(1, 2, 1000) }),
} satisfies Record<string, fc.Arbitrary<Step>>

const maxBatch = oneOf(1, 2, 64)
const places = oneOf('127.0.0.1', ...(hasIpv6 ? ['::1'] : []), 'path', 'abstract')

describe('A listener and its queue model', () => {
  leaveNoFds()

  before(() => {
    if (!hasIpv6) console.log('      skipped: ::1 is not available on this host')
  })

  let directory = ''
  let paths = 0
  beforeEach(() => {
    directory = temporaryDirectory()
  })

  function at(place: string): ListenOptions {
    if (place === 'path') return { path: join(directory, `${paths++}`) }
    if (place === 'abstract') return { path: `\0async-accept-model-${process.pid}-${paths++}` }
    return { host: place }
  }

  /** Runs sequences on both. `share` is the fraction of `MODEL_RUNS`; the cheapest sequences get all of them. */
  async function compare(
    context: Mocha.Context,
    share: number,
    options: fc.Arbitrary<AcceptingOptions>,
    turns: fc.Arbitrary<Turn[]>,
  ): Promise<void> {
    const file = 'test/accept/listener-model.test.ts'
    await checkSequences(
      context,
      { file, runs: 3000, share },
      [places, options, turns],
      async (place, options, turns) => fc.pre(await ModelRun.of({ ...at(place), ...options }, turns)),
    )
  }

  it('agree for all requests and clients', async function () {
    const life = sequences(steps, {
      ask: 13,
      connect: 10,
      cancel: 4,
      askWithSignal: 4,
      abort: 2,
      endIteration: 1,
      resetClient: 2,
      closeConnection: 1,
      linger: 1,
      close: 1,
      detach: 1,
      adopt: 1,
      duplicate: 2,
    })
    await compare(this, 1, record({ maxBatch }), life)
  })

  it('agree while threads pull and end', async function () {
    const life = sequences(steps, {
      startThread: 2,
      askInThread: 8,
      cancelInThread: 2,
      endThread: 4,
      connect: 6,
      ask: 4,
      cancel: 1,
      close: 1,
      detach: 1,
      adopt: 1,
    })
    // Without a thread, most of these steps do nothing.
    const start: Turn = { step: { do: 'startThread', on: 0 }, turns: true }
    const begun = life.map((turns) => [start, ...turns])
    await compare(this, 0.05, record({ maxBatch }), begun)
  })

  it('agree while fds run out and become free', async function () {
    const limit = (fds: string) => needs(this, 'prlimit', `--pid=${process.pid}`, `--nofile=${fds}:`)
    const before = needs(this, 'prlimit', `--pid=${process.pid}`, '--nofile', '--output=SOFT', '--noheadings').trim()
    limit(String(Math.max(...openFds()) + 80))
    const life = sequences(steps, {
      exhaust: 8,
      free: 5,
      ask: 14,
      connect: 8,
      cancel: 3,
      askWithSignal: 2,
      abort: 1,
      resetClient: 1,
      closeConnection: 3,
      linger: 1,
      close: 1,
      detach: 1,
      adopt: 1,
      duplicate: 2,
    })
    // In one batch, all waiting clients are reset. Otherwise the last request could time out between batches.
    const resetting = fc.constant<AcceptingOptions>({ maxBatch: 64, onFdLimit: 'reset' })
    const options = fc.oneof({ weight: 2, arbitrary: record({ maxBatch }) }, { weight: 1, arbitrary: resetting })
    try {
      await compare(this, 0.2, options, life)
    } finally {
      limit(before)
    }
  })
})
