import { binding } from '../core/binding.js'
import * as validate from '../core/validate.js'
import type { OpenOptions } from './open.js'
import type { InheritedOptions } from './sockopt.js'

/** What concerns the accepting rather than the socket. */
export interface AcceptingOptions {
  /** The default of `connection.toSocket({ highWaterMark })`, in bytes. Default: Node's. */
  highWaterMark?: number
  /**
   * The most connections that are accepted before other I/O has its turn, 1 to 256. Default: 64, which keeps the loop
   * for about half a millisecond.
   */
  maxBatch?: number
  /**
   * When the process or the system has no fd left. `'hold'`: clients wait in the backlog, and accepting is tried again
   * after a pause that grows from 10 ms to 1 s. `'reset'`: a spare fd is used to accept and reset them, so that they
   * fail at once; the requests wait. Default: `'hold'`.
   */
  onFdLimit?: 'hold' | 'reset'
}

export interface ListenOptions extends OpenOptions, AcceptingOptions {}

export interface FromFdOptions extends InheritedOptions, AcceptingOptions {
  /** Borrow the fd: listen on a copy of it, and leave the original to the caller. Default: false. */
  dup?: boolean
}

export interface AcceptOptions {
  /** ms from now; negative: forever; 0: only a client that waits already. Default: -1. */
  timeout?: number
  /** Withdraws the request when aborted. */
  signal?: AbortSignal
}

export function readAcceptingOptions({ highWaterMark, maxBatch, onFdLimit }: AcceptingOptions): AcceptingOptions {
  validate.optionalInteger('options.highWaterMark', highWaterMark, 0, 2 ** 31 - 1)
  validate.optionalInteger('options.maxBatch', maxBatch, 1, binding.maxBatch)
  validate.optionalOneOf('options.onFdLimit', onFdLimit, ['hold', 'reset'])
  return { highWaterMark, maxBatch, onFdLimit }
}
