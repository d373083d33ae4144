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

  /** It hangs: its watchdog or another timeout of the supervisor expires. */
  expire(): void {
    this.failure = 'sent no watchdog notification'
    this.happens('kill')
  }

  /** An event that the fleet has not caused. */
  happens(event: WorkerEvent): void {
    if (event === 'exit' && !this.retired) this.failure ??= 'exited with code 1'
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
  readonly #started: PretendedWorker[] = []
  #generation = 1
  #canStart = true
  #killed = false
  /** The fleet catches what its `start` throws. */
  readonly #violations: string[] = []

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
    const workers = this.fleet?.workers ?? []
    if (this.single) {
      if (workers.length > 0) this.#violations.push('a worker starts beside another')
      if (this.mayStart-- <= 0) this.#violations.push('a worker that has failed is replaced')
    }
    const isFailing = ({ state, stale, retired }: PretendedWorker) =>
      (state === 'ending' || state === 'killed') && !stale && !retired
    if (this.fleet?.reloading && workers.some(isFailing)) this.#violations.push('a worker starts in a failing reload')
    if (!this.#canStart) throw new Error('no memory')
    const worker = new PretendedWorker(this.#started.length + 1, this.now, this)
    this.#started.push(worker)
    return worker
  }

  check(): void {
    const { fleet } = this
    assert.deepEqual(this.#violations, [])
    if (fleet === undefined) return
    const count = (...states: WorkerState[]) => fleet.workers.filter(({ state }) => states.includes(state)).length
    const isServing = fleet.phase === 'starting' || fleet.phase === 'running'
    const live = count('starting', 'ready')
    assert.ok(!isServing || live <= fleet.target + 1, `${live} live workers for a target of ${fleet.target}`)
    if (fleet.generation !== this.#generation) {
      this.#generation = fleet.generation
      if (!this.single) assert.equal(count('ending', 'killed'), 0, 'a reload has begun while workers drained')
    }
    assert.deepEqual(
      fleet.workers,
      this.#started.filter(({ state }) => state !== 'gone'),
    )
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

  expires(index: number): void {
    const { workers } = this.fleet
    workers[index % Math.max(1, workers.length)]?.expire()
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

  /** The supervisor is told to end at once. */
  kill(): void {
    if (this.fleet.phase !== 'ended') this.#killed = true
    this.fleet.kill(killedCode)
    assert.ok(this.fleet.workers.every(({ state }) => state === 'killed'))
  }

  /** Whether the exit code is right, after the end. */
  get isCodeRight(): boolean {
    return this.#killed ? this.code === killedCode : this.code === 0 || this.fleet.failures > 0
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
  { weight: 1, arbitrary: fc.nat(9).map((index): Step => [`expire ${index}`, (world) => world.expires(index)]) },
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

const killedCode = 131
const targets = fc.integer({ min: 1, max: 4 })
/** What happens before the last steps. */
const endings = fc.constantFrom<Step>(
  ['nothing', () => {}],
  ['stop', (world) => world.command(() => world.fleet.stop())],
  ['kill', (world) => world.kill()],
)
// Of 30 steps on average.
const numRuns = Number(process.env.FLEET_RUNS ?? 500)

async function checkSequence(
  target: number,
  single: boolean,
  before: readonly Step[],
  [, end]: Step,
  after: readonly Step[],
): Promise<void> {
  const world = new World(target, single)
  const { fleet } = world
  const runAll = (steps: readonly Step[]) => {
    for (const [, run] of steps) {
      run(world)
      world.check()
    }
  }
  runAll(before)
  end(world)
  runAll(after)
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
  assert.ok(world.isCodeRight)
  assert.deepEqual(fleet.workers, [])
  assert.equal(fleet.phase, 'ended')
  assert.equal(world.verdicts.length, world.asked)
}

describe('Fleet, with random events', () => {
  const steps = (maxLength: number) => fc.array(step, { maxLength, size: 'max' })

  it('keeps its promises about the number of workers, answers every command, and gets ready when all is well', async () => {
    const property = fc.asyncProperty(targets, steps(60), endings, steps(10), (target, ...parts) =>
      checkSequence(target, false, ...parts),
    )
    await fc.assert(property, { numRuns })
  })

  it('runs one process at a time with a single worker, and starts it anew at a reload only', async () => {
    const property = fc.asyncProperty(steps(60), endings, steps(10), (...parts) => checkSequence(1, true, ...parts))
    await fc.assert(property, { numRuns })
  })
})
