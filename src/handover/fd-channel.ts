import { constants } from 'node:os'
import { Connection } from '../accept/connection.js'
import { binding, type PeerCredentials } from '../core/binding.js'
import { callSite } from '../core/call-site.js'
import {
  abortError,
  check,
  codedError,
  fdError,
  invalidArgType,
  invalidArgValue,
  type SystemError,
  systemError,
} from '../core/errors.js'
import { adopt, inspectStream } from '../core/inspect.js'
import { onReady } from '../core/readiness.js'
import { showAs } from '../core/show.js'
import * as validate from '../core/validate.js'
import {
  defaultMaxMessage,
  type FdChannelOptions,
  type FdChannelSocketOptions,
  readChannelOptions,
  readFdChannelSocketOptions,
  readSendOptions,
  type SendOptions,
} from './channel-options.js'
import { IncomingFdMessages } from './incoming-fd-messages.js'
import { OutgoingFdMessage } from './outgoing-fd-message.js'
import type { FdMessage } from './received-fd.js'

interface PendingNext {
  resolve(result: IteratorResult<FdMessage>): void
  reject(error: Error): void
}

const { EAGAIN, EBADF, ENOMEM, ENOTCONN } = constants.errno

const unreachable = new FinalizationRegistry((fd: number) => binding.close(fd))

const { maxFds } = binding
// The maximum number of received messages that wait for the application. Further messages stay in the kernel.
const maxQueued = 16

/**
 * Sends and receives messages with fds (SCM_RIGHTS, unix(7)) over a connected unix socket, stream or seqpacket, between
 * any two processes. The receiver gets a duplicate of each fd; the sender keeps its own.
 *
 * Owns its socket until `close()`. Keeps the process alive while a `send()` or an iteration is pending. A channel that
 * becomes unreachable is closed, unless a `send()` or an iteration is pending.
 */
export class FdChannel implements AsyncIterable<FdMessage> {
  readonly #fd: number
  readonly #packets: boolean
  readonly #maxMessage: number
  readonly #outgoing: OutgoingFdMessage[] = []
  readonly #incoming: IncomingFdMessages
  /** The messages that the application has not taken yet. */
  readonly #received: FdMessage[] = []
  readonly #pendingNexts: PendingNext[] = []
  #unwatch: (() => void) | undefined
  #ended = false
  #failure: Error | undefined
  // Set when a message has failed after a part of it was sent. It creates the error of every later send().
  #sendError: (() => Error) | undefined
  #closed = false

  static {
    showAs(FdChannel, 'FdChannel', (channel) => ({
      fd: channel.fd,
      state: channel.#closed ? 'closed' : channel.#ended || channel.#failure ? 'ended' : 'open',
      type: channel.#packets ? 'seqpacket' : 'stream',
      maxMessage: channel.#maxMessage,
      sending: channel.#outgoing.length,
      received: channel.#received.length,
    }))
  }

  // Takes ownership of `fd`. Must not throw, because the callers do not close the fd on failure.
  private constructor(fd: number, type: number | undefined, { maxMessage = defaultMaxMessage }: FdChannelOptions) {
    this.#fd = fd
    this.#packets = type === binding.constants.SOCK_SEQPACKET
    this.#maxMessage = maxMessage
    this.#incoming = new IncomingFdMessages(this.#packets, maxMessage)
    unreachable.register(this, fd, this)
  }

  /**
   * Takes ownership of `fd`, a connected unix socket, stream or seqpacket. Makes it close-on-exec and non-blocking.
   * Non-blocking mode applies to every process that shares the socket. On failure, the caller still owns the fd.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_FAMILY`, `ERR_SOCKET_TYPE`,
   * `ERR_SOCKET_LISTENING`, `ERR_SOCKET_NOT_UNIX`, `ENOTCONN`, `ERR_FD_IN_USE`.
   */
  static fromFd(fd: number, options: FdChannelOptions = {}): FdChannel {
    const checkedOptions = readChannelOptions(options)
    const type = typeOfConnected(fd)
    adopt(fd)
    return new FdChannel(fd, type, checkedOptions)
  }

