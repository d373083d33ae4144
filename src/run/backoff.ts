// ms
const first = 1_000
const longest = 30_000

/** Decides when the next worker may start after one has failed. Times are in ms. */
export class Backoff {
  readonly #random: () => number
  #failedStarts = 0
  /** The time of the last failed start. */
  #failedStartAt = Number.NEGATIVE_INFINITY
  #until = Number.NEGATIVE_INFINITY

  /** `random` returns a number from 0 to 1. */
  constructor(random: () => number = Math.random) {
    this.#random = random
  }

  /** The time before which no worker shall start. */
  get until(): number {
    return this.#until
  }

  /** A worker has become ready. */
  noteReady(): void {
    this.#failedStarts = 0
  }

  /**
   * A worker has failed. One that was never ready delays the next start by 1 s, and twice as long each time that this
   * happens again, up to 30 s. One that was ready delays it only until 1 s after its own start.
   */
  noteFailure({ startedAt, readyAt }: { startedAt: number; readyAt: number | undefined }, now: number): void {
    if (readyAt !== undefined) {
      this.#delay(startedAt, first)
      return
    }
    // Workers that were started together fail for the same reason.
    if (startedAt < this.#failedStartAt) return
    this.#failedStartAt = now
    this.#delay(now, Math.min(longest, first * 2 ** this.#failedStarts++))
  }

  // Without jitter, the workers of many machines would start at the same time.
  #delay(since: number, ms: number): void {
    this.#until = Math.max(this.#until, since + Math.min(ms * (0.75 + this.#random() / 2), longest))
  }

  /** Allows a start at once: the operator has asked for one. */
  reset(): void {
    this.#failedStarts = 0
    this.#until = Number.NEGATIVE_INFINITY
  }
}
