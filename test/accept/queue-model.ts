// A model of a listening socket and its listeners. Clients and requests wait in FIFO order. The model has no sockets:
// it receives the actual results and asserts that they are correct.
import assert from 'node:assert/strict'

/** The number of a client. Clients are numbered in the order in which they connect. */
export type ClientNumber = number

export interface Request {
  readonly number: number
  /** How the result is delivered: by event, by promise, or by the promise of an iterator. */
  readonly way: 'event' | 'promise' | 'next'
  /** In ms. A brief request gets a client that already waits, or times out before the next step. */
  readonly timeout: number
  /** The request that the handler of this request's result makes. */
  readonly again?: Request | undefined
}

/** A client, or the code of an error. `'done'` is the end of an iteration. */
export type Outcome = ClientNumber | string

export interface Result {
  readonly listener: ListenerModel
  readonly request: Request
  readonly outcome: Outcome
}

const brief = ({ timeout }: Request) => timeout < 1000

export class ListenerModel {
  open = true
  /** The outstanding requests, oldest first. */
  requests: Request[] = []
  readonly stats = { accepted: 0, retried: 0, reset: 0, timedOut: 0, cancelled: 0, rejected: 0 }

  constructor(readonly onFdLimit: 'hold' | 'reset' = 'hold') {}
}

/** A listening socket, and all listeners that share it. */
export class SocketModel {
  readonly listeners: ListenerModel[] = []
  /** The clients in the backlog, oldest first. A client that resets keeps its place: accept(2) still returns it. */
  waiting: ClientNumber[] = []
  /** The clients whose connections the other side has closed. */
  readonly cutOff = new Set<ClientNumber>()
  /** The number of connections for which there are fds. */
  room = Number.POSITIVE_INFINITY
  /** Whether `room` was ever finite. */
  wasLimited = false
  /** Whether a thread may have closed the fd of a listener after close() returned. */
  wasClosedLate = false
  /** The number of fds of the socket that belong to no listener. */
  parked = 0
  #requests = 0
  // Results that steps have already decided, regardless of the clients.
  #due: Result[] = []

  get listening(): boolean {
    return this.parked > 0 || this.listeners.some(({ open }) => open)
  }

  newListener(onFdLimit?: 'hold' | 'reset'): ListenerModel {
    const listener = new ListenerModel(onFdLimit)
    this.listeners.push(listener)
    return listener
  }

  /** Creates a request. A negative timeout means no timeout. */
  newRequest(way: Request['way'], timeout = -1, again?: Request): Request {
    return { number: ++this.#requests, way, timeout: timeout < 0 ? Number.POSITIVE_INFINITY : timeout, again }
  }

  /** Removes a request, with `outcome` as its result if given. Returns whether the request was outstanding. */
  withdraw(listener: ListenerModel, request: Request, outcome?: Outcome): boolean {
    const at = listener.requests.indexOf(request)
    if (at < 0) return false
    listener.requests.splice(at, 1)
    listener.stats.cancelled++
    if (outcome !== undefined) this.#due.push({ listener, request, outcome })
    return true
  }

  end(listener: ListenerModel): void {
    listener.open = false
    listener.stats.rejected += listener.requests.length
    for (const request of listener.requests.splice(0)) {
      const outcome = request.way === 'next' ? 'done' : 'ERR_LISTENER_CLOSED'
      this.#due.push({ listener, request, outcome })
    }
    this.#endIfLast()
  }

  /** Ends a listener whose thread has ended: its requests get no results. */
  forget(listener: ListenerModel): void {
    listener.open = false
    listener.requests = []
    this.#endIfLast()
  }

  #endIfLast(): void {
    if (this.listening) return
    for (const client of this.waiting.splice(0)) this.cutOff.add(client)
  }

