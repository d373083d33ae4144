// What a listening socket and its listeners do, in plain words: clients wait in the order of their coming, requests in
// the order of their being made. It knows no sockets; what really happened is told to it, and it says what is wrong.
import assert from 'node:assert/strict'

/** A client by its number: they count up as they come. */
export type ClientNumber = number

export interface Request {
  readonly number: number
  /** A result by event, or by a promise, the latter also of an iterator. */
  readonly way: 'event' | 'promise' | 'next'
  /** ms. What has a brief one gets a client that waits already, or runs out before anything else is done. */
  readonly timeout: number
  /** What the handler of its result asks for, inside that handler. */
  readonly again?: Request | undefined
}

/** A client, or the code of an error; `'done'` for the end of an iteration. */
export type Outcome = ClientNumber | string

export interface Result {
  readonly listener: ListenerModel
  readonly request: Request
  readonly outcome: Outcome
}

const brief = ({ timeout }: Request) => timeout < 1000

export class ListenerModel {
  open = true
  /** Outstanding, the oldest first. */
  requests: Request[] = []
  readonly stats = { accepted: 0, retried: 0, reset: 0, timedOut: 0, cancelled: 0, rejected: 0 }

  constructor(readonly onFdLimit: 'hold' | 'reset' = 'hold') {}
}

/** One listening socket, and all listeners that share it. */
export class SocketModel {
  readonly listeners: ListenerModel[] = []
  /** In the backlog, the oldest first. Who resets while waiting keeps the place: Linux hands the connection over. */
  waiting: ClientNumber[] = []
  /** Those whose connection the other side has ended. */
  readonly cutOff = new Set<ClientNumber>()
  /** How many connections there are fds for. */
  room = Number.POSITIVE_INFINITY
  /** It was ever bounded. */
  wasLimited = false
  /** Fds of the socket that no listener has. */
  parked = 0
  #requests = 0
  // What actions have decided already: it comes whatever clients do.
  #due: Result[] = []

  get listening(): boolean {
    return this.parked > 0 || this.listeners.some(({ open }) => open)
  }

  newListener(onFdLimit?: 'hold' | 'reset'): ListenerModel {
    const listener = new ListenerModel(onFdLimit)
    this.listeners.push(listener)
    return listener
  }

  /** A negative timeout is none. */
  newRequest(way: Request['way'], timeout = -1, again?: Request): Request {
    return { number: ++this.#requests, way, timeout: timeout < 0 ? Number.POSITIVE_INFINITY : timeout, again }
  }

  /** True when the request was outstanding. With an outcome, it gets that. */
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

  /** The end of a listener whose thread has ended: nobody is told. */
  forget(listener: ListenerModel): void {
    listener.open = false
    listener.requests = []
    this.#endIfLast()
  }

  #endIfLast(): void {
    if (this.listening) return
    for (const client of this.waiting.splice(0)) this.cutOff.add(client)
  }

  /** What becomes of those who wait when the event loop turns: so many get a connection, so many stay. */
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

  /** Whether all that must come has come, with so many clients in the backlog. */
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
   * Takes over what has happened since the last time, which must be what the queue says. Which of several listeners
   * gets a client is for the kernel to say; all else follows from it.
   */
  settle(results: readonly Result[]): void {
    const expected = this.#due.splice(0)
    const { served } = this.#turn()
    for (const listener of this.listeners) {
      const clients = results.filter((result) => result.listener === listener).map(({ outcome }) => outcome)
      const taken = clients.filter((outcome) => typeof outcome === 'number').sort((a, b) => a - b)
      for (const outcome of taken) {
        const request = listener.requests.shift()
        assert.ok(request, `client ${outcome} was accepted, and nobody had asked`)
        expected.push({ listener, request, outcome })
        if (request.again) listener.requests.push(request.again)
        listener.stats.accepted++
      }
    }
    const gone = this.waiting.splice(0, served)
    this.room -= served
    for (const listener of this.listeners) {
      // At the limit, while somebody asks.
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
      'the clients that were accepted',
    )
    for (const listener of this.listeners) this.#checkOrder(listener, results, expected)
  }

  // Events come in their order at once; so do promises among themselves, but later.
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
      // One that was made earlier, for no longer, runs out earlier.
      const ranOut = of(results, (outcome) => outcome === 'ERR_ACCEPT_TIMEOUT')
      for (const [i, later] of ranOut.entries()) {
        const overtaken = ranOut
          .slice(0, i)
          .find((sooner) => sooner.number > later.number && sooner.timeout >= later.timeout)
        assert.equal(overtaken, undefined, `request ${later.number} ran out after ${overtaken?.number}`)
      }
    }
  }
}

const described = (results: readonly Result[]): string[] =>
  results.map(({ request, outcome }) => `request ${request.number}: ${outcome}`).sort()
