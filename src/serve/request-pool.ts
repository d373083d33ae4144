import type { Connection } from '../accept/connection.js'
import type { Listener } from '../accept/listener.js'
import { type AcceptHandlers, AcceptRequests } from './accept-requests.js'
import { EqualParts } from './equal-parts.js'

/**
 * The outstanding accept requests of a Serving on all its listeners. The listeners share one limit: the room, which is
 * the number of connections that may still be accepted.
 *
 * If there is room for at least one connection of each listener, each gets an equal part of the requests. Otherwise the
 * listeners that have not accepted for the longest time get one request each, for two turns of the event loop. If they
 * have no client, every listener then gets one request. These are more requests than there is room. They exceed no
 * limit: the callback that delivers the first connection withdraws the other requests, before libuv calls the next
 * listener.
 */
export class RequestPool {
  readonly #room: () => number
  /** In the order of their last accept: a listener that has just accepted is the last. */
  readonly #requests: Set<AcceptRequests>
  /** Undefined while there is not room for a connection of each listener. */
  #parts: EqualParts | undefined
  /** After `stop`: the listeners that may still deliver a result. */
  #unfinished = new Set<AcceptRequests>()
  /** Whether every listener gets a request although there is not room for a connection of each. */
  #allAsk = false
  #turn: NodeJS.Immediate | undefined

  /** `room` returns a negative number when there are more connections than a limit allows. */
  constructor(
    listeners: readonly Listener[],
    room: () => number,
    handlers: Omit<AcceptHandlers, 'onAccepted' | 'onFailed' | 'onRetry'> & {
      onAccepted(connection: Connection, listener: Listener): void
      onFailed(error: Error): void
    },
  ) {
    this.#room = room
    const onAccepted = (connection: Connection, requests: AcceptRequests) => {
      this.#parts?.markChanged(requests)
      this.#moveToEnd(requests)
      handlers.onAccepted(connection, requests.listener)
    }
    const { context } = handlers
    const onFailed = (error: Error, requests: AcceptRequests) => {
      this.#parts?.markChanged(requests)
      // Of the requests that a closed listener rejects together, only the last one is reported.
      if (requests.listener.fd >= 0 || requests.size === 0) handlers.onFailed(error)
    }
    const onRetry = (requests: AcceptRequests) => {
      this.#parts?.markChanged(requests)
      this.adjust()
    }
    this.#requests = new Set(
      listeners.map((each) => new AcceptRequests(each, { context, onAccepted, onFailed, onRetry })),
    )
  }

  /** After `stop`: whether every result has been delivered. */
  get finished(): boolean {
    // Without a search through all listeners: each connection that ends during a drain reads this.
    for (const requests of this.#unfinished) {
      if (requests.size > 0) return false
      this.#unfinished.delete(requests)
    }
    return true
  }

  /** Makes or withdraws requests. Called when the room may have changed, or a request has ended. */
  adjust(): void {
    if (this.#requests.size > 1) this.#share()
    else for (const requests of this.#requests) requests.adjust(this.#room())
  }

  /** Withdraws all requests. A request whose result is being delivered still delivers its connection. */
  stop(): void {
    this.#endTurn()
    for (const requests of this.#requests) requests.stop()
    this.#unfinished = new Set(this.#requests)
  }

  #share(): void {
    const room = this.#room()
    if (this.#parts?.share(room)) return
    const open = [...this.#requests].filter(({ listener }) => listener.fd >= 0)
    if (room >= open.length) {
      this.#endTurn()
      this.#parts = new EqualParts(open)
      this.#parts.share(room)
      return
    }
    this.#parts = undefined
    if (room <= 0) this.#endTurn()
    else if (!this.#allAsk) this.#startTurn()
    for (const [index, requests] of open.entries()) requests.adjust(this.#allAsk || index < room ? 1 : 0)
  }

  #moveToEnd(requests: AcceptRequests): void {
    if (this.#requests.size === 1) return
    this.#requests.delete(requests)
    this.#requests.add(requests)
    this.#endTurn()
  }

  // libuv starts to poll an fd at the beginning of the next poll phase. The second of two immediates runs after that
  // phase in any case.
  #startTurn(): void {
    this.#turn ??= setImmediate(() => {
      this.#turn = setImmediate(() => {
        this.#turn = undefined
        this.#allAsk = true
        this.#share()
      })
    })
  }

  #endTurn(): void {
    this.#allAsk = false
    clearImmediate(this.#turn)
    this.#turn = undefined
  }
}
