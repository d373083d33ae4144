import { type AcceptRequests, maxOutstanding } from './accept-requests.js'

/**
 * Shares a limit equally between listeners: the numbers of their requests differ by at most one. When the room changes
 * by one, only one listener gets or loses a request, so the work for a connection does not depend on the number of
 * listeners.
 */
export class EqualParts {
  /** The first of them have one request more than the others, unless all have the same number. */
  readonly #all: AcceptRequests[]
  readonly #indexes = new Map<AcceptRequests, number>()
  /** The sum of all parts. */
  #total = 0
  /** Those that may have more or fewer requests than their part. */
  readonly #changed = new Set<AcceptRequests>()

  constructor(all: readonly AcceptRequests[]) {
    this.#all = [...all]
    for (const [index, requests] of all.entries()) this.#indexes.set(requests, index)
  }

  /** Called when a request has ended, or when one may be made after there was no memory for it. */
  markChanged(requests: AcceptRequests): void {
    this.#changed.add(requests)
  }

  /** Shares the room. Returns false, and does nothing, if there is not room for a connection of each open listener. */
  share(room: number): boolean {
    for (const requests of this.#changed) if (requests.listener.fd < 0) this.#remove(requests)
    const { length: count } = this.#all
    if (room < count) return false
    const wanted = Math.min(room, count * maxOutstanding)
    if (Math.abs(wanted - this.#total) < count) {
      while (this.#total < wanted) this.#adjust(this.#total++ % count)
      while (this.#total > wanted) this.#adjust(--this.#total % count)
      for (const requests of this.#changed) this.#adjust(this.#indexes.get(requests) as number)
    } else {
      this.#total = wanted
      for (const index of this.#all.keys()) this.#adjust(index)
    }
    return true
  }

  #partOf(index: number): number {
    return Math.ceil((this.#total - index) / this.#all.length)
  }

  #adjust(index: number): void {
    const requests = this.#all[index] as AcceptRequests
    const part = this.#partOf(index)
    requests.adjust(part)
    // There may be no memory for a request. The listener may also be closed: its requests then end soon.
    if (requests.size < part) this.#changed.add(requests)
    else this.#changed.delete(requests)
  }

  // The others keep their parts: two of them move, so that the first still have one request more.
  #remove(requests: AcceptRequests): void {
    this.#changed.delete(requests)
    const index = this.#indexes.get(requests)
    if (index === undefined) return
    const larger = this.#total % this.#all.length
    this.#total -= this.#partOf(index)
    const free = index < larger ? larger - 1 : index
    this.#place(index, this.#all[free] as AcceptRequests)
    this.#place(free, this.#all.at(-1) as AcceptRequests)
    this.#all.pop()
    this.#indexes.delete(requests)
  }

  #place(index: number, requests: AcceptRequests): void {
    this.#all[index] = requests
    this.#indexes.set(requests, index)
  }
}
