import { Backoff } from './backoff.js'
import { type Clock, systemClock } from './clock.js'
import type { Log } from './log.js'
import { type Member, namesOf, surplusOf } from './member.js'

/** The result of a command. `reason` is a sentence for the operator. */
export type Verdict = { ok: true } | { ok: false; reason: string }

type Settle = (verdict: Verdict) => void

/**
 * - `'starting'`: no worker has been ready yet. If none gets ready, the fleet ends.
 * - `'running'`: workers that fail are replaced.
 * - `'stopping'`: all workers drain and end.
 * - `'ended'`: no worker is left.
 */
export type Phase = 'starting' | 'running' | 'stopping' | 'ended'

export interface FleetOptions<Worker extends Member> {
  /** The number of workers. */
  target: number
  /** ms for which the first new worker of a reload must stay ready before an old one is retired. */
  settle: number
  /**
   * For development: one worker, which starts only when no other process exists. A worker that fails is not replaced
   * until `reload()`.
   */
  single?: boolean
  /** Starts a worker, which calls `onChange` after each change of its state. Throws if that is impossible. */
  start(onChange: (worker: Worker) => void): Worker
  log: Log
  /** Called when the number of ready workers, the target or the phase may have changed. */
  onChange(): void
  /** Called once, with the exit code of the supervisor. */
  onEnd(code: number): void
  /** For tests. */
  clock?: Clock
  backoff?: Backoff
}

const stopping: Verdict = { ok: false, reason: 'the supervisor is stopping' }

/**
 * Keeps a number of workers ready, and replaces them. Every event leads to `#step`, which compares what is with what
 * shall be. So no order of events needs a case of its own.
 *
 * A replaced worker is retired only while more workers than the target are ready. So never fewer than the target are
 * ready unless one fails, and never more than one above it run, beside those that drain.
 */
export class Fleet<Worker extends Member> {
  readonly #options: FleetOptions<Worker>
  readonly #clock: Clock
  readonly #backoff: Backoff
  readonly #workers = new Set<Worker>()
  #phase: Phase = 'starting'
  #target: number
  #generation = 1
  #failures = 0
  /** The number of workers that were killed since `stop`, most because their drain took too long. */
  #killed = 0
  /** The exit code of the supervisor. */
  #exitCode = 0
  /** The commands that wait for the end of the current reload; undefined if none is under way. */
  #reloading: Settle[] | undefined
  /** The commands that wait for the next reload. */
  #nextReload: Settle[] = []
  #scaling: Settle[] = []
  /** With `single`: whether the worker has failed, so that none starts before a reload. */
  #isHeld = false
  #stopped: Settle[] = []
  /** The first new worker of a reload, while it must show that it stays; 'next' before it is started. */
  #proving: Worker | 'next' | undefined
  #cancelProof = () => {}
  #cancelWait = () => {}

  constructor(options: FleetOptions<Worker>) {
    this.#options = options
    this.#target = options.target
    this.#clock = options.clock ?? systemClock
    this.#backoff = options.backoff ?? new Backoff()
  }

  get phase(): Phase {
    return this.#phase
  }

  get target(): number {
    return this.#target
  }

  /** The number of reloads that have begun, plus 1. */
  get generation(): number {
    return this.#generation
  }

  get reloading(): boolean {
    return this.#reloading !== undefined
  }

  /** The number of workers that have failed. */
  get failures(): number {
    return this.#failures
  }

  get workers(): readonly Worker[] {
    return [...this.#workers]
  }

  get ready(): readonly Worker[] {
    return this.workers.filter(({ state }) => state === 'ready')
  }

  /** Those that serve, or will. */
  get #live(): readonly Worker[] {
    return this.workers.filter(({ state }) => state === 'starting' || state === 'ready')
  }

  /** Starts the workers. */
  start(): void {
    this.#step()
  }

  /**
   * Replaces all workers, one after the other. Waits while workers of an earlier reload start or drain; all calls of
   * that time become one reload. With `single`, waits for nothing.
   */
  reload(): Promise<Verdict> {
    const isBeforeStart = this.#options.single && this.#live.length === 0
    return this.#command((isBeforeStart && this.#reloading) || this.#nextReload)
  }

