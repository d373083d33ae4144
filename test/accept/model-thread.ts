import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { ListenerStats } from '../../src/index.js'
import type { Observer } from './model-listener.js'
import type { ClientNumber, ListenerModel, Request, Result, SocketModel } from './queue-model.js'

/** A thread with its own listener on the same socket, and the model of that listener. */
export class ModelThread {
  readonly model: ListenerModel
  /** The fd of the thread's listener; threads share fds. */
  fd = -1
  /** The clients whose connections the thread has. */
  readonly held: ClientNumber[] = []
  readonly #requests = new Map<number, Request>()
  readonly #worker: Worker
  #ending = false
  #answer: ((value: unknown) => void) | undefined
  #looked: { pending: number; stats: ListenerStats } | undefined

  private constructor(
    fd: number,
    readonly socket: SocketModel,
    readonly observer: Observer,
  ) {
    this.model = socket.newListener()
    // Without the execArgv of this process, which would compile TypeScript in the thread.
    const fixture = new URL('../fixtures/model-thread.mjs', import.meta.url)
    this.#worker = new Worker(fixture, { workerData: { fd }, execArgv: [] })
    this.#worker.on('error', (error) => observer.problem(error))
    this.#worker.on('message', ({ event, value, ref, peer, code }) => {
      if (event === 'answer') return this.#answer?.(value)
      // The results of a thread that is ending are undefined.
      if (this.#ending) return
      const request = this.#requests.get(ref)
      if (request === undefined) observer.problem(new Error(`a thread has a result for the unknown ref ${ref}`))
      else if (code !== undefined) observer.ended(this.model, request, code)
      else observer.accepted(this.model, request, peer)
    })
  }

  static async start(fd: number, socket: SocketModel, observer: Observer): Promise<ModelThread> {
    const thread = new ModelThread(fd, socket, observer)
    thread.fd = await thread.#next()
    return thread
  }

  async ask(timeout: number): Promise<void> {
    const request = this.socket.newRequest('event', timeout)
    this.model.requests.push(request)
    this.#worker.postMessage({ run: 'ask', timeout })
    // Before its result, which arrives in another message.
    this.#requests.set(await this.#next(), request)
  }

  async cancel(which: number): Promise<void> {
    const [ref, request] = [...this.#requests][which % this.#requests.size] ?? []
    if (request === undefined) return
    this.#worker.postMessage({ run: 'cancel', ref })
    assert.equal(await this.#next(), this.socket.withdraw(this.model, request))
  }

  /** Resolves when the thread's event loop has polled again. */
  async look(): Promise<void> {
    this.#worker.postMessage({ run: 'look' })
    this.#looked = await this.#next()
  }

  /** Asserts that the last look() at the thread matches the model. */
  check(results: readonly Result[]): void {
    const { capacityPauses, ...stats } = this.#looked?.stats ?? {}
    assert.deepEqual(stats, this.model.stats)
    assert.equal(capacityPauses, 0)
    assert.equal(this.#looked?.pending, this.model.requests.length, 'pending in a thread')
    for (const { listener, outcome } of results) {
      if (listener === this.model && typeof outcome === 'number') this.held.push(outcome)
    }
  }

  /** Ends the thread. Resolves when it has exited. */
  async end(how: 'terminate' | 'exit' | 'close'): Promise<void> {
    this.#ending = true
    const ended = once(this.#worker, 'exit')
    if (how === 'terminate') this.#worker.terminate()
    else this.#worker.postMessage({ run: how })
    await ended
  }

  #next<T>(): Promise<T> {
    return new Promise((resolve) => {
      this.#answer = resolve as (value: unknown) => void
    })
  }
}
