import { constants } from 'node:os'
import { onAbort } from '../core/abort.js'
import { completion, countRequest, type ListenerHandle } from '../core/binding.js'
import { type CallSite, leadTo } from '../core/call-site.js'
import {
  abortError,
  type CodedError,
  codedError,
  plainAbortError,
  plainError,
  type SystemError,
  systemError,
  withoutStacks,
} from '../core/errors.js'
import { trace } from '../core/trace.js'
import { type BoundAddress, propertiesOf, textOf } from './bound-address.js'
import { Connection } from './connection.js'
import { type AcceptEmitter, type AcceptRef, Delivery, type Requester } from './delivery.js'
import type { RequestOptions } from './options.js'
import { type ConnectionSource, OwnedFd } from './owned-fd.js'

/** The listener of the requests. */
export interface RequestedListener {
  readonly emitter: AcceptEmitter
  readonly handle: ListenerHandle
  readonly address: BoundAddress
  readonly source: ConnectionSource
  /** Called after the results that precede the pause are delivered. Must not throw. */
  onCapacityPause(error: SystemError, delay: number): void
}

const noErrors: readonly CodedError[] = []

/**
 * The outstanding requests of a listener: makes and withdraws them, and turns what the addon reports into their
 * results.
 */
export class OutstandingRequests {
  readonly #listener: RequestedListener
  readonly #handle: ListenerHandle
  readonly #waiting = new Map<AcceptRef, Requester>()
  readonly #delivery: Delivery
  #id = 0

  constructor(listener: RequestedListener) {
    this.#listener = listener
    this.#handle = listener.handle
    this.#delivery = new Delivery(listener.emitter, this.#waiting)
    this.#handle.deliver = (count, capacityErrno, delay) => this.#deliver(count, capacityErrno, delay)
  }

