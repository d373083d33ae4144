import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { binding } from '../../src/core/binding.js'
import { type Connection, Listener, type ListenOptions } from '../../src/index.js'
import { FdRoom, namedFds } from '../fd-room.js'
import { type Client, dial } from '../model-clients.js'
import type { TurnOf } from '../model-sequences.js'
import { ModelListener, type Observer, type Way } from './model-listener.js'
import { ModelThread } from './model-thread.js'
import { type ListenerModel, type Request, type Result, SocketModel } from './queue-model.js'

/** One action. Its numbers choose among the objects that exist, modulo their count. */
export type Step =
  | { do: 'ask'; on: number; way: Way; timeout: number; again: boolean }
  | { do: 'askWithSignal'; on: number; group: number; timeout: number }
  | { do: 'abort'; group: number }
  | { do: 'cancel'; on: number; which: number }
  | { do: 'endIteration'; on: number }
  | { do: 'connect'; count: number }
  | { do: 'resetClient'; which: number }
  | { do: 'closeConnection'; which: number }
  | { do: 'lingerUntilAllRanOut' }
  | { do: 'close'; on: number }
  | { do: 'detach'; on: number; adopt: boolean }
  | { do: 'adopt' }
  | { do: 'duplicate'; on: number }
  | { do: 'startThread'; on: number }
  | { do: 'askInThread'; which: number; timeout: number; count: number }
  | { do: 'cancelInThread'; which: number }
  | { do: 'endThread'; which: number; how: 'terminate' | 'exit' | 'close'; meanwhile: number }
  | { do: 'exhaust' }
  | { do: 'free'; count: number }

export type Turn = TurnOf<Step>

// Long, because the machine can be busy. Shorter after the first failure, so that shrinking a sequence is fast.
let patience = 10_000

/** Resolves when the condition holds. */
async function arrives(condition: () => boolean, what: () => string): Promise<void> {
  const end = performance.now() + patience
  while (!condition()) {
    if (performance.now() > end) {
      patience = 500
      assert.fail(`timed out waiting for ${what()}`)
    }
    await nextTurn()
  }
}

export class ModelRun implements Observer {
  readonly #model = new SocketModel()
  readonly #room = new FdRoom(this.#model)
  readonly #listeners: ModelListener[] = []
  readonly #threads: ModelThread[] = []
  readonly #clients: Client[] = []
  readonly #held: { connection: Connection; client: number | undefined }[] = []
  readonly #parked: number[] = []
  readonly #aborters = [new AbortController(), new AbortController()]
  readonly #address: AddressInfo | string
  #grouped: { listener: ListenerModel; request: Request; group: number }[] = []
  // The results since the last check.
  #results: Result[] = []
  readonly #problems: unknown[] = []

  private constructor(listener: Listener, options: ListenOptions) {
    this.#address = listener.address() as AddressInfo | string
    this.#add(listener, options)
  }

  /**
   * Runs all steps, drains the queue, and releases everything. Returns false when the run proves nothing, because other
   * code in this process, such as an earlier test, closed an fd during the run.
   */
  static async of(options: ListenOptions, turns: readonly Turn[]): Promise<boolean> {
    const before = namedFds()
    try {
      const run = new ModelRun(await Listener.listen(options), options)
      try {
        await run.#doAll(turns)
      } finally {
        await run.#cleanUp()
      }
      const more = () => namedFds().filter((fd) => !before.includes(fd))
      // For example, the event loop of a thread is closed after the thread has ended.
      for (let turn = 0; turn < patience && more().length > 0; turn++) await nextTurn()
      assert.deepEqual(more(), [], 'fds left open')
      return true
    } catch (error) {
      const now = namedFds()
      if (before.every((fd) => now.includes(fd))) throw error
      return false
    }
  }

