import type { AsyncResource } from 'node:async_hooks'
import type { Connection } from '../accept/connection.js'
import { type AcceptRef, inCopyOf, type Requester } from '../accept/delivery.js'
import { Listener } from '../accept/listener.js'

// The maximum number of outstanding requests. It equals the default `maxBatch`: the number of connections that a
// listener accepts before the event loop handles other I/O.
const maxOutstanding = 64

// ms until the next attempt when there is no memory for a request.
const retryDelay = 100

/** The outstanding accept requests of a Serving. */
export class AcceptRequests {
  readonly #listener: Listener
  readonly #room: () => number
  readonly #refs = new Set<AcceptRef>()
  readonly #requester: Requester
  #retryTimer: NodeJS.Timeout | undefined

  /**
   * `room` returns the number of connections that may still be accepted. It is negative when there are more connections
   * than the limit allows. `onAccepted` and `onFailed` must not throw. Each call of them runs in a copy of `context`.
   */
  constructor(
    listener: Listener,
    room: () => number,
    context: AsyncResource,
    onAccepted: (connection: Connection) => void,
    onFailed: (error: Error) => void,
  ) {
    this.#listener = listener
    this.#room = room
    const run = <Argument>(consume: (argument: Argument) => void, argument: Argument, ref: AcceptRef) => {
      this.#refs.delete(ref)
      inCopyOf(context, consume, null, argument)
    }
    this.#requester = {
      fulfil: (connection: Connection) => run(onAccepted, connection, connection.ref as AcceptRef),
      fail: (error: Error, ref: AcceptRef) => run(onFailed, error, ref),
      kind: 'scoped',
    }
  }

  /** The number of requests that are outstanding or whose result is being delivered. */
  get size(): number {
    return this.#refs.size
  }

  /** Makes as many accept requests as there is room for. */
  refill(): void {
    if (this.#listener.fd < 0) return
    const room = Math.min(maxOutstanding, this.#room())
    try {
      while (this.#refs.size < room) this.#refs.add(Listener.request(this.#listener, this.#requester))
    } catch {
      // There is no memory for a request. Each connection that ends calls refill() again, but perhaps no connection is
      // open. So a timer calls it too.
      this.#retryTimer ??= setTimeout(() => {
        this.#retryTimer = undefined
        this.refill()
      }, retryDelay)
    }
  }

  /** Withdraws the newest requests if there are more than there is room for. Makes new ones if there is room. */
  adjust(): void {
    this.#withdraw(this.#refs.size - Math.max(this.#room(), 0))
    this.refill()
  }

  /**
   * Withdraws all requests and stops retrying. A request whose result is being delivered still delivers its connection.
   */
  stop(): void {
    clearTimeout(this.#retryTimer)
    this.#withdraw(this.#refs.size)
  }

  #withdraw(count: number): void {
    if (count <= 0) return
    for (const ref of [...this.#refs].slice(-count)) {
      if (Listener.withdraw(this.#listener, ref)) this.#refs.delete(ref)
    }
  }
}