  /** How many waiting clients are accepted in the next event loop turn, and how many stay in the backlog. */
  #turn(): { served: number; staying: number } {
    const requests = this.listeners.flatMap((listener) => listener.requests)
    const asked = requests.length + requests.filter(({ again }) => again).length
    const served = Math.min(this.waiting.length, this.room, asked)
    const resetting = this.listeners.some(({ open, onFdLimit }) => open && onFdLimit === 'reset')
    const reset = resetting && served === this.room && asked > served
    return { served, staying: reset ? 0 : this.waiting.length - served }
  }

  toString(): string {
    const asked = this.listeners.map(({ requests }) => `[${requests.map(({ number }) => number)}]`)
    return `requests ${asked.join(' ') || 'none'}, clients [${this.waiting}], room for ${this.room}`
  }

  /** Whether all expected results have arrived, and `queued` clients are in the backlog. */
  complete(results: readonly Result[], queued: number | undefined): boolean {
    const ended = new Set(results.map(({ request }) => request))
    const { served, staying } = this.#turn()
    return (
      (queued === undefined || queued === staying) &&
      this.#due.every(({ request }) => ended.has(request)) &&
      results.filter(({ outcome }) => typeof outcome === 'number').length >= served &&
      this.listeners.every(({ requests }) => requests.every((request) => !brief(request) || ended.has(request)))
    )
  }

  /**
   * Applies the results since the last call, and asserts that they match the queue. The kernel decides which of several
   * listeners gets a client; everything else is determined.
   */
  settle(results: readonly Result[]): void {
    const expected = this.#due.splice(0)
    const { served } = this.#turn()
    for (const listener of this.listeners) {
      const clients = results.filter((result) => result.listener === listener).map(({ outcome }) => outcome)
      const taken = clients.filter((outcome) => typeof outcome === 'number').sort((a, b) => a - b)
      for (const outcome of taken) {
        const request = listener.requests.shift()
        assert.ok(request, `client ${outcome} was accepted without a request`)
        expected.push({ listener, request, outcome })
        if (request.again) listener.requests.push(request.again)
        listener.stats.accepted++
      }
    }
    const gone = this.waiting.splice(0, served)
    this.room -= served
    for (const listener of this.listeners) {
      // At the limit, while requests are outstanding.
      if (listener.onFdLimit === 'reset' && this.room === 0 && listener.requests.length > 0) {
        for (const client of this.waiting.splice(0)) {
          this.cutOff.add(client)
          listener.stats.reset++
        }
      }
      for (const request of listener.requests.filter(brief)) {
        expected.push({ listener, request, outcome: 'ERR_ACCEPT_TIMEOUT' })
        listener.stats.timedOut++
      }
      listener.requests = listener.requests.filter((request) => !brief(request))
      for (const { request, outcome } of results.filter((result) => result.listener === listener)) {
        if (outcome === 'ERR_ACCEPT_TIMEOUT' && request.again) listener.requests.push(request.again)
      }
    }
    assert.deepEqual(described(results), described(expected), 'the outcomes of requests')
    const clients = expected.map(({ outcome }) => outcome).filter((outcome) => typeof outcome === 'number')
    assert.deepEqual(
      clients.sort((a, b) => a - b),
      gone,
      'the accepted clients',
    )
    for (const listener of this.listeners) this.#checkOrder(listener, results, expected)
  }

  // Events are delivered in order at once. Promises are in order among themselves, but settle later.
  #checkOrder(listener: ListenerModel, results: readonly Result[], expected: readonly Result[]): void {
    for (const byEvent of [true, false]) {
      const of = (some: readonly Result[], which: (outcome: Outcome) => boolean) =>
        some
          .filter((each) => each.listener === listener && (each.request.way === 'event') === byEvent)
          .filter(({ outcome }) => which(outcome))
          .map(({ request }) => request)
      for (const which of [
        (outcome: Outcome) => typeof outcome === 'number',
        (outcome: Outcome) => outcome === 'ERR_LISTENER_CLOSED',
      ]) {
        const numbers = (requests: Request[]) => requests.map(({ number }) => number)
        assert.deepEqual(numbers(of(results, which)), numbers(of(expected, which)), 'the order of results')
      }
      // An earlier request with an equal or shorter timeout times out first.
      const ranOut = of(results, (outcome) => outcome === 'ERR_ACCEPT_TIMEOUT')
      for (const [i, later] of ranOut.entries()) {
        const overtaken = ranOut
          .slice(0, i)
          .find((sooner) => sooner.number > later.number && sooner.timeout >= later.timeout)
        assert.equal(overtaken, undefined, `request ${later.number} timed out after ${overtaken?.number}`)
      }
    }
  }
}

const described = (results: readonly Result[]): string[] =>
  results.map(({ request, outcome }) => `request ${request.number}: ${outcome}`).sort()
