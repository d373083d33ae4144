import { constants } from 'node:os'
import { Connection } from '../accept/connection.js'
import { binding, type PeerCredentials, type ReceivedMessage } from '../core/binding.js'
import { check, codedError, invalidArgType, invalidArgValue, systemError } from '../core/errors.js'
import { adopt, inspectStream } from '../core/inspect.js'
import { onReady } from '../core/readiness.js'
import * as validate from '../core/validate.js'
import { headerLength, OutgoingFdMessage } from './outgoing-fd-message.js'
import { type FdMessage, ReceivedFd } from './received-fd.js'

export interface FdChannelOptions {
  /** The most bytes that a message may have, in either direction, up to 1 MiB. Default: 64 KiB. */
  maxMessage?: number
}

type PairOptions = FdChannelOptions & { type?: 'stream' | 'seqpacket' }

interface Next {
  resolve(result: IteratorResult<FdMessage>): void
  reject(error: Error): void
}

const { EAGAIN, ECONNRESET, ENOMEM, ENOTCONN } = constants.errno

const unreachable = new FinalizationRegistry((fd: number) => binding.close(fd))

// A packet is received in one call. No unix socket accepts a packet that is longer than its send buffer, which is
// 208 KiB by default (net.core.wmem_default).
const { maxFds, maxReceived } = binding
const defaultMessage = 64 * 1024
// Messages that wait for the application, at most; more wait in the kernel.
const mostWaiting = 16
const strayFds = 'there are fds that no header speaks of'

/**
 * Carries messages with fds over a connected unix socket (SCM_RIGHTS, unix(7)), stream or seqpacket, between any two
 * processes. The receiver of an fd gets a copy.
 *
 * It owns its socket until `close()`. It keeps the process alive while somebody waits for a message, or for room to send.
 * A channel that becomes unreachable while nobody waits is closed.
 */
export class FdChannel implements AsyncIterable<FdMessage> {
  readonly #fd: number
  readonly #packets: boolean
  readonly #maxMessage: number
  readonly #outgoing: OutgoingFdMessage[] = []
  readonly #incoming: FdMessage[] = []
  readonly #nexts: Next[] = []
  #bytes: Buffer = Buffer.alloc(0)
  #fds: ReceivedFd[] = []
  #unwatch: (() => void) | undefined
  #ended = false
  #failure: Error | undefined
  // Why nothing can be sent any more.
  #cutOff: Error | undefined
  #closed = false

  // Must not throw: who calls it has nowhere to leave the fd.
  private constructor(fd: number, type: number | undefined, { maxMessage = defaultMessage }: FdChannelOptions) {
    this.#fd = fd
    this.#packets = type === binding.constants.SOCK_SEQPACKET
    this.#maxMessage = maxMessage
    unreachable.register(this, fd, this)
  }

  /**
   * Takes `fd`, a connected unix socket. It becomes close-on-exec and non-blocking; the latter for every process that shares
   * it. On failure it stays the caller's.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_FAMILY`, `ERR_SOCKET_TYPE`,
   * `ERR_SOCKET_LISTENING`, `ERR_SOCKET_NOT_UNIX`, `ENOTCONN`, `ERR_FD_IN_USE`.
   */
  static fromFd(fd: number, options: FdChannelOptions = {}): FdChannel {
    const wanted = readOptions(options)
    const type = typeOfConnected(fd)
    adopt(fd)
    return new FdChannel(fd, type, wanted)
  }

  /** Takes an accepted connection of a unix socket. On failure it stays what it was. Errors: as of `fromFd`. */
  static fromConnection(connection: Connection, options: FdChannelOptions = {}): FdChannel {
    const wanted = readOptions(options)
    if (!Connection.isConnection(connection)) throw invalidArgType('connection', 'a Connection', connection)
    return Connection.handOver(connection, (fd) => new FdChannel(fd, typeOfConnected(fd), wanted))
  }

