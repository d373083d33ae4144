import { constants } from 'node:os'
import { onAbort } from './abort.js'
import { inspect } from './adopt.js'
import { binding } from './binding.js'
import { deadline } from './deadline.js'
import { abortError, check, codedError } from './errors.js'
import { onReady } from './readiness.js'
import * as validate from './validate.js'

export interface LookAheadOptions {
  /** ms from the call; negative: no deadline; 0: only what is there already. Default: 10,000. */
  timeout?: number
  /** Ends the wait when aborted. */
  signal?: AbortSignal
}

const defaultTimeout = 10_000

/** Whether the socket keeps what is sent in packets; then nobody sees the second one before the first is taken. */
export function keepsPackets(fd: number): boolean {
  return inspect(fd).type === binding.constants.SOCK_SEQPACKET
}

/** Ends what {@link lookAhead} waits for, if anything. */
export type Abandon = (error: Error) => void

/**
 * Looks at what a peer has sent, and takes none of it, until `read` gives a result. `read` gets what is there, up to `limit`
 * bytes, and whether that is all that will ever be; undefined means that it wants more. It runs once for each arrival,
 * however small, and not in between. Of a seqpacket socket the first packet is all. Borrows the fd. `started` gets what
 * ends the wait when the fd is to go elsewhere.
 */
export function lookAhead<T>(
  fd: number,
  limit: number,
  options: LookAheadOptions,
  started: (abandon: Abandon | undefined) => void,
  read: (bytes: Buffer, ended: boolean) => { result: T } | undefined,
): Promise<T> {
  validate.object('options', options)
  const { signal, timeout = defaultTimeout }: LookAheadOptions = options
  validate.optionalSignal('options.signal', signal)
  const ms = validate.timeout('options.timeout', timeout)
  if (signal?.aborted) throw abortError(signal)
  return new Promise((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined
    let lastChance: NodeJS.Immediate | undefined
    let stopWatching: (() => void) | undefined
    let there = 0
    let packets: boolean | undefined
    const settle = () => {
      clearTimeout(timer)
      clearImmediate(lastChance)
      stopWatching?.()
      unwatch()
      started(undefined)
    }
    const fail = (error: Error) => {
      settle()
      reject(error)
    }
    const unwatch = onReady(fd, 'read', (ended) => {
      try {
        const bytes = binding.receive(fd, limit, true)
        // The event was overtaken, or is only of the end of nothing.
        const nothing = bytes === -constants.errno.EAGAIN
        const seen = nothing ? Buffer.alloc(0) : check(bytes, 'recv')
        there = seen.length
        let outcome = read(seen, ended || (!nothing && there === 0))
        if (outcome === undefined && there > 0) {
          packets ??= keepsPackets(fd)
          if (packets) outcome = read(seen, true)
        }
        if (outcome === undefined) return
        settle()
        resolve(outcome.result)
      } catch (error) {
        fail(error as Error)
      }
    })
    // The loop polls before that. When it stood still until now, it is not the peer who is late.
    const runOut = () => {
      lastChance = setImmediate(() => fail(codedError('ERR_PEEK_TIMEOUT', `${there} bytes are there`)))
    }
    started(fail)
    try {
      if (signal) stopWatching = onAbort(signal, () => fail(abortError(signal)))
    } catch (error) {
      // The signal is of a class of the application.
      return fail(error as Error)
    }
    timer = deadline(ms, runOut)
  })
}
