import { type AcceptRequests, maxOutstanding } from './accept-requests.js'

/**
 * Shares a limit equally between listeners: the numbers of their requests differ by at most one. When the room changes
 * by one, only one listener gets or loses a request, so the work for a connection does not depend on the number of
 * listeners.
 */
export class EqualParts {
  /** Each listener in `#fewer` has this many requests, each in `#more` has one more. */
  #part: number
  #more: Set<AcceptRequests>
  #fewer: Set<AcceptRequests>
  readonly #changed: Set<AcceptRequests>

  /** The first `rest` of `all` have `part` + 1 requests, the others `part`, unless there was no memory for them. */
  constructor(all: readonly AcceptRequests[], part: number, rest: number) {
    this.#part = part
    this.#more = new Set(all.slice(0, rest))
    this.#fewer = new Set(all.slice(rest))
    this.#changed = new Set(all.filter(({ size }) => size < part))
  }

  /** Called when a request has ended, or when one may be made after there was no memory for it. */
  markChanged(requests: AcceptRequests): void {
    this.#changed.add(requests)
  }

  /**
   * Shares the room. Returns false if there is not room for a connection of each listener, no listener is open, or the
   * room has changed so much that every listener is affected.
   */
  share(room: number): boolean {
    for (const requests of this.#changed) this.#restore(requests)
    for (;;) {
      const count = this.#more.size + this.#fewer.size
      if (room < count || count === 0) return false
      const missing = Math.min(room, count * maxOutstanding) - (this.#part * count + this.#more.size)
      if (missing === 0) return true
      if (Math.abs(missing) > count) return false
      if (missing > 0) this.#add()
      else this.#remove()
    }
  }

  // Gives a listener that has lost a request its part again. A closed listener has no part any more.
  #restore(requests: AcceptRequests): void {
    const { listener, size } = requests
    if (listener.fd < 0) {
      this.#more.delete(requests)
      this.#fewer.delete(requests)
    } else {
      if (size <= this.#part && this.#more.delete(requests)) this.#fewer.add(requests)
      requests.adjust(this.#more.has(requests) ? this.#part + 1 : this.#part)
      if (requests.size < this.#part) return
    }
    this.#changed.delete(requests)
  }

  #add(): void {
    if (this.#fewer.size === 0) {
      ;[this.#fewer, this.#more] = [this.#more, this.#fewer]
      this.#part++
    }
    const [requests] = this.#fewer as Iterable<AcceptRequests>
    this.#move(requests as AcceptRequests, this.#fewer, this.#more, this.#part + 1)
  }

  #remove(): void {
    if (this.#more.size === 0) {
      ;[this.#fewer, this.#more] = [this.#more, this.#fewer]
      this.#part--
    }
    const [requests] = this.#more as Iterable<AcceptRequests>
    this.#move(requests as AcceptRequests, this.#more, this.#fewer, this.#part)
  }

  #move(requests: AcceptRequests, from: Set<AcceptRequests>, to: Set<AcceptRequests>, count: number): void {
    from.delete(requests)
    if (requests.listener.fd < 0) return
    to.add(requests)
    requests.adjust(count)
    if (requests.size < count) this.#changed.add(requests)
  }
}
