import { binding } from '../core/binding.js'
import * as validate from '../core/validate.js'
import { type OpenOptions, openNames } from './open.js'
import { type InheritedOptions, inheritedNames } from './sockopt.js'

/** Options of a listener that do not affect its socket. */
export interface AcceptingOptions {
  /** The default `highWaterMark` of `connection.toSocket()`, in bytes. Default: Node's. */
  highWaterMark?: number
  /**
   * The maximum number of connections to accept before other I/O is processed, from 1 to 256. Default: 64, which
   * occupies the event loop for about 0.5 ms.
   */
  maxBatch?: number
  /**
   * What happens when the process or the system has no free fd. `'hold'`: clients wait in the backlog, and accepting is
   * retried after a pause that grows from 10 ms to 1 s. `'reset'`: clients are accepted with a spare fd and reset
   * (RST), so that they fail at once. Requests stay outstanding in both cases. Default: `'hold'`.
   */
  onFdLimit?: 'hold' | 'reset'
}

/** Options of `Listener.listen`. */
export interface ListenOptions extends OpenOptions, AcceptingOptions {}

/** Options of `Listener.fromFd`. */
export interface FromFdOptions extends InheritedOptions, AcceptingOptions {
  /** Borrows the fd and listens on a duplicate of it; the caller still owns the original. Default: false. */
  dup?: boolean
}

/** Options of `Listener.accept`. */
export interface AcceptOptions {
  /** The timeout in ms from the call. Negative: no timeout. 0: accept only a client in the backlog. Default: -1. */
  timeout?: number
  /** Withdraws the request when aborted; the promise rejects with `ABORT_ERR`. */
  signal?: AbortSignal
}

/** Options of `Listener.connections`. */
export interface ConnectionsOptions {
  /**
   * The timeout of each request in ms, from the `next()` call that makes it. Negative: no timeout. 0: accept only a
   * client in the backlog. Default: -1.
   */
  timeout?: number
  /** Withdraws the outstanding requests when aborted; `next()` rejects with `ABORT_ERR`, then and later. */
  signal?: AbortSignal
  /** The number of connections after which the iteration ends, 0 or more. Default: `Infinity`. */
  limit?: number
}

const acceptingNames: validate.Names<AcceptingOptions> = { highWaterMark: true, maxBatch: true, onFdLimit: true }

/** @internal The known options of `Listener.listen`. */
export const listenNames: validate.Names<ListenOptions> = { ...openNames, ...acceptingNames }

/** @internal The known options of `Listener.fromFd`. */
export const fromFdNames: validate.Names<FromFdOptions> = { ...inheritedNames, ...acceptingNames, dup: true }

const acceptNames: validate.Names<AcceptOptions> = { timeout: true, signal: true }

const connectionsNames: validate.Names<ConnectionsOptions> = { ...acceptNames, limit: true }

/** @internal Validated options of one or more requests. `timeout` is -1 for no timeout. */
export interface RequestOptions {
  readonly timeout: number
  readonly signal?: AbortSignal | undefined
}

/** @internal */
export const unlimitedRequest: RequestOptions = { timeout: -1 }

/** @internal Returns a validated copy of the options of requests. Reads each option once. */
export function readRequestOptions(options: AcceptOptions): RequestOptions {
  validate.options('options', options, acceptNames)
  const { signal, timeout = -1 }: AcceptOptions = options
  validate.optionalSignal('options.signal', signal)
  return { timeout: validate.timeout('options.timeout', timeout), signal }
}

/** @internal Returns a validated copy of the options. Reads each option once. */
export function readConnectionsOptions(options: ConnectionsOptions): { request: RequestOptions; limit: number } {
  validate.options('options', options, connectionsNames)
  const { limit = Number.POSITIVE_INFINITY, timeout, signal }: ConnectionsOptions = options
  validate.limit('options.limit', limit)
  const request = readRequestOptions({ timeout, signal })
  return { request, limit }
}

/** @internal Returns a validated copy of the options. Reads each option once. */
export function readAcceptingOptions({ highWaterMark, maxBatch, onFdLimit }: AcceptingOptions): AcceptingOptions {
  validate.optionalInteger('options.highWaterMark', highWaterMark, 0, 2 ** 31 - 1)
  validate.optionalInteger('options.maxBatch', maxBatch, 1, binding.maxBatch)
  validate.optionalOneOf('options.onFdLimit', onFdLimit, ['hold', 'reset'])
  return { highWaterMark, maxBatch, onFdLimit }
}
