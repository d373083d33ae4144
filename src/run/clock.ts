/** A clock that a test can replace. */
export interface Clock {
  /** ms */
  now(): number
  /** Calls `run` once. The returned function cancels it. */
  after(ms: number, run: () => void): () => void
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
}