  /** Opens the native listener, which takes ownership of `fd`. Returns 0, or a negative errno. */
  open(fd: number, maxBatch: number, resetAtLimit: boolean): number {
    this.#id = this.#handle.open(fd, maxBatch, resetAtLimit)
    return Math.min(this.#id, 0)
  }

  /**
   * Makes a request without a requester: its result is an 'accept' event. `timeout` is in ms, -1 for none. Throws
   * `ERR_LISTENER_CLOSED`, or `ENOMEM` if there is no memory for the request.
   */
  ask(timeout: number): AcceptRef {
    const ref = (timeout < 0 && countRequest(this.#id)) || this.#handle.ask(timeout)
    if (ref === 0) throw codedError('ERR_LISTENER_CLOSED')
    if (ref < 0) throw systemError('accept4', ref)
    trace?.('listener on %s: request %d, timeout %d ms', this.#where, ref, timeout)
    return ref
  }

  /**
   * Makes a request for `requester`. An abort of the signal withdraws the request, and `requester` fails. The stacks of
   * errors lead to `site`. Throws the errors of `ask`, and `ABORT_ERR`.
   */
  askFor({ timeout, signal }: RequestOptions, requester: Requester, site?: CallSite): AcceptRef {
    if (timeout < 0 && signal === undefined) return this.#wait(timeout, requester)
    if (signal?.aborted) throw abortError(signal)
    let ref: AcceptRef = 0
    let ended: (() => void) | undefined
    if (signal !== undefined) {
      // onAbort is called before the request is made: if it throws because the signal is invalid, there is nothing to
      // undo.
      ended = onAbort(signal, () => {
        // withdraw() returns false if a connection has been accepted already. The promise then resolves to the
        // connection despite the abort. Otherwise the connection would be lost.
        if (this.withdraw(ref)) requester.fail(leadTo(site, plainAbortError(signal)), ref)
      })
    }
    try {
      ref = this.#wait(timeout, {
        kind: requester.kind,
        fulfil: (connection) => {
          requester.fulfil(connection)
          ended?.()
        },
        fail: (error) => {
          requester.fail(leadTo(site, this.#describe(error as CodedError, ref, timeout)), ref)
          ended?.()
        },
        withdrawn: ended,
      })
      return ref
    } catch (error) {
      ended?.()
      throw error
    }
  }

  /** Returns whether the result of the request goes to a requester. */
  hasRequester(ref: AcceptRef): boolean {
    return this.#waiting.has(ref)
  }

  /**
   * Withdraws a request. Returns false if its result has been or is being delivered, or if there is no such request.
   */
  withdraw(ref: AcceptRef): boolean {
    if (!this.#handle.cancel(ref)) return false
    const requester = this.#waiting.get(ref)
    this.#waiting.delete(ref)
    requester?.withdrawn?.()
    trace?.('listener on %s: request %d withdrawn', this.#where, ref)
    return true
  }

  /** The refs of all requests without a result, oldest first. */
  get refs(): ArrayLike<AcceptRef> {
    return this.#handle.outstanding()
  }

  /** Rejects the requests `refs` with `ERR_LISTENER_CLOSED`. `last` runs afterwards; it must not throw. */
  reject(refs: ArrayLike<AcceptRef>, last: () => void): void {
    const errors = withoutStacks(() => Array.from(refs, () => plainError('ERR_LISTENER_CLOSED')))
    this.#delivery.add({ refs, connections: [], errors, last }, false)
  }

  get #where(): string {
    return textOf(this.#listener.address)
  }

  #wait(timeout: number, requester: Requester): AcceptRef {
    const ref = this.ask(timeout)
    this.#waiting.set(ref, requester)
    return ref
  }

  // Of many requests of one program, the error says which one timed out. Results of asyncAccept have the ref already,
  // and a more detailed error would cost more than the rest of the timeout.
  #describe(error: CodedError, ref: AcceptRef, timeout: number): CodedError {
    if (error.code !== 'ERR_ACCEPT_TIMEOUT') return error
    const detail = `request ${ref} on ${this.#where}, after ${timeout} ms`
    return withoutStacks(() => plainError('ERR_ACCEPT_TIMEOUT', detail, propertiesOf(this.#listener.address)))
  }

  // Handles all results of one readiness event. Must not throw. Application code must not run before all results have
  // been read: it may run a nested turn of the event loop, in which the addon overwrites the results.
  #deliver(count: number, capacityErrno: number, delay: number): void {
    const refs: AcceptRef[] = []
    const connections: Connection[] = []
    const errnos: number[] = []
    const { source } = this.#listener
    // Every accepted fd gets an owner before any other work. The results with an fd precede those with an error.
    for (let i = 0; i < count; i++) {
      const ref = completion.ref(i)
      const result = completion.result(i)
      refs.push(ref)
      if (result < 0) {
        errnos.push(result)
        continue
      }
      const owned = new OwnedFd(result, ref, source)
      owned.readPeer(completion.view, completion.address(i), completion.addressLength(i))
      connections.push(Connection.of(owned))
    }
    const errors = errnos.length === 0 ? noErrors : withoutStacks(() => errnos.map(errorOf))
    if (trace !== undefined) this.#traceResults(refs, connections, errors)
    const last =
      capacityErrno === 0
        ? undefined
        : () => this.#listener.onCapacityPause(systemError('accept4', capacityErrno), delay)
    this.#delivery.add({ refs, connections, errors, last }, true)
  }

  #traceResults(refs: readonly AcceptRef[], connections: readonly Connection[], errors: readonly CodedError[]): void {
    refs.forEach((ref, i) => {
      const connection = connections[i]
      const result = connection === undefined ? errors[i - connections.length]?.code : `fd ${connection.fd}`
      trace?.('listener on %s: result of request %d: %s', this.#where, ref, result)
    })
  }
}

function errorOf(errno: number): CodedError {
  return errno === -constants.errno.ETIMEDOUT ? plainError('ERR_ACCEPT_TIMEOUT') : systemError('accept4', errno)
}
