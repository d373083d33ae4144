import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import type { AcceptResult, Connection, Listener, ListenOptions } from '../../src/index.js'
import { codeOf } from '../helpers.js'
import type { ListenerModel, Request, SocketModel } from './queue-model.js'

/** Notified of the results of requests. */
export interface Observer {
  /** Keeps or closes `connection`. Without a `connection`, another thread has it. */
  accepted(listener: ListenerModel, request: Request, peer?: string | number, connection?: Connection): void
  ended(listener: ListenerModel, request: Request, code: string): void
  problem(problem: unknown): void
}

/** `'aborted'`: with a signal that is already aborted. */
export type Way = Request['way'] | 'aborted'

/** A listener and its model. Performs every operation on both. */
export class ModelListener {
  readonly model: ListenerModel
  readonly #refs = new Map<number, Request>()
  readonly #path: string | undefined
  #iterator: AsyncIterableIterator<Connection>
  /** Whether the path of the socket was removed, so that clients can no longer connect. */
  pathRemoved = false
  #closed = false
  #inCall = false

  constructor(
    readonly real: Listener,
    readonly socket: SocketModel,
    readonly observer: Observer,
    /** The options of the listener if `listen` created it. */
    { path, onFdLimit }: ListenOptions = {},
  ) {
    this.model = socket.newListener(onFdLimit)
    this.#iterator = real[Symbol.asyncIterator]()
    if (!path?.startsWith('\0')) this.#path = path
    real.on('accept', (result) => this.#onAccept(result))
    real.on('close', () => {
      if (this.#closed) observer.problem(new Error("a second 'close'"))
      this.#closed = true
    })
  }

  /** Returns the request if the listener is open. */
  async ask(
    way: Way,
    timeout = -1,
    more: { again?: boolean; signal?: AbortSignal } = {},
  ): Promise<Request | undefined> {
    if (way === 'event') return this.#asyncAccept(timeout, more.again)
    const { model, observer } = this
    if (way === 'next') {
      const next = this.#call(() => this.#iterator.next())
      if (!model.open) return void assert.deepEqual(await next, { value: undefined, done: true })
      const request = this.socket.newRequest(way)
      model.requests.push(request)
      next.then(
        ({ done, value }) => (done ? this.#ended(request, 'done') : this.#accepted(request, value)),
        (error) => observer.problem(error),
      )
      return request
    }
    const signal = way === 'aborted' ? AbortSignal.abort() : more.signal
    const promise = this.#call(() => this.real.accept(timeout < 0 && !signal ? undefined : { timeout, signal }))
    if (way === 'aborted') return void (await assert.rejects(promise, { code: 'ABORT_ERR' }))
    if (!model.open) return void (await assert.rejects(promise, { code: 'ERR_LISTENER_CLOSED' }))
    const request = this.socket.newRequest(way, timeout)
    model.requests.push(request)
    promise.then(
      (connection) => this.#accepted(request, connection),
      (error) => this.#ended(request, codeOf(error) ?? String(error)),
    )
    return request
  }

  #asyncAccept(timeout: number, again = false): Request | undefined {
    if (!this.model.open) {
      assert.throws(() => this.real.asyncAccept(timeout), { code: 'ERR_LISTENER_CLOSED' })
      return
    }
    const request = this.socket.newRequest('event', timeout, again ? this.socket.newRequest('event') : undefined)
    this.model.requests.push(request)
    const ref = this.#call(() => this.real.asyncAccept(timeout))
    this.#note(ref, request)
    return request
  }

  cancel(which: number): void {
    const refs = [...this.#refs]
    const [ref, request] = refs[which % refs.length] ?? []
    if (ref === undefined || request === undefined) return
    const outstanding = this.socket.withdraw(this.model, request)
    const cancelled = this.#call(() => this.real.cancel(ref))
    assert.equal(cancelled, outstanding, `cancel of request ${request.number}`)
    assert.equal(this.real.cancel(ref), false, 'a second cancel')
    // The request of a promise cannot be cancelled by any ref.
    for (let other = 1; other <= request.number + 10; other++) {
      if (!this.#refs.has(other)) assert.equal(this.real.cancel(other), false, 'cancel of the request of a promise')
    }
  }

  async endIteration(): Promise<void> {
    for (const request of this.model.requests.filter(({ way }) => way === 'next')) {
      this.socket.withdraw(this.model, request, 'done')
    }
    const old = this.#iterator
    await this.#call(() => old.return?.())
    assert.deepEqual(await old.next(), { value: undefined, done: true })
    this.#iterator = this.real[Symbol.asyncIterator]()
  }

  close(): void {
    if (this.model.open) {
      this.socket.end(this.model)
      // The path stays while another listener or thread has the socket.
      this.pathRemoved = this.#path !== undefined && !this.socket.listening
    }
    const start = performance.now()
    const closed = this.#call(() => this.real.close())
    // Another thread closes the fd of a unix socket. On a busy machine it may not have done so after the 100 ms for which
    // close() waits. The socket is then still in use, and its path stays.
    if (performance.now() - start > 95) this.socket.wasClosedLate = true
    assert.equal(this.real.close(), closed)
    closed.then(() => {
      if (!this.#closed) this.observer.problem(new Error("close() resolved before 'close'"))
    })
    assert.throws(() => this.real.detach(), { code: 'ERR_LISTENER_CLOSED' })
  }

  /** Detaches and returns the listening fd if the listener is open. */
  detach(): number | undefined {
    if (!this.model.open) return
    this.socket.parked++
    this.socket.end(this.model)
    const { fd } = this.real
    const detached = this.#call(() => this.real.detach())
    assert.equal(detached, fd)
    this.real.close()
    return fd
  }

  /** Asserts that the listener's properties match the model. */
  check(): void {
    const { model, real } = this
    const { capacityPauses, ...stats } = real.stats
    assert.deepEqual(stats, model.stats)
    if (!this.socket.wasLimited) assert.equal(capacityPauses, 0)
    assert.equal(real.pending, model.requests.length, 'pending')
    assert.equal(this.#closed, !model.open, 'closed')
    assert.equal(real.fd >= 0, model.open, 'has an fd')
    assert.equal(real.address() === null, !model.open, 'has no address')
    if (!model.open) assert.throws(() => real.backlog(), { code: 'ERR_LISTENER_CLOSED' })
    if (this.#path && !(this.pathRemoved && this.socket.wasClosedLate)) {
      assert.equal(existsSync(this.#path), !this.pathRemoved, 'the path is there')
    }
  }

  /** Detects results that arrive before a call returns. */
  #call<T>(call: () => T): T {
    this.#inCall = true
    try {
      return call()
    } finally {
      this.#inCall = false
    }
  }

  #onAccept({ ref, connection, error }: AcceptResult): void {
    const request = this.#refs.get(ref)
    if (request === undefined) {
      this.observer.problem(new Error(`a result for the unknown ref ${ref}`))
      connection?.close()
      return
    }
    if (connection) this.#accepted(request, connection, ref)
    else this.#ended(request, codeOf(error) ?? String(error))
    if (request.again === undefined) return
    try {
      this.#note(this.real.asyncAccept(), request.again)
    } catch (thrown) {
      if (this.model.open || codeOf(thrown) !== 'ERR_LISTENER_CLOSED') this.observer.problem(thrown)
    }
  }

  #note(ref: number, request: Request): void {
    if (!Number.isSafeInteger(ref) || this.#refs.has(ref)) this.observer.problem(new Error(`ref ${ref} is not new`))
    this.#refs.set(ref, request)
  }

  #accepted(request: Request, connection: Connection, ref?: number): void {
    const known = this.#refs.get(connection.ref as number)
    if (ref === undefined ? known !== undefined : connection.ref !== ref) {
      this.observer.problem(new Error(`request ${request.number} got ref ${connection.ref} of another request`))
    }
    this.#checkOutside()
    this.observer.accepted(this.model, request, connection.remotePort ?? connection.remoteAddress, connection)
  }

  #ended(request: Request, code: string): void {
    this.#checkOutside()
    this.observer.ended(this.model, request, code)
  }

  #checkOutside(): void {
    if (this.#inCall) this.observer.problem(new Error('a result arrived inside a call'))
  }
}
