import { join } from 'node:path'
import fc from 'fast-check'
import { temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { checkSequences, record, sequences } from '../model-sequences.js'
import { movesSockets, SocketHolders } from '../socket-holders.js'
import { ServingRun, type Step, type Turn } from './serving-model-run.js'

const number = fc.nat(1000)
const oneOf = fc.constantFrom
const limit = oneOf(null, 0, 1, 1, 2, 2, 3, 4)
const serverLimit = oneOf<unknown[]>(0, 1, 1, 2, 3, undefined, null, Number.NaN, -1, 1.5, '2', Number.POSITIVE_INFINITY)
const serverOrListener = oneOf('server', 'listener')
const plans = oneOf(
  'destroy',
  'closeServer',
  'closeServing',
  'drain',
  'lowerLimit',
  'lowerServerLimit',
  'pause',
  'lowerRate',
  'toThread',
  'hold',
  'detach',
  'throw',
  'reject',
)

// The maximum number of steps in a sequence.
const most = 30

const steps = {
  open: record({ do: fc.constant('open'), place: oneOf('tcp', 'path'), maxBatch: oneOf(1, 2, 64) }),
  newServer: record({ do: fc.constant('newServer'), kind: oneOf('net', 'paused', 'http') }),
  serve: record({
    do: fc.constant('serve'),
    on: number,
    also: fc.array(number, { maxLength: 2 }),
    server: fc.option(number, { nil: null, freq: 3 }),
    maxConnections: limit,
  }),
  connect: record({ do: fc.constant('connect'), on: number, count: fc.integer({ min: 1, max: 3 }) }),
  leave: record({ do: fc.constant('leave'), which: number, how: oneOf('reset', 'close') }),
  send: record({ do: fc.constant('send'), which: number, what: oneOf('part', 'request', 'held') }),
  socket: record({
    do: fc.constant('socket'),
    which: number,
    how: oneOf('end', 'destroy', 'destroy', 'reset', 'strip', 'resume', 'answer'),
  }),
  move: record({ do: fc.constant('move'), which: number, where: fc.constant('toThread') }),
  sendToChild: record({ do: fc.constant('move'), which: number, where: oneOf('toChild', 'toChild', 'toDeadChild') }),
  sendToDyingChild: record({ do: fc.constant('move'), which: number, where: fc.constant('toDyingChild') }),
  plan: record({ do: fc.constant('plan'), of: oneOf('server', 'serving'), which: number, plan: plans }),
  closeServer: record({
    do: fc.constant('closeServer'),
    which: number,
    andThen: oneOf(null, null, 'serve', 'serve', 'listen'),
    on: number,
  }),
  listenPlainly: record({ do: fc.constant('listenPlainly'), which: number }),
  closeServing: record({ do: fc.constant('closeServing'), which: number, closeListener: fc.boolean() }),
  drain: record({ do: fc.constant('drain'), which: number, timeout: oneOf(0, 3_600_000), closeListener: fc.boolean() }),
  closeListener: record({ do: fc.constant('closeListener'), which: number }),
  detach: record({ do: fc.constant('detach'), which: number, adopt: fc.boolean() }),
  limit: record({ do: fc.constant('limit'), which: number, maxConnections: limit }),
  limitServer: record({ do: fc.constant('limitServer'), which: number, maxConnections: serverLimit }),
  limitRate: record({ do: fc.constant('limitRate'), which: number, maxRate: oneOf(0, 1_000_000_000, null) }),
  pause: record({ do: oneOf('pause', 'resume', 'resume'), which: number }),
  add: record({ do: fc.constant('add'), which: number, to: number }),
  ref: record({ do: oneOf('ref', 'unref'), of: serverOrListener, which: number }),
  removeAllListeners: record({ do: fc.constant('removeAllListeners'), of: serverOrListener, which: number }),
  ask: record({ do: fc.constant('ask'), on: number, way: oneOf('event', 'promise') }),
  cancel: record({ do: fc.constant('cancel'), on: number }),
} satisfies Record<string, fc.Arbitrary<Step>>

const life = {
  open: 2,
  newServer: 3,
  serve: 9,
  connect: 15,
  leave: 4,
  send: 6,
  socket: 6,
  plan: 7,
  closeServer: 4,
  listenPlainly: 1,
  closeServing: 3,
  drain: 4,
  closeListener: 1,
  detach: 1,
  limit: 3,
  limitServer: 3,
  limitRate: 2,
  pause: 3,
  add: 4,
  ref: 1,
  removeAllListeners: 1,
  ask: 3,
  cancel: 1,
}

describe('Servings, servers and listeners', () => {
  leaveNoFds()

  let holders: SocketHolders
  before(async () => {
    holders = await SocketHolders.start()
    if (!movesSockets) console.log('      skipped: moving sockets to a thread, which this version of Node cannot do')
  })
  after(() => holders.stop())

  async function check(context: Mocha.Context, share: number, turns: fc.Arbitrary<Turn[]>): Promise<void> {
    const file = 'test/serve/serving-model.test.ts'
    const directory = temporaryDirectory()
    let paths = 0
    const newPath = () => join(directory, `${paths++}`)
    // With fewer initial steps, most steps of a sequence would have no effect.
    const begun = fc
      .tuple(steps.open, steps.open, steps.newServer, steps.serve, steps.connect, turns)
      .map(([open, other, newServer, serve, connect, rest]): Turn[] => [
        ...[open, other, newServer, serve, connect].map((step) => ({ step, turns: false })),
        ...rest,
      ])
    await checkSequences<[Turn[]]>(context, { file, runs: 1000, share }, [begun], async (all) =>
      fc.pre(await ServingRun.of(newPath, holders, all)),
    )
  }

  it('match the model while they are opened, closed, drained and limited', async function () {
    await check(this, 1, sequences(steps, life, most))
  })

  it('match the model while sockets move to threads and child processes', async function () {
    await check(this, 0.2, sequences(steps, { ...life, move: 8, sendToChild: 8, sendToDyingChild: 1 }, most))
  })
})
