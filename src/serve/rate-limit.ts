import { longestTimer } from '../core/deadline.js'

/**
 * Limits the rate of accepts, as a token bucket. An accept takes a token. Tokens come at the rate, and the bucket holds
 * those of one second, which is the largest burst. It starts full.
 */
export class RateLimit {
  readonly #onToken: () => void
  readonly #now: () => number
  #rate: number
  /** The number of tokens at `#countedAt`. Negative if more connections came than there were tokens. */
  #tokens: number
  #countedAt: number
  #timer: NodeJS.Timeout | undefined

  /**
   * `rate` is in connections per second; `Infinity`: no limit. `onToken` is called when a token has come after
   * {@link wait}. `now` returns a monotonic time in ms.
   */
  constructor(rate: number, onToken: () => void, now: () => number = () => performance.now()) {
    this.#rate = rate
    this.#tokens = rate
    this.#onToken = onToken
    this.#now = now
    this.#countedAt = now()
  }

  get rate(): number {
    return this.#rate
  }

  /** Keeps the tokens that the new bucket has room for, so that setting the rate repeatedly allows no more bursts. */
  set rate(rate: number) {
    this.#count()
    this.#rate = rate
    this.#tokens = Math.min(this.#tokens, rate)
    this.stop()
  }

  /** The number of connections that may be accepted now; negative if too many came. */
  get room(): number {
    if (this.#rate === Number.POSITIVE_INFINITY) return this.#rate
    this.#count()
    return Math.floor(this.#tokens)
  }

  /** Called for each connection. */
  take(): void {
    if (this.#rate === Number.POSITIVE_INFINITY) return
    this.#count()
    this.#tokens--
  }

  /** Calls `onToken` once when there is a token. A timer may fire early: call `wait` again if there is none then. */
  wait(): void {
    if (this.#timer !== undefined) return
    // The Serving keeps the process alive, unless its unref() was called.
    const delay = Math.min(Math.ceil(((1 - this.#tokens) * 1000) / this.#rate), longestTimer)
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#onToken()
    }, delay).unref()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #count(): void {
    const now = this.#now()
    const elapsed = now - this.#countedAt
    if (elapsed > 0) this.#tokens = Math.min(this.#rate, this.#tokens + (elapsed * this.#rate) / 1000)
    this.#countedAt = now
  }
}
