import { AsyncResource } from 'node:async_hooks'
import type { Connection } from '../accept/connection.js'
import { type AcceptRef, inCopyOf, type Requester } from '../accept/delivery.js'
import { Listener } from '../accept/listener.js'

// Requests that are outstanding at once, at most: as many as a listener accepts before other I/O has its turn.
const mostOutstanding = 64

// ms, when there is no memory for a request.
const askAgainAfter = 100

/**
 * The accept requests that a Serving has outstanding. `accepted` and `failed` must not throw, and run in the async context in
 * which this was made.
 */
export class AcceptRequests {
  readonly #listener: Listener
  readonly #room: () => number
  readonly #refs = new Set<AcceptRef>()
  readonly #requester: Requester
  #later: NodeJS.Timeout | undefined

  /** `room` tells how many requests there may be; negative: one less would still be too many. */
  constructor(
    listener: Listener,
    room: () => number,
    accepted: (connection: Connection) => void,
    failed: (error: Error) => void,
  ) {
    this.#listener = listener
    this.#room = room
    // A server's handlers run in the async context in which it was made to listen, each in a copy of its own.
    const context = new AsyncResource('AsyncAcceptServing')
    const run = <Argument>(consume: (argument: Argument) => void, argument: Argument, ref: AcceptRef) => {
      this.#refs.delete(ref)
      inCopyOf(context, consume, null, argument)
    }
    this.#requester = {
      fulfil: (connection: Connection) => run(accepted, connection, connection.ref as AcceptRef),
      fail: (error: Error, ref: AcceptRef) => run(failed, error, ref),
      kind: 'scoped',
    }
  }

  /** How many are outstanding, or being delivered. */
  get size(): number {
    return this.#refs.size
  }

  /** Makes as many as there is room for. */
  ask(): void {
    if (this.#listener.fd < 0) return
    const room = Math.min(mostOutstanding, this.#room())
    try {
      while (this.#refs.size < room) this.#refs.add(Listener.request(this.#listener, this.#requester))
    } catch {
      // There is no memory for a request, and perhaps no connection is left whose end would ask again.
      this.#later ??= setTimeout(() => {
        this.#later = undefined
        this.ask()
      }, askAgainAfter)
    }
  }

  /** Withdraws what there is no room for, the newest first, and then asks. */
  fit(): void {
    this.#withdraw(this.#refs.size - Math.max(this.#room(), 0))
    this.ask()
  }

  /** Withdraws all, and asks no more by itself. The connections of requests that are being delivered still come. */
  stop(): void {
    clearTimeout(this.#later)
    this.#withdraw(this.#refs.size)
  }

  #withdraw(count: number): void {
    if (count <= 0) return
    for (const ref of [...this.#refs].slice(-count)) {
      if (Listener.withdraw(this.#listener, ref)) this.#refs.delete(ref)
    }
  }
}
