import { constants } from 'node:os'
import { onAbort } from '../core/abort.js'
import { binding, type InspectedFd } from '../core/binding.js'
import { type CallSite, leadTo } from '../core/call-site.js'
import { deadlineAfterPoll } from '../core/deadline.js'
import { abortError, check, codedError, peekTimeout, plainAbortError, systemError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'
import { onReady } from '../core/readiness.js'
import * as validate from '../core/validate.js'
import { enlargeReceiveBuffer } from './receive-buffer.js'

/** Options of `clientHello` and `proxyHeader`, and of `peek`. */
export interface LookAheadOptions {
  /** The timeout in ms from the call. Negative: no timeout. 0: use only bytes that have arrived. Default: 10,000. */
  timeout?: number
  /** Ends the wait with `ABORT_ERR` when aborted. */
  signal?: AbortSignal
}

/** Options of `peek`. */
export interface PeekOptions extends LookAheadOptions {
  /** The number of bytes for which the call waits, from 1 to `length`. Default: `length`. */
  min?: number
}

const lookAheadNames: validate.Names<LookAheadOptions> = { timeout: true, signal: true }

/** @internal The known options of `peek`. */
export const peekNames: validate.Names<PeekOptions> = { ...lookAheadNames, min: true }

const defaultTimeout = 10_000

const { AF_UNIX, POLLHUP, POLLPRI, POLLRDHUP, SOCK_SEQPACKET, SOL_SOCKET, SO_PEEK_OFF } = binding.constants as Record<
  Constant,
  number
>
type Constant = 'AF_UNIX' | 'POLLHUP' | 'POLLPRI' | 'POLLRDHUP' | 'SOCK_SEQPACKET' | 'SOL_SOCKET' | 'SO_PEEK_OFF'

/**
 * @internal
 * Returns whether the socket is a seqpacket socket, which shows its second packet only after the first is read.
 */
export function isSeqpacket(fd: number): boolean {
  return inspect(fd).type === binding.constants.SOCK_SEQPACKET
}

/**
 * @internal
 * Makes recv(2) with MSG_PEEK start at the first unread byte. The creator of the socket may have set another peek
 * offset (`SO_PEEK_OFF`, socket(7)), and TCP sockets inherit that offset from their listener. Borrows the fd.
 */
export function resetPeekOffset(fd: number): void {
  // The result is ignored: before Linux 6.9, TCP sockets have no peek offset and reject this option.
  binding.setOption(fd, SOL_SOCKET, SO_PEEK_OFF, -1)
}

/** @internal Ends a pending {@link lookAhead}: its promise rejects with `error`. */
export type Abandon = (error: Error) => void

/** @internal Why no more bytes follow: the peer has ended its side or disconnected, or the packet is complete. */
export type End = 'peer' | 'packet'

/**
 * @internal
 * The result of parsing the received bytes. `needed`: the bytes are incomplete; parse again once at least this many
 * bytes, counted from the first byte, have arrived.
 */
export type Reading<T> = { result: T } | { needed: number }

/**
 * @internal Waits for bytes from the peer and peeks at them, without consuming any, until `read` returns a result.
 *
 * `read` receives the unread bytes, at most `limit` of them. It runs when the first bytes arrive, and again each time
 * the number of bytes has reached `needed`. If `end` is set, no more bytes follow, and `read` must return a result or
 * throw. A seqpacket socket shows only its first packet. At the deadline, lookAhead peeks once more, because the event
 * loop may not have reported the latest bytes yet. The stacks of errors lead to `site`.
 *
 * Borrows the fd. `started` receives a function that ends the wait. Call that function before the fd is closed or its
 * ownership is transferred. When the wait is over, `started` receives undefined.
 */
export function lookAhead<T>(
  fd: number,
  limit: number,
  options: LookAheadOptions,
  started: (abandon: Abandon | undefined) => void,
  read: (bytes: Buffer, end: End | undefined) => Reading<T>,
  site?: CallSite,
): Promise<T> {
  validate.options('options', options, lookAheadNames)
  const { signal, timeout = defaultTimeout }: LookAheadOptions = options
  validate.optionalSignal('options.signal', signal)
  const ms = validate.timeout('options.timeout', timeout)
  if (signal?.aborted) throw abortError(signal)
  return new Promise((resolve, reject) => {
    let stopTimer = () => {}
    let stopWatching: (() => void) | undefined
    let restoreBuffer: (() => void) | undefined
    let available = 0
    let needed = 1
    let enlargedFor = 0
    let socket: InspectedFd | undefined
    const settle = () => {
      stopTimer()
      stopWatching?.()
      unwatch()
      restoreBuffer?.()
      started(undefined)
    }
    const fail = (error: Error) => {
      settle()
      reject(error)
    }

    // `exceptional`: the peer may have ended its side or sent urgent data. `previous`: the number of bytes that this
    // function saw just before it called itself.
    const look = (exceptional: boolean, previous?: number): Reading<T> => {
      // poll(2) runs before recv(2): if it reports that the peer has ended its side, recv(2) shows every byte sent
      // before that.
      const state = exceptional ? checkedNumber('poll', binding.poll(fd)) : 0
      const bytes = binding.receive(fd, limit, true)
      // recv(2) found nothing to read: the event is out of date, or reported only the urgent byte.
      const nothing = bytes === -constants.errno.EAGAIN
      const seen = nothing ? Buffer.alloc(0) : check(bytes, 'recv')
      available = seen.length
      const attempt = (end?: End) => (end === undefined && available < needed ? { needed } : read(seen, end))
      const reading = attempt(available > 0 || nothing ? undefined : 'peer')
      if ('result' in reading) return reading
      needed = reading.needed
      if (available > 0) {
        socket ??= inspect(fd)
        if (socket.type === SOCK_SEQPACKET) return attempt('packet')
        if (state & POLLPRI) {
          // If the urgent byte is the next byte, it hides no bytes. FIONREAD on a unix socket includes the urgent byte,
          // so the check for hidden file descriptors below would be wrong here.
          if (checkedNumber('ioctl', binding.atMark(fd)) === 0) throw peekStopped('urgent data', available)
        } else if (socket.domain === AF_UNIX && checkedNumber('ioctl', binding.unread(fd)) > available) {
          if (available === previous) throw peekStopped('file descriptors', available)
          // recv(2) did not show all unread bytes. The others arrived after the call, or are urgent data that arrived
          // after the event. So poll and peek again.
          return look(true, available)
        }
      }
      if (state & (POLLRDHUP | POLLHUP)) return attempt('peer')
      if (available > 0 && needed > enlargedFor) {
        enlargedFor = needed
        const restore = enlargeReceiveBuffer(fd, needed)
        restoreBuffer ??= restore
        // This recv(2) also makes the kernel announce the larger receive window to the peer.
        if (restore !== undefined) return look(exceptional)
      }
      return reading
    }

    const tryNow = (exceptional: boolean, otherwise?: () => Error) => {
      try {
        const reading = look(exceptional)
        if ('result' in reading) {
          settle()
          resolve(reading.result)
        } else if (otherwise !== undefined) {
          fail(leadTo(site, otherwise()))
        }
      } catch (error) {
        fail(leadTo(site, error as Error))
      }
    }
    const unwatch = onReady(fd, 'read', (exceptional) => tryNow(exceptional))
    started(fail)
    try {
      if (signal) stopWatching = onAbort(signal, () => fail(leadTo(site, plainAbortError(signal))))
    } catch (error) {
      // The signal is of an application class, whose addEventListener throws.
      return fail(error as Error)
    }
    stopTimer = deadlineAfterPoll(ms, () => tryNow(true, () => peekTimeout(available, ms)))
  })
}

function checkedNumber(syscall: string, result: number): number {
  if (result < 0) throw systemError(syscall, result)
  return result
}

const peekStopped = (what: string, available: number) =>
  codedError('ERR_PEEK_STOPPED', `${what} after ${available} bytes`)