  async #doAll(turns: readonly Turn[]): Promise<void> {
    for (const { step, turns: turn } of turns) {
      await this.#do(step)
      if (turn) await this.#settle()
    }
    await this.#finish()
  }

  accepted(listener: ListenerModel, request: Request, peer?: string | number, connection?: Connection): void {
    const taken = new Set(this.#results.map(({ outcome }) => outcome))
    const client = this.#model.waiting.find((each) => this.#clients[each]?.peer === peer && !taken.has(each))
    if (client !== undefined) this.#results.push({ listener, request, outcome: client })
    else this.problem(new Error(`accepted ${peer}, which is not in the backlog`))
    if (connection) this.#held.push({ connection, client })
  }

  ended(listener: ListenerModel, request: Request, outcome: string): void {
    this.#results.push({ listener, request, outcome })
  }

  problem(problem: unknown): void {
    this.#problems.push(problem)
  }

  #add(listener: Listener, options?: ListenOptions): void {
    this.#listeners.push(new ModelListener(listener, this.#model, this, options))
  }

  #listener(on: number): ModelListener {
    return this.#listeners[on % this.#listeners.length] as ModelListener
  }

  async #do(step: Step): Promise<unknown> {
    switch (step.do) {
      case 'ask':
        return this.#listener(step.on).ask(step.way, step.timeout, { again: step.again })
      case 'askWithSignal':
        return this.#askWithSignal(step)
      case 'abort':
        return this.#abort(step.group)
      case 'cancel':
        return this.#listener(step.on).cancel(step.which)
      case 'endIteration':
        return this.#listener(step.on).endIteration()
      case 'connect':
        for (let i = 0; i < step.count; i++) await this.#connect()
        return
      case 'resetClient':
        return this.#room.with(() => this.#clients[step.which % this.#clients.length]?.leave())
      case 'closeConnection':
        return this.#closeConnection(step.which)
      case 'lingerUntilAllRanOut':
        return this.#linger()
      case 'close':
        return this.#room.with(() => this.#listener(step.on).close())
      case 'detach':
        return this.#room.with(() => this.#detach(this.#listener(step.on), step.adopt))
      case 'adopt':
        return this.#adopt()
      case 'duplicate':
        return this.#duplicate(this.#listener(step.on))
      case 'startThread':
        return this.#startThread(this.#listener(step.on))
      case 'askInThread':
        return this.#askInThread(step)
      case 'cancelInThread':
        return this.#cancelInThread(step.which)
      case 'endThread':
        return this.#endThread(step)
      case 'exhaust':
        return this.#exhaust()
      case 'free':
        return this.#free(step.count)
    }
  }

  async #askWithSignal({ on, group, timeout }: { on: number; group: number; timeout: number }): Promise<void> {
    const listener = this.#listener(on)
    const request = await listener.ask('promise', timeout, { signal: this.#aborters[group]?.signal })
    if (request) this.#grouped.push({ listener: listener.model, request, group })
  }

  #abort(group: number): void {
    for (const { listener, request } of this.#grouped.filter((each) => each.group === group)) {
      this.#model.withdraw(listener, request, 'ABORT_ERR')
    }
    this.#grouped = this.#grouped.filter((each) => each.group !== group)
    this.#aborters[group]?.abort()
    this.#aborters[group] = new AbortController()
  }

  async #connect(): Promise<void> {
    const model = this.#model
    if (!this.#reachable) return
    if (this.#threads.length > 0) await this.#settle()
    await this.#room.with(() => this.#dial())
    if (this.#threads.length > 0) return this.#settle()
    // Without an event loop turn, so outstanding requests have not been served yet.
    const end = performance.now() + patience
    while (this.#queued() !== model.waiting.length) {
      assert.ok(performance.now() < end, `${this.#queued()} in the backlog instead of ${model.waiting.length}`)
    }
  }

  get #reachable(): boolean {
    return this.#model.listening && !this.#listeners.some(({ pathRemoved }) => pathRemoved)
  }

  async #dial(): Promise<void> {
    this.#model.waiting.push(this.#clients.push(await dial(this.#address)) - 1)
  }

  async #closeConnection(which: number): Promise<void> {
    if (this.#room.limited) await this.#settle()
    const { connection, client } = this.#held.splice(which % this.#held.length, 1)[0] ?? {}
    if (connection === undefined || client === undefined) return
    connection.close()
    assert.equal(connection.fd, -1)
    this.#model.cutOff.add(client)
    this.#model.room++
  }

  /** Blocks the event loop until the deadline of each brief request has passed. */
  #linger(): void {
    const timeouts = this.#listeners.flatMap(({ model }) => model.requests.map(({ timeout }) => timeout))
    const end = performance.now() + Math.max(0, ...timeouts.filter((timeout) => timeout < 1000)) + 2
    while (performance.now() < end);
  }

  #detach(listener: ModelListener, adopt: boolean): void {
    const fd = listener.detach()
    if (fd !== undefined) this.#parked.push(fd)
    if (adopt) this.#adopt()
  }

  #adopt(): void {
    const fd = this.#parked.pop()
    if (fd === undefined) return
    this.#model.parked--
    this.#add(Listener.fromFd(fd))
  }

  async #duplicate({ model, real }: ModelListener): Promise<void> {
    if (!model.open || model.onFdLimit === 'reset') return
    if (this.#model.room === 0) {
      return assert.throws(() => Listener.fromFd(real.fd, { dup: true }), { code: 'EMFILE' })
    }
    await this.#room.with(() => this.#add(Listener.fromFd(real.fd, { dup: true })))
  }

  async #startThread({ model, real }: ModelListener): Promise<void> {
    if (!model.open) return
    await this.#settle()
    this.#threads.push(await ModelThread.start(real.fd, this.#model, this))
  }

  async #askInThread(step: { which: number; timeout: number; count: number }): Promise<void> {
    for (let i = 0; i < step.count && this.#threads.length > 0; i++) {
      await this.#settle()
      await this.#thread(step.which)?.ask(step.timeout)
    }
    await this.#settle()
  }

  async #cancelInThread(which: number): Promise<void> {
    if (this.#threads.length > 0) await this.#settle()
    await this.#thread(which)?.cancel(which)
  }

  #thread(which: number): ModelThread | undefined {
    return this.#threads[which % this.#threads.length]
  }

  /** Ends a thread while clients connect. The thread may have accepted some of them, but not more than it requested. */
  async #endThread(step: { which: number; how: 'terminate' | 'exit' | 'close'; meanwhile: number }): Promise<void> {
    const thread = this.#thread(step.which)
    if (thread === undefined) return
    await this.#settle()
    const mayTake = thread.model.requests.length
    const ended = thread.end(step.how)
    // If the thread has the last copy of the socket, no client can connect once the thread has ended.
    const last = this.#queued(thread) === undefined
    for (let i = 0; !last && this.#reachable && i < step.meanwhile; i++) await this.#dial()
    await ended
    this.#threads.splice(this.#threads.indexOf(thread), 1)
    this.#model.forget(thread.model)
    const { waiting } = this.#model
    for (const number of thread.held) this.#model.cutOff.add(number)
    if (last) return this.#settle()
    const taken = () => waiting.filter((number) => !this.#clients[number]?.left && this.#clients[number]?.ended)
    const served = () => this.#results.filter(({ outcome }) => typeof outcome === 'number').length
    await arrives(
      () => taken().length + served() + (this.#queued() ?? 0) === waiting.length,
      () => `all of ${waiting.length}: ${taken().length} ended, ${served()} served, ${this.#queued()} in the backlog`,
    )
    assert.ok(taken().length <= mayTake, `the thread accepted ${taken().length} clients on ${mayTake} requests`)
    for (const number of taken()) {
      waiting.splice(waiting.indexOf(number), 1)
      this.#model.cutOff.add(number)
    }
    await this.#settle()
  }

  async #exhaust(): Promise<void> {
    await this.#settle()
    this.#model.wasLimited = true
    this.#model.room = 0
    this.#room.keep()
  }

  async #free(count: number): Promise<void> {
    await this.#settle()
    this.#model.room += count
    this.#room.keep()
  }

  /** The length of the kernel's accept queue; undefined when only the thread `besides` has the socket. */
  #queued(besides?: ModelThread): number | undefined {
    const fd =
      this.#listeners.find(({ model }) => model.open)?.real.fd ??
      this.#parked[0] ??
      this.#threads.find((thread) => thread !== besides)?.fd
    if (fd === undefined) return undefined
    // The query of a unix socket needs an fd.
    const backlog = this.#room.withOne(() => binding.backlog(fd))
    assert.ok(typeof backlog === 'object', `backlog: ${backlog}`)
    return backlog.queued
  }

  /** Waits for all expected results, and asserts that no others arrive. */
  async #settle(): Promise<void> {
    const model = this.#model
    await arrives(
      () => this.#problems.length > 0 || model.complete(this.#results, this.#queued()),
      () =>
        `the results of ${model}; ${this.#queued()} in the backlog, results so far: ${this.#results.map(describe).join(', ') || 'none'}`,
    )
    // Unexpected results get a chance to arrive: the event loop polls between the two turns.
    await nextTurn()
    await nextTurn()
    for (const thread of this.#threads) await thread.look()
    if (this.#problems.length > 0) throw this.#problems[0]
    const results = this.#results
    this.#results = []
    model.settle(results)
    await this.#check(results)
  }

  async #check(results: readonly Result[]): Promise<void> {
    const model = this.#model
    for (const listener of this.#listeners) listener.check()
    for (const thread of this.#threads) thread.check(results)
    assert.equal(this.#queued() ?? 0, model.waiting.length, 'clients in the backlog')
    await arrives(
      () => [...model.cutOff].every((number) => this.#clients[number]?.ended),
      () => `the end of ${[...model.cutOff].filter((number) => !this.#clients[number]?.ended)}`,
    )
    for (const [number, client] of this.#clients.entries()) {
      assert.ok(client.left || model.cutOff.has(number) || !client.ended, `client ${number} was disconnected`)
    }
  }

  /** Serves every waiting client, and ends the remaining requests. */
  async #finish(): Promise<void> {
    while (this.#threads.length > 0) await this.#endThread({ which: 0, how: 'close', meanwhile: 0 })
    await this.#free(Number.POSITIVE_INFINITY)
    while (this.#parked.length > 0) this.#adopt()
    await this.#settle()
    const last = this.#listeners.find(({ model }) => model.open)
    while (last && last.model.requests.length < this.#model.waiting.length) {
      await last.ask('event')
    }
    await this.#settle()
    assert.deepEqual(this.#model.waiting, [])
    for (const listener of this.#listeners) listener.close()
    await this.#settle()
  }

  async #cleanUp(): Promise<void> {
    this.#model.room = Number.POSITIVE_INFINITY
    this.#room.keep()
    await Promise.all(this.#threads.map((thread) => thread.end('terminate')))
    for (const { connection } of this.#held) connection.reset()
    for (const { real } of this.#listeners) await real.close()
    for (const fd of this.#parked) closeSync(fd)
    for (const client of this.#clients) client.leave()
  }
}

const describe = ({ request, outcome }: Result) => `request ${request.number}: ${outcome}`
