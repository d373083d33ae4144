import { constants } from 'node:os'
import { Connection } from '../accept/connection.js'
import { binding, type PeerCredentials, type ReceivedMessage } from '../core/binding.js'
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
import { headerLength, OutgoingFdMessage } from './outgoing-fd-message.js'
import { type FdMessage, ReceivedFd } from './received-fd.js'

export interface FdChannelOptions {
  /** The maximum size in bytes of a message, sent or received: 1 to 1,048,576. Default: 65,536. */
  maxMessage?: number
}

/** Options of `FdChannel.send`. */
export interface SendOptions {
  /**
   * The timeout in ms from the call until the kernel has the whole message. Negative: no timeout. 0: send only if the
   * socket has room. Default: -1.
   */
  timeout?: number
  /** Gives the message up with `ABORT_ERR` when aborted. */
  signal?: AbortSignal
}

type PairOptions = FdChannelOptions & { type?: 'stream' | 'seqpacket' }

interface PendingNext {
  resolve(result: IteratorResult<FdMessage>): void
  reject(error: Error): void
}

const { EAGAIN, EBADF, ECONNRESET, ENOMEM, ENOTCONN } = constants.errno

const unreachable = new FinalizationRegistry((fd: number) => binding.close(fd))

// A packet is received in one call, so its buffer has the maximum size, `maxReceived` (1 MiB). A unix socket sends no
// packet longer than its send buffer, 208 KiB by default (net.core.wmem_default).
const { maxFds, maxReceived } = binding
const defaultMessage = 64 * 1024
// The maximum number of received messages that wait for the application. Further messages stay in the kernel.
const maxQueued = 16
const excessFds = 'it has more fds than its header announces'

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
  readonly #incoming: FdMessage[] = []
  readonly #pendingNexts: PendingNext[] = []
  #bytes: Buffer = Buffer.alloc(0)
  #fds: ReceivedFd[] = []
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
      received: channel.#incoming.length,
    }))
  }

  // Takes ownership of `fd`. Must not throw, because the callers do not close the fd on failure.
  private constructor(fd: number, type: number | undefined, { maxMessage = defaultMessage }: FdChannelOptions) {
    this.#fd = fd
    this.#packets = type === binding.constants.SOCK_SEQPACKET
    this.#maxMessage = maxMessage
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
    const checkedOptions = readOptions(options)
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
    const checkedOptions = readOptions(options)
    if (!Connection.isConnection(connection)) throw invalidArgType('connection', 'a Connection', connection)
    return Connection.handOver(connection, (fd) => new FdChannel(fd, typeOfConnected(fd), checkedOptions))
  }

  /**
   * Connects to a path, or to an abstract name, which begins with '\0'. `type` is that of the listening socket:
   * 'stream' (default) or 'seqpacket'. Does not wait: connect(2) fails with `EAGAIN` if the accept queue is full.
   *
   * Errors: those of socket(2) and connect(2).
   */
  static connect(path: string, options: PairOptions = {}): FdChannel {
    validate.optionalString('path', path)
    if (path === undefined) throw invalidArgType('path', 'of type string', path)
    const checkedOptions = readPairOptions(options)
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
  static pair(options: PairOptions = {}): { channel: FdChannel; fd: number } {
    const checkedOptions = readPairOptions(options)
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
    for (const { fds } of this.#incoming.splice(0)) for (const fd of fds) fd.close()
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
      const message = this.#pendingNexts.length > 0 ? this.#incoming.shift() : undefined
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
    while (!this.#closed && !this.#ended && this.#incoming.length < maxQueued) {
      if (this.#parseMessage()) continue
      const received = this.#receive()
      if (received === -EAGAIN) return
      // The peer has closed its socket with unread messages. The kernel reports this once, before data from the peer.
      if (received === -ECONNRESET) continue
      // The kernel has kept the message. A later call can receive it.
      if (received === -ENOMEM) {
        for (const next of this.#pendingNexts.splice(0)) next.reject(systemError('recvmsg', received))
        return
      }
      if (typeof received === 'number') this.#fail(systemError('recvmsg', received))
      else this.#process(received)
    }
  }

  #receive(): ReceivedMessage | number {
    const received = binding.receiveMessage(this.#fd, this.#packets ? maxReceived : defaultMessage)
    if (typeof received === 'number') return received
    for (const fd of received.fds) {
      this.#fds.push(ReceivedFd.of(fd))
    }
    return received
  }

  #process({ bytes, truncated }: ReceivedMessage): void {
    if (truncated) this.#failMalformed('some of its bytes or fds were lost')
    else if (bytes.length === 0) this.#end()
    else if (!this.#packets) this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes])
    else if (bytes.length > this.#maxMessage) this.#failMalformed(`it has more than ${this.#maxMessage} bytes`)
    else this.#deliver(bytes, this.#fds.length)
  }

  #end(): void {
    // At the end of the stream, every recvmsg(2) returns 0. For an empty packet, only one call returns 0. Two empty
    // packets in succession count as the end.
    const next = this.#packets ? this.#receive() : undefined
    if (next === -ENOMEM) this.#fail(systemError('recvmsg', next))
    else if (typeof next === 'number' || (next !== undefined && next.bytes.length > 0))
      this.#failMalformed('it is empty')
    else if (this.#bytes.length > 0 || this.#fds.length > 0)
      this.#failMalformed('it is incomplete, and the peer has closed the socket')
    this.#ended = true
  }

  /**
   * Parses the first message in the bytes received on a stream, and delivers it. Returns true if it was complete or
   * malformed, false if more bytes are needed.
   */
  #parseMessage(): boolean {
    const bytes = this.#bytes
    // The maximum number of fds that may have arrived so far. The fds of a message arrive with its first byte.
    let maxArrived = bytes.length === 0 ? 0 : maxFds
    if (bytes.length >= headerLength) {
      const length = bytes.readUInt32BE(0)
      maxArrived = bytes.readUInt32BE(4)
      const end = headerLength + length
      if (length === 0 || maxArrived > maxFds)
        return this.#failMalformed(`its header says ${length} bytes and ${maxArrived} fds`)
      if (length > this.#maxMessage) return this.#failMalformed(`it has more than ${this.#maxMessage} bytes`)
      if (bytes.length >= end) {
        if (this.#fds.length < maxArrived) return this.#failMalformed('it has fewer fds than its header announces')
        if (this.#fds.length > maxArrived && bytes.length === end) return this.#failMalformed(excessFds)
        this.#bytes = bytes.subarray(end)
        this.#deliver(bytes.subarray(headerLength, end), maxArrived)
        return true
      }
    }
    return this.#fds.length > maxArrived && this.#failMalformed(excessFds)
  }

  #deliver(data: Buffer, count: number): void {
    this.#incoming.push({ data, fds: this.#fds.splice(0, count) })
    this.#settle()
  }

  #failMalformed(what: string): true {
    this.#fail(codedError('ERR_CHANNEL_MESSAGE', what))
    return true
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
    for (const fd of this.#fds.splice(0)) fd.close()
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

const channelNames: validate.Names<FdChannelOptions> = { maxMessage: true }
const sendNames: validate.Names<SendOptions> = { timeout: true, signal: true }
const pairNames: validate.Names<PairOptions> = { ...channelNames, type: true }

// Reads each option once, because a getter may return another value the next time.
function readOptions(options: FdChannelOptions): FdChannelOptions {
  validate.options('options', options, channelNames)
  return { maxMessage: readMaxMessage(options) }
}

function readMaxMessage({ maxMessage }: FdChannelOptions): number | undefined {
  validate.optionalInteger('options.maxMessage', maxMessage, 1, maxReceived)
  return maxMessage
}

function readPairOptions(options: PairOptions): PairOptions {
  validate.options('options', options, pairNames)
  const maxMessage = readMaxMessage(options)
  const { type } = options
  validate.optionalOneOf('options.type', type, ['stream', 'seqpacket'])
  return { maxMessage, type }
}

function readSendOptions(options: SendOptions): { timeout: number; signal: AbortSignal | undefined } {
  validate.options('options', options, sendNames)
  const { timeout = -1, signal }: SendOptions = options
  validate.optionalSignal('options.signal', signal)
  return { timeout: validate.timeout('options.timeout', timeout), signal }
}
