// The longest delay of a Node timer, in ms. Node reduces a longer delay to 1 ms.
export const longestTimer = 2 ** 31 - 1

/** Calls `run` after `ms` milliseconds. A negative `ms` means no deadline. */
export function deadline(ms: number, run: () => void): NodeJS.Timeout | undefined {
  return ms < 0 ? undefined : setTimeout(run, Math.min(ms, longestTimer))
}

/**
 * Calls `run` after `ms` milliseconds and one further poll phase of the event loop. A negative `ms` means no deadline.
 * The returned function cancels the deadline.
 *
 * The poll phase matters because timers run before it. After an event loop turn longer than `ms`, a plain timer would
 * fire before data that arrived in time has been read.
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
