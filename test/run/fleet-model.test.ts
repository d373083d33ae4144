import assert from 'node:assert/strict'
import fc from 'fast-check'
import { Backoff } from '../../src/run/backoff.js'
import { Fleet, type Verdict } from '../../src/run/fleet.js'
import type { Member } from '../../src/run/member.js'
import { stateAfter, type WorkerEvent, type WorkerState } from '../../src/run/worker-states.js'

/** A worker without a process. It changes its state as a real one does. */
class PretendedWorker implements Member {
  stale = false
  generation = 0
  state: WorkerState = 'starting'
  readyAt: number | undefined
  retired = false
  failure: string | undefined
  exitCode = 1

  constructor(
    readonly pid: number,
    readonly startedAt: number,
    private readonly world: World,
  ) {}

  retire(): void {
    this.world.onRetire(this)
    this.#on('retire')
  }

  kill(): void {
    this.#on('kill')
  }

  /** An event that the fleet has not caused. */
  happens(event: WorkerEvent): void {
    if (event === 'exit' && !this.retired) this.failure = 'exited with code 1'
    if (this.#on(event)) this.world.onChange(this)
  }

  #on(event: WorkerEvent): boolean {
    const next = stateAfter(this.state, event)
    if (next === undefined) return false
    this.state = next
    if (event === 'ready') this.readyAt = this.world.now
    if (event === 'retire') this.retired = true
    return true
  }
}

/** A fleet of pretended workers, on a clock that the test sets. */
class World {
  now = 0
  code: number | undefined
  readonly verdicts: Verdict[] = []
  asked = 0
  /** The number of starts, at most, if there is a single worker. */
  mayStart = 1
  readonly fleet: Fleet<PretendedWorker>
  onChange: (worker: PretendedWorker) => void = () => {}
  readonly #timers = new Set<{ at: number; run: () => void }>()
  #started = 0
  #generation = 1
  #canStart = true

  constructor(
    target: number,
    private readonly single: boolean,
  ) {
    this.fleet = new Fleet<PretendedWorker>({
      target,
      settle: 2_000,
      single,
      start: (onChange) => this.#start(onChange),
      log: () => {},
      onChange: () => this.check(),
      onEnd: (code) => {
        assert.equal(this.code, undefined)
        this.code = code
      },
      clock: {
        now: () => this.now,
        after: (ms, run) => {
          const timer = { at: this.now + ms, run }
          this.#timers.add(timer)
          return () => this.#timers.delete(timer)
        },
      },
      backoff: new Backoff(() => 0.5),
    })
    this.fleet.start()
  }