  /** Replaces one worker, unless others are replaced or drain. It serves until another is ready. */
  replace(worker: Worker, why: string): void {
    const isBusy = this.#reloading !== undefined || this.workers.some(({ state, stale }) => state !== 'ready' || stale)
    if (this.#phase !== 'running' || isBusy) return
    worker.stale = true
    this.#options.log(`replaces worker ${worker.pid}, which ${why}`)
    this.#step()
  }

  /** Changes the number of workers. Resolves when that many are ready. */
  scale(target: number): Promise<Verdict> {
    if (this.#options.single) return Promise.resolve({ ok: false, reason: 'with --watch, there is one worker' })
    if (target !== this.#target) this.#options.log(`scales from ${this.#target} to ${target}`)
    this.#target = target
    return this.#command(this.#scaling)
  }

  /** Drains and ends all workers. */
  stop(): Promise<Verdict> {
    if (this.#phase === 'ended') return Promise.resolve({ ok: true })
    const verdict = new Promise<Verdict>((resolve) => this.#stopped.push(resolve))
    this.#beginStop()
    return verdict
  }

  /** Ends all workers at once. `code` is the exit code of the supervisor. */
  kill(code: number): void {
    this.#exitCode = code
    this.#beginStop()
    for (const worker of this.workers) worker.kill()
  }

  #command(list: Settle[]): Promise<Verdict> {
    if (this.#phase === 'stopping' || this.#phase === 'ended') return Promise.resolve(stopping)
    const verdict = new Promise<Verdict>((resolve) => list.push(resolve))
    this.#step()
    return verdict
  }

  #beginStop(): void {
    if (this.#phase === 'stopping' || this.#phase === 'ended') return
    this.#phase = 'stopping'
    this.#settleAll(stopping)
    this.#step()
  }

  #onWorkerChange(worker: Worker): void {
    if (worker.state === 'ready') this.#onReady(worker)
    if (worker.state === 'ending') this.#onLeaving(worker)
    // Its failure is known. The next one must not start before the delay, or before the reload has failed.
    if (worker.state === 'killed' && !worker.retired) this.#backoff.noteFailure(worker, this.#clock.now())
    if (worker.state === 'gone') this.#onGone(worker)
    this.#step()
  }

  #onReady(worker: Worker): void {
    this.#backoff.noteReady()
    this.#options.log(`worker ${worker.pid} is ready, generation ${worker.generation}`, 'good')
    if (this.#phase === 'starting') this.#phase = 'running'
    if (worker !== this.#proving) return
    this.#cancelProof = this.#clock.after(this.#options.settle, () => {
      this.#endProof()
      this.#step()
    })
  }

  // It ends by itself, and its exit code will say why. The next one may do the same.
  #onLeaving(worker: Worker): void {
    this.#options.log(`worker ${worker.pid} drains by itself`)
    this.#backoff.noteFailure(worker, this.#clock.now())
    if (worker === this.#proving) this.#cancelProof()
  }

  #onGone(worker: Worker): void {
    this.#workers.delete(worker)
    if (worker.retired) {
      const how = worker.failure ? `: it ${worker.failure}` : ''
      this.#options.log(`worker ${worker.pid} has ended${how}`, how === '' ? undefined : 'bad')
      if (worker.failure && this.#phase === 'stopping') this.#killed++
      return
    }
    this.#onFailure(worker, `worker ${worker.pid ?? ''} ${worker.failure}`.replace('  ', ' '))
  }

  #onFailure(worker: Pick<Worker, 'startedAt' | 'readyAt' | 'stale' | 'exitCode'>, reason: string): void {
    const failsReload = this.#reloading !== undefined && !worker.stale
    if (!failsReload) this.#options.log(reason, 'bad')
    if (this.#phase === 'stopping') return
    this.#failures++
    this.#backoff.noteFailure(worker, this.#clock.now())
    const isStart = worker.readyAt === undefined
    const verdict: Verdict = { ok: false, reason }
    if (failsReload) {
      // The old ones stay, and are the current ones again.
      for (const each of this.#workers) each.stale = false
      this.#endReload(verdict)
    }
    if (isStart) this.#settleList(this.#scaling, verdict)
    if (this.#options.single) {
      this.#isHeld = !worker.stale
      if (this.#isHeld) this.#options.log('waits for a change or a reload')
      return
    }
    if (this.#phase === 'starting' && this.#live.length === 0) {
      // 0 would say that all is well.
      this.#exitCode = worker.exitCode || 1
      this.#phase = 'stopping'
      this.#settleAll(verdict)
    }
  }

  #step(): void {
    if (this.#phase === 'ended') return
    if (this.#phase === 'stopping') {
      this.#logDrain(this.#live, 'the supervisor is stopping')
      for (const worker of this.workers) worker.retire()
      if (this.#workers.size === 0) this.#end()
    } else {
      do {
        this.#retireSurplus()
        this.#startMissing()
        this.#settleReached()
      } while (this.#beginReload())
    }
    this.#options.onChange()
  }

  /** Begins the reload that was asked for, if no earlier one is under way and nothing drains. Returns whether it did. */
  #beginReload(): boolean {
    if (this.#nextReload.length === 0) return false
    const isBusy = this.#reloading !== undefined || this.#live.length < this.#workers.size
    if (!this.#options.single && (isBusy || this.#phase !== 'running')) return false
    this.#reloading = [...(this.#reloading ?? []), ...this.#nextReload.splice(0)]
    this.#generation++
    this.#options.log(`reloads, generation ${this.#generation}`)
    for (const worker of this.#workers) worker.stale = true
    this.#backoff.reset()
    this.#isHeld = false
    if (!this.#options.single) this.#proving = 'next'
    return true
  }

  #retireSurplus(): void {
    const retired: Worker[] = []
    for (;;) {
      const live = this.#live
      const worker = this.#options.single
        ? live.find(({ stale }) => stale)
        : surplusOf(live, this.#target, this.#proving)
      if (worker === undefined) break
      if (worker === this.#proving) this.#endProof()
      worker.retire()
      retired.push(worker)
    }
    const isReplaced = ({ stale }: Worker) => stale
    this.#logDrain(retired.filter(isReplaced), 'replaced')
    this.#logDrain(
      retired.filter((worker) => !isReplaced(worker)),
      `the target is ${this.#target}`,
    )
  }

  /** One line, also for many workers. */
  #logDrain(workers: readonly Worker[], why: string): void {
    if (workers.length > 0) this.#options.log(`drains ${namesOf(workers)}: ${why}`)
  }

  #startMissing(): void {
    const started: Worker[] = []
    while (this.#isMissing) {
      const wait = this.#backoff.until - this.#clock.now()
      if (wait > 0) {
        this.#cancelWait()
        this.#cancelWait = this.#clock.after(wait, () => this.#step())
        break
      }
      const worker = this.#startOne()
      if (worker !== undefined) started.push(worker)
    }
    if (started.length > 0) this.#options.log(`starts ${namesOf(started)}, generation ${this.#generation}`)
  }

  get #isMissing(): boolean {
    if (this.#options.single) return this.#workers.size === 0 && !this.#isHeld
    // While no worker has ever been ready, none is started anew.
    const hasFailed = this.#failures > 0 || this.#live.length < this.#workers.size
    if (this.#phase === 'starting' && hasFailed) return false
    // A new worker is about to fail the reload. No other one of the bad version starts meanwhile.
    const isFailing = ({ state, stale, retired }: Worker) =>
      (state === 'ending' || state === 'killed') && !stale && !retired
    if (this.#reloading !== undefined && this.workers.some(isFailing)) return false
    return this.#live.length < this.#target + Number(this.#live.some(({ stale }) => stale))
  }

  #startOne(): Worker | undefined {
    const startedAt = this.#clock.now()
    let worker: Worker
    try {
      worker = this.#options.start((changed) => this.#onWorkerChange(changed))
    } catch (error) {
      // No fds or memory, for example.
      const failed = { startedAt, readyAt: undefined, stale: false, exitCode: 1 }
      this.#onFailure(failed, `cannot start a worker: ${(error as Error).message}`)
      if (this.#phase === 'stopping') queueMicrotask(() => this.#step())
      return undefined
    }
    worker.generation = this.#generation
    this.#workers.add(worker)
    if (this.#proving === 'next') this.#proving = worker
    return worker
  }

  #settleReached(): void {
    const live = this.#live
    const reached = live.length === this.#target && live.every(({ state, stale }) => state === 'ready' && !stale)
    if (!reached || this.#proving !== undefined) return
    if (this.#reloading !== undefined) this.#endReload({ ok: true })
    this.#settleList(this.#scaling, { ok: true })
  }

  #endProof(): void {
    this.#cancelProof()
    this.#proving = undefined
  }

  #endReload(verdict: Verdict): void {
    this.#endProof()
    this.#options.log(
      verdict.ok ? `has reloaded, generation ${this.#generation}` : `the reload failed: ${verdict.reason}`,
      verdict.ok ? 'good' : 'bad',
    )
    const waiting = this.#reloading ?? []
    this.#reloading = undefined
    this.#settleList(waiting, verdict)
  }

  #settleList(list: Settle[], verdict: Verdict): void {
    for (const settle of list.splice(0)) settle(verdict)
  }

  #settleAll(verdict: Verdict): void {
    for (const list of [this.#reloading ?? [], this.#nextReload, this.#scaling]) this.#settleList(list, verdict)
    this.#reloading = undefined
    this.#endProof()
    this.#cancelWait()
  }

  #end(): void {
    this.#phase = 'ended'
    const killed = this.#killed === 0 ? '' : `workers killed: ${this.#killed}`
    this.#settleList(this.#stopped, killed === '' ? { ok: true } : { ok: false, reason: killed })
    this.#options.onEnd(this.#exitCode)
  }
}