  /**
   * Takes ownership of the fd of an accepted connection on a unix socket. On failure, the connection still owns it.
   *
   * Errors: those of `fromFd`, `ERR_CONNECTION_CLAIMED`.
   */
  static fromConnection(connection: Connection, options: FdChannelOptions = {}): FdChannel {
    const checkedOptions = readChannelOptions(options)
    if (!Connection.isConnection(connection)) throw invalidArgType('connection', 'a Connection', connection)
    return Connection.handOver(connection, (fd) => new FdChannel(fd, typeOfConnected(fd), checkedOptions))
  }

  /**
   * Connects to a path, or to an abstract name, which begins with '\0'. `type` is that of the listening socket:
   * 'stream' (default) or 'seqpacket'. Does not wait: connect(2) fails with `EAGAIN` if the accept queue is full.
   *
   * Errors: those of socket(2) and connect(2).
   */
  static connect(path: string, options: FdChannelSocketOptions = {}): FdChannel {
    validate.optionalString('path', path)
    if (path === undefined) throw invalidArgType('path', 'of type string', path)
    const checkedOptions = readFdChannelSocketOptions(options)
    const { AF_UNIX } = binding.constants
    const type = socketType(checkedOptions.type)
    const fd = binding.socket(AF_UNIX as number, type)
    check(fd, 'socket')
    const error = binding.connectPath(fd, path)
    if (error !== 0) binding.close(fd)
    check(error, 'connect', { path })
    return new FdChannel(fd, type, checkedOptions)
  }

  /**
   * Creates a connected pair of sockets: a channel, and a blocking fd for `stdio` of a child process. `type`: 'stream'
   * (default) or 'seqpacket'. The caller owns the fd, and closes it after the child has been started.
   *
   * Errors: those of socketpair(2).
   */
  static pair(options: FdChannelSocketOptions = {}): { channel: FdChannel; fd: number } {
    const checkedOptions = readFdChannelSocketOptions(options)
    const type = socketType(checkedOptions.type)
    const [own, peer] = check(binding.socketPair(type), 'socketpair')
    binding.release(peer)
    return { channel: new FdChannel(own, type, checkedOptions), fd: peer }
  }

  /** The fd of the socket, borrowed; -1 when the channel is closed. */
  get fd(): number {
    return this.#closed ? -1 : this.#fd
  }

