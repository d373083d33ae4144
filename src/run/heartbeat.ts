import type { Scoreboard } from './scoreboard.js'

// ms between two beats.
const interval = 250
// The beats of about one second.
const remembered = 4

/** CLOCK_MONOTONIC, which all processes share, in ms. Only the lower 32 bits. */
const now = () => Number(process.hrtime.bigint() / 1_000_000n) | 0

/** Makes this worker write into its line of the scoreboard how late its timers are. */
export function startHeartbeat(board: Scoreboard, slot: number): void {
  const delays = new Array<number>(remembered).fill(0)
  let last = now()
  let count = 0
  board.beat(slot, last, 0)
  setInterval(() => {
    const beat = now()
    delays[count++ % remembered] = Math.max(0, ((beat - last) | 0) - interval)
    last = beat
    board.beat(slot, beat, Math.max(...delays))
  }, interval).unref()
}

/**
 * Returns the largest delay of the event loop of a worker in the last second, in ms; undefined if it has not beaten yet.
 * A loop that is blocked now has not reported it, but its next beat is overdue.
 */
export function eventLoopDelay(board: Scoreboard, slot: number): number | undefined {
  const { last, delay } = board.heartbeat(slot)
  return last === 0 ? undefined : Math.max(delay, ((now() - last) | 0) - interval)
}