  /**
   * Connects to a path, or to an abstract name that begins with '\0'. `type`: 'stream' (default) or 'seqpacket', as the
   * other side listens. Errors: those of connect(2), `EAGAIN` when its backlog is full.
   */
  static connect(path: string, options: PairOptions = {}): FdChannel {
    validate.optionalString('path', path)
    if (path === undefined) throw invalidArgType('path', 'of type string', path)
    const wanted = readPairOptions(options)
    const { AF_UNIX } = binding.constants
    const type = socketType(wanted.type)
    const fd = binding.socket(AF_UNIX as number, type)
    check(fd, 'socket')
    const error = binding.connectPath(fd, path)
    if (error !== 0) binding.close(fd)
    check(error, 'connect', { path })
    return new FdChannel(fd, type, wanted)
  }

  /**
   * A channel, and the fd of its other end, which blocks: for the `stdio` of a child process. The caller closes that one when
   * the child has it.
   */
  static pair(options: PairOptions = {}): { channel: FdChannel; fd: number } {
    const wanted = readPairOptions(options)
    const type = socketType(wanted.type)
    const [own, other] = check(binding.socketPair(type), 'socketpair')
    binding.release(other)
    return { channel: new FdChannel(own, type, wanted), fd: other }
  }

  /** Borrowed; -1 when it is closed. */
  get fd(): number {
    return this.#closed ? -1 : this.#fd
  }

