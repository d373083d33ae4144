import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { type CodedError, runSafely } from '../core/errors.js'
import { warn } from '../core/warning.js'
import { Connection } from './connection.js'
import { connectionChannel } from './diagnostics.js'

/** The tag of one accept request: a safe integer, unique within its listener and never reused. */
export type AcceptRef = number

/** The result of a request made with `asyncAccept`: a connection, or the error that ended the request. */
export type AcceptResult =
  | { ref: AcceptRef; connection: Connection; error?: undefined }
  | { ref: AcceptRef; connection?: undefined; error: CodedError }

/** @internal The part of a Listener that delivers results. */
export interface AcceptEmitter {
  emit(event: 'accept', result: AcceptResult): boolean
}

/**
 * @internal
 * Receives the result of one request. If a request has no requester, its result is emitted as an 'accept' event.
 */
export interface Requester {
  fulfil(connection: Connection): void
  fail(error: Error, ref: AcceptRef): void
  /** Called when the request is withdrawn; neither `fulfil` nor `fail` follows. Must not throw. */
  withdrawn?(): void
  /**
   * `'promise'`: the methods settle a promise, so the application gets the result in a microtask. `'handler'`: the
   * methods call application code directly, as `emit` does, and Delivery calls them in a copy of its async context.
   * `'scoped'`: as `'handler'`, but the methods themselves enter an async context, by {@link inCopyOf}.
   */
  kind: 'promise' | 'handler' | 'scoped'
}

/**
 * @internal Results that are delivered together. `refs` is in request order. The first `connections.length` refs have
 * connections, the rest have errors.
 */
export interface Batch {
  readonly refs: ArrayLike<AcceptRef>
  readonly connections: readonly Connection[]
  readonly errors: readonly CodedError[]
  /** Runs after all results are delivered; must not throw. */
  readonly last?: () => void
}

// The number of microtasks before a connection that is still unclaimed is watched. Each `await` through which the
// application receives the connection takes one of them. Waiting longer would cost more than it saves: watching a
// connection that is claimed later only wastes time. (A process.nextTick after all microtasks costs a hundred times as
// much as these.)
const microtasksBeforeWatch = 4
const fulfilled = Promise.resolve()

function watchLater(connections: readonly Connection[], microtasks: number): void {
  fulfilled.then(() => {
    if (microtasks > 1) watchLater(connections, microtasks - 1)
    else Connection.watch(connections)
  })
}

// With this option, emitDestroy() emits the 'destroy' event of async_hooks. Otherwise the garbage collector would have
// to emit it for each resource.
const manual = { requireManualDestroy: true }

/**
 * @internal Runs `run` in a copy of the current async context. `run` must not throw. A store that `run` sets with
 * `AsyncLocalStorage.enterWith` does not outlive the call. Without the copy, Node 22 and older would keep the store in
 * the current resource permanently.
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
function probeIsolation(): boolean {
  const store = new AsyncLocalStorage<boolean>()
  const resource = new AsyncResource('AsyncAcceptProbe', manual)
  resource.runInAsyncScope(() => store.enterWith(true))
  const kept = resource.runInAsyncScope(() => store.getStore())
  store.disable()
  return kept === undefined
}

const scopesIsolateStores = probeIsolation()

/** @internal Runs `run`, which must not throw, in a copy of the async context of `context`. */
export function inCopyOf<This, Args extends unknown[]>(
  context: AsyncResource,
  run: (this: This, ...args: Args) => unknown,
  receiver: This,
  ...args: Args
): void {
  const each = run as (this: This, ...args: unknown[]) => unknown
  if (scopesIsolateStores) context.runInAsyncScope(each, receiver, ...args)
  else context.runInAsyncScope(inOwnContext, undefined, each, receiver, ...args)
}

/**
 * @internal
 * Delivers the results of a listener in request order, regardless of the method that made the request. Handlers run in
 * the async context in which the listener was created.
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
  /** Whether a failure of accept(2), which ends every request, was reported as a process warning. */
  #failureReported = false

  constructor(listener: AcceptEmitter, waiting: Map<AcceptRef, Requester>) {
    this.#listener = listener
    this.#waiting = waiting
  }

  /** Delivers a batch. `fromLoop`: called by the event loop, after all continuations of earlier results. */
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

  // A handler runs synchronously, so it would overtake the continuation of a promise that was settled earlier.
  // Therefore the delivery continues in a tick that runs after all microtasks.
  #runLater(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    const run = () => {
      this.#scheduled = false
      this.#settling = false
      this.#context.runInAsyncScope(this.#run, this)
    }
    fulfilled.then(() => process.nextTick(run))
  }

  #deliverOne({ refs, connections, errors }: Batch, index: number, waiting: Requester | undefined): void {
    const ref = refs[index] as AcceptRef
    if (waiting !== undefined) this.#waiting.delete(ref)
    const connection = index < connections.length ? (connections[index] as Connection) : undefined
    const error = errors[index - connections.length] as CodedError
    if (waiting?.kind === 'scoped') {
      this.#callHandler(ref, connection, error, waiting)
      return
    }
    if (waiting?.kind !== 'promise') {
      // The current context is already this.#context. If scopes do not isolate stores, a copy of the current context is
      // enough, and inCopyOf would enter this.#context a second time.
      if (scopesIsolateStores) inCopyOf(this.#context, this.#callHandler, this, ref, connection, error, waiting)
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

  #callHandler(
    ref: AcceptRef,
    connection: Connection | undefined,
    error: CodedError,
    waiting: Requester | undefined,
  ): void {
    if (connection !== undefined && connectionChannel.hasSubscribers) this.#publish(connection)
    runSafely(() => {
      if (waiting === undefined) this.#emit(ref, connection, error)
      else if (connection === undefined) waiting.fail(error, ref)
      else waiting.fulfil(connection)
    })
  }

  // If no handler receives a connection, no other code can claim it. A timeout or the end of the listener loses nothing
  // without a handler. A failure of accept(2) ends all requests, so it must not pass in silence.
  #emit(ref: AcceptRef, connection: Connection | undefined, error: CodedError): void {
    if (this.#listener.emit('accept', connection ? { ref, connection } : { ref, error })) return
    if (connection !== undefined) Connection.closeUnhandled(connection)
    else if ('syscall' in error && !this.#failureReported) {
      this.#failureReported = true
      warn(error)
    }
  }

  #publish(connection: Connection): void {
    runSafely(() => connectionChannel.publish({ listener: this.#listener, connection }))
  }
}
