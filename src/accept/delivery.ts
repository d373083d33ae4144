import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { nextTick } from 'node:process'
import { runSafely } from '../core/errors.js'
import { Connection } from './connection.js'
import { connectionChannel } from './diagnostics.js'

/** The tag of one accept request: a safe integer, unique within its listener and never reused. */
export type AcceptRef = number

/** The result of a request made with `asyncAccept`: a connection, or the error that ended the request. */
export type AcceptResult =
  | { ref: AcceptRef; connection: Connection; error?: undefined }
  | { ref: AcceptRef; connection?: undefined; error: Error }

/** The part of a Listener that delivers results. */
interface AcceptEmitter {
  emit(event: 'accept', result: AcceptResult): boolean
}

/** Receives the result of one request. If a request has no requester, its result is emitted as an 'accept' event. */
export interface Requester {
  fulfil(connection: Connection): void
  fail(error: Error, ref: AcceptRef): void
  /**
   * `'promise'`: the methods settle a promise, so the application gets the result in a microtask. `'handler'`: the
   * methods call application code directly, as `emit` does. `'scoped'`: as `'handler'`, but the methods call `inCopyOf`
   * themselves.
   */
  kind: 'promise' | 'handler' | 'scoped'
}

/**
 * Results that are delivered together. `refs` is in request order. The first `connections.length` refs have
 * connections, the rest have errors.
 */
export interface Batch {
  readonly refs: ArrayLike<AcceptRef>
  readonly connections: readonly Connection[]
  readonly errors: readonly Error[]
  /** Runs after all results are delivered; must not throw. */
  readonly last?: () => void
}

// The number of microtasks before an unclaimed connection is watched, so that it can pass through as many `await`s
// first. More would cost more than they save: if the application claims a connection later, the watch was merely wasted
// time. (A process.nextTick after all microtasks costs a hundred times as much as these.)
const microtasksBeforeWatch = 4
const fulfilled = Promise.resolve()

function watchLater(connections: readonly Connection[], microtasks: number): void {
  fulfilled.then(() => {
    if (microtasks > 1) watchLater(connections, microtasks - 1)
    else Connection.watch(connections)
  })
}

// Without this option, the garbage collector would have to emit the 'destroy' event of async_hooks for each resource.
const manual = { requireManualDestroy: true }

/**
 * Runs `run`, which must not throw, in a new async context, a copy of the current one. A store that `run` sets with
 * `AsyncLocalStorage.enterWith` does not outlive the call. Without a new context, Node 22 and older would keep the
 * store in the current resource permanently.
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

// Since Node 24, runInAsyncScope discards a store that `enterWith` has set within it. Node 22 and older keep the store
// in the resource.
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
 * Delivers the results of a listener in request order, whichever method made the requests. Runs in the async context in
 * which the listener was created.
 */
export class Delivery {
  readonly #listener: AcceptEmitter
  readonly #waiting: Map<AcceptRef, Requester>
  readonly #context = new AsyncResource('AsyncAcceptListener')
  readonly #batches: Batch[] = []
  /** The index of the next result in the first batch. */
  #next = 0
  /** Whether a promise has been settled whose continuations may not have run yet. */
  #settling = false
  /** Whether a tick is scheduled that continues the delivery. */
  #scheduled = false

  constructor(listener: AcceptEmitter, waiting: Map<AcceptRef, Requester>) {
    this.#listener = listener
    this.#waiting = waiting
  }

  /** Delivers a batch. `fromLoop`: the event loop is the caller, so all continuations of earlier results have run. */
  add(batch: Batch, fromLoop: boolean): void {
    this.#batches.push(batch)
    if (!fromLoop) {
      this.#context.runInAsyncScope(this.#run, this)
      return
    }
    this.#settling = false
    // The addon has entered JavaScript in the context of the listener already.
    this.#run()
  }

  // Reentrant: a handler can run a nested turn of the event loop, which adds a batch and calls this function. Therefore
  // all state is in fields, which are up to date whenever application code runs.
  #run(): void {
    for (let batch = this.#batches[0]; batch !== undefined; batch = this.#batches[0]) {
      const { refs, connections, last } = batch
      while (this.#batches[0] === batch && this.#next < refs.length) {
        const waiting = this.#waiting.get(refs[this.#next] as AcceptRef)
        if (this.#settling && waiting?.kind !== 'promise') {
          this.#runLater()
          return
        }
        this.#deliverOne(batch, this.#next++, waiting)
      }
      if (this.#batches[0] !== batch) continue
      if (this.#settling && last !== undefined) {
        this.#runLater()
        return
      }
      this.#batches.shift()
      this.#next = 0
      if (connections.length > 0) watchLater(connections, microtasksBeforeWatch)
      last?.()
    }
  }

  // A handler runs synchronously, so it would overtake the continuation of a promise that was settled earlier. The tick
  // runs after all microtasks.
  #runLater(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    const run = () => {
      this.#scheduled = false
      this.#settling = false
      this.#context.runInAsyncScope(this.#run, this)
    }
    fulfilled.then(() => nextTick(run))
  }

  #deliverOne({ refs, connections, errors }: Batch, index: number, waiting: Requester | undefined): void {
    const ref = refs[index] as AcceptRef
    if (waiting !== undefined) this.#waiting.delete(ref)
    const connection = index < connections.length ? (connections[index] as Connection) : undefined
    const error = errors[index - connections.length] as Error
    if (waiting?.kind === 'scoped') {
      this.#callHandler(ref, connection, error, waiting)
      return
    }
    if (waiting?.kind !== 'promise') {
      // The current context is this.#context already, so inOwnContext suffices where scopes do not isolate stores.
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
