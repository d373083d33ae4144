// Node's timers fire at once when they are told to wait longer.
export const longestTimer = 2 ** 31 - 1

/** Calls `run` in `ms`; never when that is negative. */
export function deadline(ms: number, run: () => void): NodeJS.Timeout | undefined {
  return ms < 0 ? undefined : setTimeout(run, Math.min(ms, longestTimer))
}
