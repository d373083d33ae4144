import type { AsyncResource } from 'node:async_hooks'
import type { Connection } from '../accept/connection.js'
import { type AcceptRef, inCopyOf, type Requester } from '../accept/delivery.js'
import { Listener } from '../accept/listener.js'

/** The maximum of outstanding requests on one listener: its default `maxBatch`, which is accepted in one turn. */
export const maxOutstanding = 64

// ms until the next attempt when there is no memory for a request.
const retryDelay = 100

/** The callbacks of {@link AcceptRequests}. They must not throw. Each call runs in a copy of `context`. */
export interface AcceptHandlers {
  readonly context: AsyncResource
  onAccepted(connection: Connection, requests: AcceptRequests): void
  onFailed(error: Error, requests: AcceptRequests): void
  /** Called some time after there was no memory for a request. */
  onRetry(requests: AcceptRequests): void
}

/** The outstanding accept requests of a Serving on one listener. */
export class AcceptRequests {
  readonly listener: Listener
  readonly #refs = new Set<AcceptRef>()
  readonly #requester: Requester
  readonly #onRetry: () => void
  #retryTimer: NodeJS.Timeout | undefined

  constructor(listener: Listener, { context, onAccepted, onFailed, onRetry }: AcceptHandlers) {
    this.listener = listener
    this.#onRetry = () => onRetry(this)
    const accepted = (connection: Connection) => onAccepted(connection, this)
    const failed = (error: Error) => onFailed(error, this)
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

  /** The number of requests that are outstanding or whose result is being delivered. */
  get size(): number {
    return this.#refs.size
  }

  /**
   * Withdraws the newest requests if there are more than `count`. Makes new ones if there are fewer, up to
   * {@link maxOutstanding}.
   */
  adjust(count: number): void {
    this.#withdraw(this.#refs.size - Math.max(count, 0))
    if (this.listener.fd < 0) return
    const wanted = Math.min(maxOutstanding, count)
    try {
      while (this.#refs.size < wanted) this.#refs.add(Listener.request(this.listener, this.#requester))
    } catch {
      // There is no memory for a request. Each connection that ends causes another attempt. A timer does too, because
      // perhaps no connection is open.
      this.#retryTimer ??= setTimeout(() => {
        this.#retryTimer = undefined
        this.#onRetry()
      }, retryDelay)
    }
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
      if (Listener.withdraw(this.listener, ref)) this.#refs.delete(ref)
    }
  }
}
