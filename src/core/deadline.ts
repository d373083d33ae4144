// Node's timers fire at once when they are told to wait longer.
export const longestTimer = 2 ** 31 - 1

/** Calls `run` in `ms`; never when that is negative. */
export function deadline(ms: number, run: () => void): NodeJS.Timeout | undefined {
  return ms < 0 ? undefined : setTimeout(run, Math.min(ms, longestTimer))
}

/**
 * Calls `run` in `ms`, when the event loop has polled once more; never when `ms` is negative. Timers run before the loop
 * polls: after a turn that took longer than `ms`, the time is over before anything that came in time has been read. The
 * function that is returned ends the wait.
 */
export function deadlineAfterPoll(ms: number, run: () => void): () => void {
  let polled: NodeJS.Immediate | undefined
  const timer = deadline(ms, () => {
    polled = setImmediate(run)
  })
  return () => {
    clearTimeout(timer)
    clearImmediate(polled)
  }
}