  /**
   * The credentials of the peer process at the time of its connect(2), listen(2) or socketpair(2) (`SO_PEERCRED`,
   * unix(7)).
   *
   * Errors: `ERR_CHANNEL_CLOSED`.
   */
  peerCredentials(): PeerCredentials {
    if (this.#closed) throw codedError('ERR_CHANNEL_CLOSED')
    return check(binding.peerCredentials(this.#fd), 'getsockopt')
  }

  /**
   * Sends a message with duplicates of up to 253 fds. `message` is a string (UTF-8) or a view of an ArrayBuffer, 1 to
   * `maxMessage` bytes. Borrows the fds until the call returns: a message that must wait for room in the socket keeps
   * duplicates. The promise is fulfilled when the kernel has accepted the whole message; the peer may not have read it
   * yet. Messages arrive in the order of the calls.
   *
   * A timeout or an abort withdraws a message of which nothing was sent yet, and closes its duplicates. If a part was
   * sent, which happens on a stream only, the rest is given up, and the peer may have received the fds.
   *
   * If a message fails, later messages are still sent. If a message fails after a part of it was sent, every later
   * message fails too; after a timeout or an abort, with `ERR_CHANNEL_MESSAGE`.
   *
   * Errors: `ERR_CHANNEL_CLOSED`, `ERR_CHANNEL_TIMEOUT`, `ABORT_ERR`, `ERR_CHANNEL_MESSAGE`, `EPIPE`, `ECONNRESET`
   * (once, if the peer has closed a seqpacket socket with unread messages), `EBADF` (one of the fds is not open),
   * `EMFILE` (no fd is left for a duplicate), `EMSGSIZE` (the packet is longer than the send buffer of the socket),
   * `ETOOMANYREFS` (too many fds are in flight), and Node's codes for an invalid argument.
   */
  async send(message: string | Uint8Array, fds: readonly number[] = [], options: SendOptions = {}): Promise<void> {
    if (typeof message !== 'string' && !ArrayBuffer.isView(message)) {
      throw invalidArgType('message', 'of type string or an instance of Uint8Array', message)
    }
    // Copy the bytes, because the message may be sent later. For a view of any type, copy its bytes and not its
    // elements.
    const data =
      typeof message === 'string'
        ? Buffer.from(message)
        : Buffer.from(new Uint8Array(message.buffer, message.byteOffset, message.byteLength))
    if (data.length === 0) throw invalidArgValue('message', 'must not be empty', message)
    if (data.length > this.#maxMessage)
      throw invalidArgValue('message', `is longer than ${this.#maxMessage} bytes`, data)
    if (!Array.isArray(fds)) throw invalidArgType('fds', 'an array of fds', fds)
    // Copy the array too, so that it cannot change between the check and the send.
    const borrowed = [...fds]
    if (borrowed.length > maxFds) throw invalidArgValue('fds', `must have at most ${maxFds} elements`, borrowed)
    for (const fd of borrowed) validate.fd('fds', fd)
    const { timeout, signal } = readSendOptions(options)
    if (signal?.aborted) throw abortError(signal)
    const site = timeout < 0 && signal === undefined ? undefined : callSite(this.send)
    return new Promise((resolve, reject) => {
      const outgoing = new OutgoingFdMessage(data, borrowed, !this.#packets, resolve, reject, site)
      try {
        // This comes first, because a method of the signal may be application code, which may close the channel.
        if (signal !== undefined) outgoing.giveUpOnAbort(signal, (error) => this.#giveUp(outgoing, error))
        if (this.#begin(outgoing) === 'waits') outgoing.giveUpAfter(timeout, () => this.#timeOut(outgoing))
      } catch (error) {
        outgoing.fail(error as Error)
      }
    })
  }

  /**
   * Iterates over the received messages in order. Ends when the peer closes its socket or the channel is closed.
   * Leaving the loop does not close the channel. The fds of a message are owned by its `ReceivedFd` objects.
   *
   * Errors: `ERR_CHANNEL_MESSAGE` if the peer violates the protocol, or if fds were lost because this process has too
   * many fds open. This closes the channel. `ENOMEM` leaves the channel open, and so does `EMFILE` when the channel
   * begins to wait for a message.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<FdMessage> {
    return {
      next: () => this.#next(),
      return: async () => ({ value: undefined, done: true }),
      [Symbol.asyncIterator]() {
        return this
      },
    }
  }

  /**
   * Closes the socket and the fds of received messages that the application has not taken. Rejects pending `send()`
   * calls with `ERR_CHANNEL_CLOSED` and ends iterations. A second call has no effect.
   */
  close(): void {
    this.#closeSocket()
    for (const { fds } of this.#received.splice(0)) for (const fd of fds) fd.close()
    this.#settle()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #begin(outgoing: OutgoingFdMessage): 'settled' | 'waits' {
    if (this.#closed) throw codedError('ERR_CHANNEL_CLOSED')
    if (this.#sendError !== undefined) throw this.#sendError()
    this.#outgoing.push(outgoing)
    if (this.#outgoing.length === 1) {
      this.#flush()
      if (!this.#outgoing.includes(outgoing)) return 'settled'
    }
    try {
      if (!outgoing.begun) outgoing.copyFds()
      this.#watch()
    } catch (error) {
      this.#outgoing.splice(this.#outgoing.indexOf(outgoing), 1)
      const { syscall, errno } = error as SystemError
      if (outgoing.begun) this.#sendError = () => systemError(syscall, errno)
      throw error
    }
    return 'waits'
  }

  #timeOut(outgoing: OutgoingFdMessage): void {
    // The socket may have room that the event loop has not reported yet, or never reports: the kernel reports room when
    // three quarters of the send buffer are free.
    this.#flush()
    const detail = outgoing.begun ? 'a part of it was sent' : undefined
    this.#giveUp(outgoing, codedError('ERR_CHANNEL_TIMEOUT', detail))
    this.#watch()
  }

  #giveUp(outgoing: OutgoingFdMessage, error: Error): void {
    const index = this.#outgoing.indexOf(outgoing)
    if (index < 0) return
    this.#outgoing.splice(index, 1)
    if (outgoing.begun) {
      this.#endSending(() =>
        codedError('ERR_CHANNEL_MESSAGE', 'a part of an earlier message was sent', { cause: error }),
      )
    }
    outgoing.fail(error)
    this.#watch()
  }

  #next(): Promise<IteratorResult<FdMessage>> {
    return new Promise((resolve, reject) => {
      const next = { resolve, reject }
      this.#pendingNexts.push(next)
      // Reading stops while `maxQueued` messages are queued here, and the rest stays in the kernel. Read it now.
      this.#read()
      this.#settle()
      try {
        this.#watch()
      } catch (error) {
        // This call rejects with the error, so it must not take a message later.
        this.#pendingNexts.splice(this.#pendingNexts.indexOf(next), 1)
        throw error
      }
    })
  }

  #settle(): void {
    for (;;) {
      const done = this.#closed || this.#ended
      const message = this.#pendingNexts.length > 0 ? this.#received.shift() : undefined
      if (message === undefined && !done) return
      const next = this.#pendingNexts.shift()
      if (next === undefined) return
      if (message !== undefined) next.resolve({ value: message, done: false })
      else if (this.#failure === undefined) next.resolve({ value: undefined, done: true })
      else {
        next.reject(this.#failure)
        this.#failure = undefined
      }
    }
  }

  // Watches the socket while a send() or an iteration is pending. Watching keeps the process alive.
  #watch(): void {
    const pending = !this.#closed && (this.#outgoing.length > 0 || (this.#pendingNexts.length > 0 && !this.#ended))
    if (!pending) {
      this.#unwatch?.()
      this.#unwatch = undefined
    } else {
      this.#unwatch ??= onReady(this.#fd, 'read and write', () => {
        this.#flush()
        this.#read()
        this.#settle()
        this.#watch()
      })
    }
  }

  // Messages are settled after they have left the queue: settling one may run application code, which may call send()
  // or close().
  #flush(): void {
    for (let first = this.#outgoing[0]; first !== undefined; first = this.#outgoing[0]) {
      const sent = first.send(this.#fd)
      if (sent === -EAGAIN) return
      this.#outgoing.shift()
      if (sent === true) {
        first.succeed()
        continue
      }
      const fd = sent === -EBADF ? first.closedFd : undefined
      const error = () => systemError('sendmsg', sent as number, fd === undefined ? {} : { fd })
      if (first.begun) this.#endSending(error)
      first.fail(error())
    }
  }

  // A part of a message was sent on the stream. The peer would read later bytes as the rest of this message, so nothing
  // may follow.
  #endSending(error: () => Error): void {
    this.#sendError = error
    this.#rejectOutgoing(error)
  }

  // Each message gets an error of its own, because the stack of the error leads to the send() of the message.
  #rejectOutgoing(error: () => Error): void {
    for (const outgoing of this.#outgoing.splice(0)) outgoing.fail(error())
  }

  #read(): void {
    while (!this.#closed && !this.#ended && this.#received.length < maxQueued) {
      let next: FdMessage | 'end' | number
      try {
        next = this.#incoming.next(this.#fd)
      } catch (error) {
        this.#fail(error as Error)
        return
      }
      if (next === 'end') this.#ended = true
      else if (typeof next === 'object') this.#received.push(next)
      else {
        if (next === -ENOMEM) {
          for (const pending of this.#pendingNexts.splice(0)) pending.reject(systemError('recvmsg', next))
        }
        return
      }
      this.#settle()
    }
  }

  // Closes the channel. Complete messages that were received before are still delivered.
  #fail(error: Error): void {
    this.#failure = error
    this.#closeSocket()
  }

  #closeSocket(): void {
    if (this.#closed) return
    this.#closed = true
    this.#unwatch?.()
    this.#unwatch = undefined
    unreachable.unregister(this)
    binding.close(this.#fd)
    this.#incoming.close()
    this.#rejectOutgoing(() => codedError('ERR_CHANNEL_CLOSED'))
  }
}

const socketType = (type: 'stream' | 'seqpacket' = 'stream') =>
  binding.constants[type === 'stream' ? 'SOCK_STREAM' : 'SOCK_SEQPACKET'] as number

function typeOfConnected(fd: number): number | undefined {
  const { listening, connected, domain, type } = inspectStream(fd)
  if (listening) throw fdError('ERR_SOCKET_LISTENING', fd)
  if (domain !== binding.constants.AF_UNIX) throw fdError('ERR_SOCKET_NOT_UNIX', fd)
  if (!connected) throw systemError('getpeername', -ENOTCONN, { fd })
  return type
}
