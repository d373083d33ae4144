import { constants } from 'node:os'
import { onAbort } from '../core/abort.js'
import { binding, type InspectedFd } from '../core/binding.js'
import { deadlineAfterPoll } from '../core/deadline.js'
import { abortError, check, codedError, systemError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'
import { onReady } from '../core/readiness.js'
import * as validate from '../core/validate.js'
import { enlargeReceiveBuffer } from './receive-buffer.js'

export interface LookAheadOptions {
  /** ms from the call; negative: no deadline; 0: only what is there already. Default: 10,000. */
  timeout?: number
  /** Ends the wait when aborted. */
  signal?: AbortSignal
}

const defaultTimeout = 10_000

const { AF_UNIX, POLLHUP, POLLPRI, POLLRDHUP, SOCK_SEQPACKET, SOL_SOCKET, SO_PEEK_OFF } = binding.constants as Record<
  Constant,
  number
>
type Constant = 'AF_UNIX' | 'POLLHUP' | 'POLLPRI' | 'POLLRDHUP' | 'SOCK_SEQPACKET' | 'SOL_SOCKET' | 'SO_PEEK_OFF'

/** Whether the socket keeps what is sent in packets; then nobody sees the second one before the first is taken. */
export function keepsPackets(fd: number): boolean {
  return inspect(fd).type === binding.constants.SOCK_SEQPACKET
}

/**
 * Has looks begin at the first byte that is unread, whatever offset the maker of the socket has set (`SO_PEEK_OFF`,
 * socket(7)); TCP sockets inherit that from their listener. Borrows the fd.
 */
export function lookFromStart(fd: number): void {
  // TCP sockets have no offset before Linux 6.9, and refuse it.
  binding.setOption(fd, SOL_SOCKET, SO_PEEK_OFF, -1)
}

/** Ends what {@link lookAhead} waits for, if anything. */
export type Abandon = (error: Error) => void

/** Why no more will come: the peer has ended its side or is gone, or the packet has ended. */
export type End = 'peer' | 'packet'

/** What the bytes mean; or so many bytes from the beginning are needed before it is worth reading again. */
export type Reading<T> = { result: T } | { needed: number }

/**
 * Looks at what a peer has sent, and takes none of it, until `read` gives a result. `read` gets what is there, up to `limit`
 * bytes; with `end` it must give a result, or throw. It runs once for each arrival that brings as much as it needs. Of a
 * seqpacket socket the first packet is all. At the deadline the state of the fd decides, not what the event loop has told.
 * Borrows the fd. `started` gets what ends the wait when the fd is to go elsewhere.
 */
export function lookAhead<T>(
  fd: number,
  limit: number,
  options: LookAheadOptions,
  started: (abandon: Abandon | undefined) => void,
  read: (bytes: Buffer, end: End | undefined) => Reading<T>,
): Promise<T> {
  validate.object('options', options)
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
    let roomFor = 0
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

    // `exceptional`: the peer may have ended its side, or sent urgent data. `stalled`: so many bytes were there just now.
    const look = (exceptional: boolean, stalled?: number): Reading<T> => {
      // Before the bytes, so that all that came before an end is among them.
      const state = exceptional ? question('poll', binding.poll(fd)) : 0
      const bytes = binding.receive(fd, limit, true)
      // The event was overtaken, or is only of the urgent byte.
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
          // Urgent data that comes first stops nothing, but a unix socket counts it as unread.
          if (question('ioctl', binding.atMark(fd)) === 0) throw stopped('urgent data', available)
        } else if (socket.domain === AF_UNIX && question('ioctl', binding.unread(fd)) > available) {
          if (available === stalled) throw stopped('file descriptors', available)
          // The rest has just arrived, or is urgent data that arrived after the event: ask for the state as well.
          return look(true, available)
        }
      }
      if (state & (POLLRDHUP | POLLHUP)) return attempt('peer')
      if (available > 0 && needed > roomFor) {
        roomFor = needed
        const restore = enlargeReceiveBuffer(fd, needed)
        restoreBuffer ??= restore
        // It also tells the peer of the room.
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
          fail(otherwise())
        }
      } catch (error) {
        fail(error as Error)
      }
    }
    const unwatch = onReady(fd, 'read', (exceptional) => tryNow(exceptional))
    started(fail)
    try {
      if (signal) stopWatching = onAbort(signal, () => fail(abortError(signal)))
    } catch (error) {
      // The signal is of a class of the application.
      return fail(error as Error)
    }
    stopTimer = deadlineAfterPoll(ms, () =>
      tryNow(true, () => codedError('ERR_PEEK_TIMEOUT', `${available} bytes are there`)),
    )
  })
}

function question(syscall: string, answer: number): number {
  if (answer < 0) throw systemError(syscall, answer)
  return answer
}

const stopped = (what: string, available: number) => codedError('ERR_PEEK_STOPPED', `${what} after ${available} bytes`)