  #start(onChange: (worker: PretendedWorker) => void): PretendedWorker {
    this.onChange = onChange
    if (this.single) {
      assert.deepEqual(this.fleet?.workers ?? [], [], 'a worker starts beside another')
      assert.ok(this.mayStart-- > 0, 'a worker that has failed is replaced')
    }
    if (!this.#canStart) throw new Error('no memory')
    return new PretendedWorker(++this.#started, this.now, this)
  }

  check(): void {
    const { fleet } = this
    if (fleet === undefined) return
    const count = (...states: WorkerState[]) => fleet.workers.filter(({ state }) => states.includes(state)).length
    const isServing = fleet.phase === 'starting' || fleet.phase === 'running'
    const live = count('starting', 'ready')
    assert.ok(!isServing || live <= fleet.target + 1, `${live} live workers for a target of ${fleet.target}`)
    if (fleet.generation !== this.#generation) {
      this.#generation = fleet.generation
      if (!this.single) assert.equal(count('ending', 'killed'), 0, 'a reload has begun while workers drained')
    }
    assert.ok(fleet.workers.every(({ state }) => state !== 'gone'))
  }

  /** The fleet retires a worker. */
  onRetire(worker: PretendedWorker): void {
    if (this.single || worker.state !== 'ready' || this.fleet.phase !== 'running') return
    const others = this.fleet.ready.length - 1
    assert.ok(others >= this.fleet.target, `only ${others} of ${this.fleet.target} are ready without ${worker.pid}`)
  }

  happens(index: number, event: WorkerEvent): void {
    const { workers } = this.fleet
    workers[index % Math.max(1, workers.length)]?.happens(event)
  }

  replace(index: number): void {
    const { ready } = this.fleet
    const worker = ready[index % Math.max(1, ready.length)]
    if (worker === undefined) return
    this.mayStart++
    this.fleet.replace(worker, 'is old')
  }

  command(run: () => Promise<Verdict>): void {
    this.asked++
    this.mayStart++
    void run().then((verdict) => this.verdicts.push(verdict))
  }

  refuseStarts(refuse: boolean): void {
    this.#canStart = !refuse
  }

  advance(ms: number): void {
    const end = this.now + ms
    for (;;) {
      const [next] = [...this.#timers].sort((a, b) => a.at - b.at)
      if (next === undefined || next.at > end) break
      this.#timers.delete(next)
      this.now = Math.max(this.now, next.at)
      next.run()
    }
    this.now = end
  }

  /** Everything that is due happens, and every worker does well. */
  calm(): void {
    this.refuseStarts(false)
    for (let i = 0; i < 200; i++) {
      for (const worker of this.fleet.workers) {
        worker.happens(worker.state === 'starting' ? 'ready' : worker.state === 'ready' ? 'ready' : 'exit')
      }
      this.advance(2_000)
    }
  }
}

type Step = readonly [name: string, run: (world: World) => void]

const event = (name: WorkerEvent) =>
  fc.nat(9).map((index): Step => [`${name} ${index}`, (world) => world.happens(index, name)])
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: event('ready') },
  { weight: 4, arbitrary: event('exit') },
  { weight: 1, arbitrary: event('stopping') },
  { weight: 1, arbitrary: event('kill') },
  { weight: 3, arbitrary: fc.constant<Step>(['reload', (world) => world.command(() => world.fleet.reload())]) },
  { weight: 1, arbitrary: fc.nat(9).map((index): Step => [`replace ${index}`, (world) => world.replace(index)]) },
  {
    weight: 2,
    arbitrary: fc
      .integer({ min: 1, max: 5 })
      .map((target): Step => [`scale ${target}`, (world) => world.command(() => world.fleet.scale(target))]),
  },
  { weight: 4, arbitrary: fc.nat(4_000).map((ms): Step => [`advance ${ms}`, (world) => world.advance(ms)]) },
  { weight: 1, arbitrary: fc.boolean().map((on): Step => [`refuse starts ${on}`, (world) => world.refuseStarts(on)]) },
)

const numRuns = Number(process.env.FLEET_RUNS ?? 1_000)

async function checkSequence(target: number, single: boolean, sequence: readonly Step[]): Promise<void> {
  const world = new World(target, single)
  const { fleet } = world
  for (const [, run] of sequence) {
    run(world)
    world.check()
  }
  world.calm()
  await undefined
  if (fleet.phase !== 'ended') {
    // A single worker that has failed is not replaced.
    const workers = single ? fleet.workers.length : fleet.target
    assert.ok(workers === 1 || !single || fleet.failures > 0)
    assert.equal(fleet.ready.length, workers)
    assert.equal(fleet.workers.length, workers)
    assert.equal(fleet.reloading, false)
    assert.equal(world.verdicts.length, world.asked)
    world.command(() => fleet.reload())
    world.calm()
    await undefined
    assert.deepEqual(world.verdicts.at(-1), { ok: true })
    assert.equal(fleet.ready.length, fleet.target)
    world.command(() => fleet.stop())
    world.calm()
    await undefined
    assert.equal(world.code, 0)
  }
  assert.ok(!single || world.code === 0, 'a fleet of a single worker ends only at stop()')
  assert.deepEqual(fleet.workers, [])
  assert.equal(fleet.phase, 'ended')
  assert.equal(world.verdicts.length, world.asked)
}

describe('Fleet, with random events', () => {
  const steps = fc.array(step, { maxLength: 60 })

  it('keeps its promises about the number of workers, answers every command, and gets ready when all is well', async () => {
    const targets = fc.integer({ min: 1, max: 4 })
    const property = fc.asyncProperty(targets, steps, (target, sequence) => checkSequence(target, false, sequence))
    await fc.assert(property, { numRuns })
  })

  it('runs one process at a time with a single worker, and starts it anew at a reload only', async () => {
    const property = fc.asyncProperty(steps, (sequence) => checkSequence(1, true, sequence))
    await fc.assert(property, { numRuns })
  })
})
