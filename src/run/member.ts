import type { WorkerState } from './worker-states.js'

/** What the fleet needs to know of a worker, and what it does with it. */
export interface Member {
  readonly pid: number | undefined
  readonly state: WorkerState
  readonly startedAt: number
  readonly readyAt: number | undefined
  readonly retired: boolean
  readonly failure: string | undefined
  readonly exitCode: number
  /** Whether another worker shall replace this one. */
  stale: boolean
  /** The generation of its start. The fleet sets it. */
  generation: number
  retire(): void
  kill(): void
}

/** Names workers in the log. */
export function namesOf(workers: readonly Member[]): string {
  return `worker${workers.length === 1 ? '' : 's'} ${workers.map(({ pid }) => pid ?? '?').join(', ')}`
}

/**
 * Returns a live worker to retire, if there are more than the target: one to be replaced, then one that starts, then the
 * newest. `proving` does not count as ready yet.
 */
export function surplusOf<Worker extends Member>(
  live: readonly Worker[],
  target: number,
  proving: unknown,
): Worker | undefined {
  if (live.length <= target) return undefined
  const serving = live.filter((each) => each.state === 'ready' && each !== proving)
  // While stale workers are replaced, one more than the target may start.
  const isOver = live.length > target + Number(live.some(({ stale }) => stale))
  const isDispensable = (worker: Worker) =>
    serving.includes(worker) ? serving.length > target : isOver || (worker.stale && serving.some(({ stale }) => !stale))
  const rank = ({ stale, state }: Worker) => Number(!stale) * 2 + Number(state === 'ready')
  return [...live]
    .reverse()
    .sort((a, b) => rank(a) - rank(b))
    .find(isDispensable)
}
