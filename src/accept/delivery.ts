import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { nextTick } from 'node:process'
import { runSafely } from '../core/errors.js'
import { Connection } from './connection.js'
import { connectionChannel } from './diagnostics.js'

/** The tag of one accept request: a safe integer, unique within its listener and never reused. */
export type AcceptRef = number

/** The end of a request made with `asyncAccept`. */
export type AcceptResult =
  | { ref: AcceptRef; connection: Connection; error?: undefined }
  | { ref: AcceptRef; connection?: undefined; error: Error }

/** The Listener, as far as results need it. */
interface AcceptEmitter {
  emit(event: 'accept', result: AcceptResult): boolean
}

/** What gets the result of a request. The result of a request without one is an 'accept' event. */
export interface Requester {
  fulfil(connection: Connection): void
  fail(error: Error, ref: AcceptRef): void
  /**
   * `'promise'`: they settle a promise, and the application gets the result in a microtask. `'handler'`: they run as a handler
   * of 'accept' does. `'scoped'`: the same, and they enter an async context of their own by `inCopyOf`.
   */
  kind: 'promise' | 'handler' | 'scoped'
}

/** Results in the order of their requests; the connections come before the errors. */
export interface Batch {
  readonly refs: ArrayLike<AcceptRef>
  readonly connections: readonly Connection[]
  readonly errors: readonly Error[]
  /** Runs behind the results; must not throw. */
  readonly last?: () => void
}

// How many `await`s a connection may pass through before it is watched. More would cost more than they save: a slower
// application has its connections watched, which costs time only. (A process.nextTick behind all of them costs a hundred
// times as much as these.)
const continuations = 4
const fulfilled = Promise.resolve()

function watchLater(connections: readonly Connection[], hops: number): void {
  fulfilled.then(() => {
    if (hops > 1) watchLater(connections, hops - 1)
    else Connection.watch(connections)
  })
}

// Spares the garbage collector the 'destroy' of async_hooks.
const manual = { requireManualDestroy: true }

/**
 * Runs `run`, which must not throw, in an async context of its own, a copy of the current one. What `run` sets with
 * `AsyncLocalStorage.enterWith` ends with it. Up to Node 22 it would otherwise stay in the current resource for good.
 */
export function inOwnContext<This, Args extends unknown[]>(
  run: (this: This, ...args: Args) => unknown,
  receiver?: This,
  ...args: Args
): void {
  const resource = new AsyncResource('AsyncAcceptResult', manual)
  resource.runInAsyncScope(run as (this: This, ...args: unknown[]) => unknown, receiver, ...args)
  resource.emitDestroy()
}

// Since Node 24 a scope of a resource ends what `enterWith` sets in it. Up to Node 22 that stays with the resource.
function scopesIsolate(): boolean {
  const store = new AsyncLocalStorage<boolean>()
  const resource = new AsyncResource('AsyncAcceptProbe', manual)
  resource.runInAsyncScope(() => store.enterWith(true))
  const kept = resource.runInAsyncScope(() => store.getStore())
  store.disable()
  return kept === undefined
}

const isolated = scopesIsolate()

/** Runs `run`, which must not throw, in a copy of the async context of `context`. */
export function inCopyOf<This, Args extends unknown[]>(
  context: AsyncResource,
  run: (this: This, ...args: Args) => unknown,
  receiver: This,
  ...args: Args
): void {
  const each = run as (this: This, ...args: unknown[]) => unknown
  if (isolated) context.runInAsyncScope(each, receiver, ...args)
  else context.runInAsyncScope(inOwnContext, undefined, each, receiver, ...args)
}

/**
 * Hands out the results of a listener: in the order of the requests over all ways of asking, and in the async context in
 * which the listener was made.
 */
export class Delivery {
  readonly #listener: AcceptEmitter
  readonly #waiting: Map<AcceptRef, Requester>
  readonly #context = new AsyncResource('AsyncAcceptListener')
  readonly #batches: Batch[] = []
  /** The index of the next result in the first batch. */
  #next = 0
  /** A promise was settled, and its continuations may not have run yet. */
  #settling = false
  /** A tick will go on. */
  #waits = false

  constructor(listener: AcceptEmitter, waiting: Map<AcceptRef, Requester>) {
    this.#listener = listener
    this.#waiting = waiting
  }

  /** `fromLoop`: the event loop brings it, so all continuations of earlier results have run. */
  add(batch: Batch, fromLoop: boolean): void {
    this.#batches.push(batch)
    if (!fromLoop) {
      this.#context.runInAsyncScope(this.#run, this)
      return
    }
    this.#settling = false
    // The addon enters JavaScript in that context.
    this.#run()
  }

  // A handler can make the event loop turn, which adds a batch and runs this within itself. So all state is in fields, and
  // is up to date whenever code of the application runs.
  #run(): void {
    for (let batch = this.#batches[0]; batch !== undefined; batch = this.#batches[0]) {
      const { refs, connections, last } = batch
      while (this.#batches[0] === batch && this.#next < refs.length) {
        const waiting = this.#waiting.get(refs[this.#next] as AcceptRef)
        if (this.#settling && waiting?.kind !== 'promise') {
          this.#runLater()
          return
        }
        this.#handOut(batch, this.#next++, waiting)
      }
      if (this.#batches[0] !== batch) continue
      if (this.#settling && last !== undefined) {
        this.#runLater()
        return
      }
      this.#batches.shift()
      this.#next = 0
      if (connections.length > 0) watchLater(connections, continuations)
      last?.()
    }
  }

  // A handler runs at once, and would overtake the continuation of a promise that was settled before it. The tick runs
  // behind all microtasks.
  #runLater(): void {
    if (this.#waits) return
    this.#waits = true
    const run = () => {
      this.#waits = false
      this.#settling = false
      this.#context.runInAsyncScope(this.#run, this)
    }
    fulfilled.then(() => nextTick(run))
  }

  #handOut({ refs, connections, errors }: Batch, index: number, waiting: Requester | undefined): void {
    const ref = refs[index] as AcceptRef
    if (waiting !== undefined) this.#waiting.delete(ref)
    const connection = index < connections.length ? (connections[index] as Connection) : undefined
    const error = errors[index - connections.length] as Error
    if (waiting?.kind === 'scoped') {
      this.#callHandler(ref, connection, error, waiting)
      return
    }
    if (waiting?.kind !== 'promise') {
      // Which is the current context already.
      if (isolated) inCopyOf(this.#context, this.#callHandler, this, ref, connection, error, waiting)
      else inOwnContext(this.#callHandler, this, ref, connection, error, waiting)
      return
    }
    this.#settling = true
    if (connection === undefined) {
      waiting.fail(error, ref)
    } else {
      if (connectionChannel.hasSubscribers) inOwnContext(this.#publish, this, connection)
      waiting.fulfil(connection)
    }
  }

  #callHandler(ref: AcceptRef, connection: Connection | undefined, error: Error, waiting: Requester | undefined): void {
    if (connection !== undefined && connectionChannel.hasSubscribers) this.#publish(connection)
    runSafely(() => {
      if (waiting === undefined) this.#listener.emit('accept', connection ? { ref, connection } : { ref, error })
      else if (connection === undefined) waiting.fail(error, ref)
      else waiting.fulfil(connection)
    })
  }

  #publish(connection: Connection): void {
    runSafely(() => connectionChannel.publish({ listener: this.#listener, connection }))
  }
}