  /** The process at the other end when it connected, or that made the pair (`SO_PEERCRED`, unix(7)). */
  peerCredentials(): PeerCredentials {
    if (this.#closed) throw codedError('ERR_CHANNEL_CLOSED')
    return check(binding.peerCredentials(this.#fd), 'getsockopt')
  }

  /**
   * Sends a message of at least one byte, a string or the bytes of any view, and with it copies of up to 253 fds. Borrows the
   * fds until the call returns: a message that must wait keeps copies of its own. The promise is fulfilled when the kernel has
   * the whole message; only an answer can tell that the peer has read it. Messages arrive in the order of the calls. One that
   * fails is not sent, and those behind it are.
   *
   * Errors: `ERR_CHANNEL_CLOSED`, `EPIPE`, `EBADF` (of one of the fds), `EMFILE` (no fd is left for a copy), `EMSGSIZE` (a
   * packet beyond the socket's buffer), `ETOOMANYREFS` (too many fds under way), and Node's own for a wrong argument.
   */
  async send(message: string | Uint8Array, fds: readonly number[] = []): Promise<void> {
    if (typeof message !== 'string' && !ArrayBuffer.isView(message)) {
      throw invalidArgType('message', 'of type string or an instance of Uint8Array', message)
    }
    // A copy: it may be sent later. Of a view of another class or realm the bytes, not the numbers.
    const data =
      typeof message === 'string'
        ? Buffer.from(message)
        : Buffer.from(new Uint8Array(message.buffer, message.byteOffset, message.byteLength))
    if (data.length === 0) throw invalidArgValue('message', 'must not be empty', message)
    if (data.length > this.#maxMessage)
      throw invalidArgValue('message', `is longer than ${this.#maxMessage} bytes`, data)
    if (!Array.isArray(fds)) throw invalidArgType('fds', 'an array of fds', fds)
    // A copy too: what was checked is what is sent.
    const borrowed = [...fds]
    if (borrowed.length > maxFds) throw invalidArgValue('fds', `must be at most ${maxFds}`, borrowed)
    for (const fd of borrowed) validate.fd('fds', fd)
    if (this.#closed) throw codedError('ERR_CHANNEL_CLOSED')
    if (this.#cutOff !== undefined) throw this.#cutOff
    return new Promise((resolve, reject) => {
      const outgoing = new OutgoingFdMessage(data, borrowed, !this.#packets, resolve, reject)
      this.#outgoing.push(outgoing)
      if (this.#outgoing.length === 1) this.#flush()
      // It is sent, or has failed.
      if (this.#outgoing.at(-1) !== outgoing) return
      try {
        if (!outgoing.begun) outgoing.copyFds()
        this.#watch()
      } catch (error) {
        this.#outgoing.pop()
        outgoing.releaseFds()
        if (outgoing.begun) this.#cutOff = error as Error
        throw error
      }
    })
  }

  /**
   * The messages as they come; ends with the channel or its peer. Leaving the loop closes nothing. It throws
   * `ERR_CHANNEL_MESSAGE` when the peer does not keep to the protocol, or fds were lost because this process has too many
   * open; the channel is closed then.
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
   * Closes the socket, and the fds of messages that nobody has taken out. Who waits to send gets `ERR_CHANNEL_CLOSED`;
   * iteration ends. Harmless the second time.
   */
  close(): void {
    this.#shut()
    for (const { fds } of this.#incoming.splice(0)) for (const fd of fds) fd.close()
    this.#settle()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #next(): Promise<IteratorResult<FdMessage>> {
    return new Promise((resolve, reject) => {
      const next = { resolve, reject }
      this.#nexts.push(next)
      // What had to wait in the kernel.
      this.#read()
      this.#settle()
      try {
        this.#watch()
      } catch (error) {
        // A message would be lost on who has got the error.
        this.#nexts.splice(this.#nexts.indexOf(next), 1)
        throw error
      }
    })
  }

  #settle(): void {
    for (;;) {
      const done = this.#closed || this.#ended
      const message = this.#nexts.length > 0 ? this.#incoming.shift() : undefined
      if (message === undefined && !done) return
      const next = this.#nexts.shift()
      if (next === undefined) return
      if (message !== undefined) next.resolve({ value: message, done: false })
      else if (this.#failure === undefined) next.resolve({ value: undefined, done: true })
      else {
        next.reject(this.#failure)
        this.#failure = undefined
      }
    }
  }

  // For as long as somebody waits; it is what keeps the process alive.
  #watch(): void {
    const waits = !this.#closed && (this.#outgoing.length > 0 || (this.#nexts.length > 0 && !this.#ended))
    if (!waits) {
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

  #flush(): void {
    for (let first = this.#outgoing[0]; first !== undefined; first = this.#outgoing[0]) {
      const sent = first.send(this.#fd)
      if (sent === -EAGAIN) return
      if (sent === true) {
        first.resolve()
      } else {
        const error = systemError('sendmsg', sent as number)
        // The peer would take whatever comes behind half a message for its rest.
        if (first.begun) {
          this.#cutOff = error
          this.#rejectOutgoing(error)
          return
        }
        first.releaseFds()
        first.reject(error)
      }
      this.#outgoing.shift()
    }
  }

  #rejectOutgoing(error: Error): void {
    for (const outgoing of this.#outgoing.splice(0)) {
      outgoing.releaseFds()
      outgoing.reject(error)
    }
  }

  #read(): void {
    while (!this.#closed && !this.#ended && this.#incoming.length < mostWaiting) {
      if (this.#cut()) continue
      const received = this.#receive()
      if (received === -EAGAIN) return
      // The peer has gone without reading all that we have sent. It is told once, before what the peer had sent itself.
      if (received === -ECONNRESET) continue
      // Nothing was taken: it is there for who asks again.
      if (received === -ENOMEM) {
        for (const next of this.#nexts.splice(0)) next.reject(systemError('recvmsg', received))
        return
      }
      if (typeof received === 'number') this.#fail(systemError('recvmsg', received))
      else this.#take(received)
    }
  }

  #receive(): ReceivedMessage | number {
    const received = binding.receiveMessage(this.#fd, this.#packets ? maxReceived : defaultMessage)
    if (typeof received === 'number') return received
    for (const fd of received.fds) {
      this.#fds.push(new ReceivedFd(fd))
    }
    return received
  }

  #take({ bytes, truncated }: ReceivedMessage): void {
    if (truncated) this.#refuse('bytes or fds of it were lost')
    else if (bytes.length === 0) this.#end()
    else if (!this.#packets) this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes])
    else if (bytes.length > this.#maxMessage) this.#refuse(`it has more than ${this.#maxMessage} bytes`)
    else this.#deliver(bytes, this.#fds.length)
  }

  #end(): void {
    // The end comes again however often one asks; what does not was an empty packet. Two of them pass for the end.
    const again = this.#packets ? this.#receive() : undefined
    if (again === -ENOMEM) this.#fail(systemError('recvmsg', again))
    else if (typeof again === 'number' || (again !== undefined && again.bytes.length > 0)) this.#refuse('it is empty')
    else if (this.#bytes.length > 0 || this.#fds.length > 0) this.#refuse('it ends before its time')
    this.#ended = true
  }

  /** Takes the first message off what came on a stream. Whether it was whole, or wrong. */
  #cut(): boolean {
    const bytes = this.#bytes
    // How many fds there may be: they come with the first byte of their message.
    let most = bytes.length === 0 ? 0 : maxFds
    if (bytes.length >= headerLength) {
      const length = bytes.readUInt32BE(0)
      most = bytes.readUInt32BE(4)
      const end = headerLength + length
      if (length === 0 || most > maxFds) return this.#refuse(`its header says ${length} bytes and ${most} fds`)
      if (length > this.#maxMessage) return this.#refuse(`it has more than ${this.#maxMessage} bytes`)
      if (bytes.length >= end) {
        if (this.#fds.length < most) return this.#refuse('it lacks fds')
        if (this.#fds.length > most && bytes.length === end) return this.#refuse(strayFds)
        this.#bytes = bytes.subarray(end)
        this.#deliver(bytes.subarray(headerLength, end), most)
        return true
      }
    }
    return this.#fds.length > most && this.#refuse(strayFds)
  }

  #deliver(data: Buffer, count: number): void {
    this.#incoming.push({ data, fds: this.#fds.splice(0, count) })
    this.#settle()
  }

  #refuse(what: string): true {
    this.#fail(codedError('ERR_CHANNEL_MESSAGE', what))
    return true
  }

  // What came whole before is still given out.
  #fail(error: Error): void {
    this.#failure = error
    this.#shut()
  }

  #shut(): void {
    if (this.#closed) return
    this.#closed = true
    this.#unwatch?.()
    this.#unwatch = undefined
    unreachable.unregister(this)
    binding.close(this.#fd)
    for (const fd of this.#fds.splice(0)) fd.close()
    this.#rejectOutgoing(codedError('ERR_CHANNEL_CLOSED'))
  }
}

const socketType = (type: 'stream' | 'seqpacket' = 'stream') =>
  binding.constants[type === 'stream' ? 'SOCK_STREAM' : 'SOCK_SEQPACKET'] as number

function typeOfConnected(fd: number): number | undefined {
  const { listening, connected, domain, type } = inspectStream(fd)
  if (listening) throw codedError('ERR_SOCKET_LISTENING', `fd ${fd}`)
  if (domain !== binding.constants.AF_UNIX) throw codedError('ERR_SOCKET_NOT_UNIX', `fd ${fd}`)
  if (!connected) throw systemError('getpeername', -ENOTCONN)
  return type
}

// Each is read once: a getter may answer otherwise the next time.
function readOptions(options: FdChannelOptions): FdChannelOptions {
  validate.object('options', options)
  const { maxMessage }: FdChannelOptions = options
  validate.optionalInteger('options.maxMessage', maxMessage, 1, maxReceived)
  return { maxMessage }
}

function readPairOptions(options: PairOptions): PairOptions {
  const { maxMessage } = readOptions(options)
  const { type } = options
  validate.optionalOneOf('options.type', type, ['stream', 'seqpacket'])
  return { maxMessage, type }
}
