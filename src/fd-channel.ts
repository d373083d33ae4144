import { constants } from 'node:os'
import { adopt, inspectStream } from './adopt.js'
import { binding, type PeerCredentials, type ReceivedMessage } from './binding.js'
import { Connection } from './connection.js'
import { check, codedError, invalidArgType, invalidArgValue, systemError } from './errors.js'
import { type Origin, OwnedFd, unclaimed } from './owned-fd.js'
import { onReady } from './readiness.js'
import * as validate from './validate.js'

export interface FdChannelOptions {
  /** The most bytes that a message may have, in either direction, up to 1 MiB. Default: 64 KiB. */
  maxMessage?: number
}

/** One that came over a channel. It is closed when it becomes unreachable before it was detached, with a warning. */
export class ReceivedFd {
  readonly #owned: OwnedFd

  /** @internal They come over a channel. */
  constructor(owned: OwnedFd) {
    this.#owned = owned
    unclaimed.register(this, owned)
  }

  /** Borrowed; -1 when it is detached or closed. */
  get fd(): number {
    return this.#owned.fd
  }

  /** Gives the fd to the caller, who takes it with `Listener.fromFd` or `Connection.fromFd`, or must close it; or -1. */
  detach(): number {
    const fd = this.#owned.part()
    if (fd >= 0) binding.release(fd)
    return fd
  }

  /** Harmless when there is nothing to close any more. */
  close(): void {
    this.#owned.close('close')
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** What came in one `send`. */
export interface FdMessage {
  data: Buffer
  fds: ReceivedFd[]
}

interface Outgoing {
  bytes: Buffer
  sent: number
  fds: readonly number[]
  resolve(): void
  reject(error: Error): void
}

interface Next {
  resolve(result: IteratorResult<FdMessage>): void
  reject(error: Error): void
}

const { EAGAIN, EMSGSIZE, EBADF } = constants.errno
const origin: Origin = { what: 'fd', where: 'received over an FdChannel' }

// SCM_MAX_FD of unix(7).
const mostFds = 253
const mostMessage = 1024 * 1024
const defaultMessage = 64 * 1024
// On a stream a message begins with two numbers in network byte order, of 32 bits: how many bytes it has, and how many fds.
const headerLength = 8
const chunk = 64 * 1024
// No unix socket takes a packet that is longer than its buffer, which is 208 KiB unless somebody has changed it.
const longestPacket = 1024 * 1024
// Messages that wait for the application, at most; more wait in the kernel.
const mostWaiting = 16

/**
 * Carries messages with fds over a connected unix socket (SCM_RIGHTS, unix(7)), stream or seqpacket, between any two
 * processes. The receiver of an fd gets a copy.
 *
 * It owns its socket until `close()`. It keeps the process alive while somebody waits for a message, or for room to send.
 */
export class FdChannel implements AsyncIterable<FdMessage> {
  readonly #fd: number
  readonly #packets: boolean
  readonly #maxMessage: number
  readonly #outgoing: Outgoing[] = []
  readonly #incoming: FdMessage[] = []
  readonly #nexts: Next[] = []
  #bytes: Buffer = Buffer.alloc(0)
  #fds: ReceivedFd[] = []
  #unwatch: (() => void) | undefined
  #ended = false
  #failure: Error | undefined
  #closed = false

  private constructor(fd: number, { maxMessage = defaultMessage }: FdChannelOptions) {
    this.#fd = fd
    this.#packets = check(binding.inspect(fd), 'fstat').type === binding.constants.SOCK_SEQPACKET
    this.#maxMessage = maxMessage
  }

  /**
   * Takes `fd`, a connected unix socket. It becomes close-on-exec and non-blocking; the latter for every process that shares
   * it. On failure it stays the caller's.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_TYPE`, `ERR_SOCKET_LISTENING`,
   * `ERR_SOCKET_NOT_UNIX`, `ERR_FD_IN_USE`.
   */
  static fromFd(fd: number, options: FdChannelOptions = {}): FdChannel {
    checkOptions(options)
    const { listening, domain } = inspectStream(fd)
    if (listening) throw codedError('ERR_SOCKET_LISTENING', `fd ${fd}`)
    if (domain !== binding.constants.AF_UNIX) throw codedError('ERR_SOCKET_NOT_UNIX', `fd ${fd}`)
    adopt(fd)
    return new FdChannel(fd, options)
  }

  /** Takes an accepted connection of a unix socket. On failure it stays what it was. Errors: as of `fromFd`. */
  static fromConnection(connection: Connection, options: FdChannelOptions = {}): FdChannel {
    checkOptions(options)
    if (!(connection instanceof Connection)) throw invalidArgType('connection', 'a Connection', connection)
    // Says whether it is a unix socket, and not yet claimed.
    connection.peerCredentials()
    return FdChannel.fromFd(connection.detach(), options)
  }

  /**
   * Connects to a path, or to an abstract name that begins with '\0'. `type`: 'stream' (default) or 'seqpacket', as the
   * other side listens. Errors: those of connect(2), `EAGAIN` when its backlog is full.
   */
  static connect(path: string, options: FdChannelOptions & { type?: 'stream' | 'seqpacket' } = {}): FdChannel {
    validate.optionalString('path', path)
    if (path === undefined) throw invalidArgType('path', 'of type string', path)
    checkOptions(options)
    validate.optionalOneOf('options.type', options.type, ['stream', 'seqpacket'])
    const { AF_UNIX } = binding.constants
    const fd = binding.socket(AF_UNIX as number, socketType(options.type))
    check(fd, 'socket')
    const error = binding.connectPath(fd, path)
    if (error !== 0) binding.close(fd)
    check(error, 'connect', { path })
    return new FdChannel(fd, options)
  }

  /**
   * A channel, and the fd of its other end, which blocks: for the `stdio` of a child process. The caller closes that one when
   * the child has it.
   */
  static pair(options: FdChannelOptions & { type?: 'stream' | 'seqpacket' } = {}): { channel: FdChannel; fd: number } {
    checkOptions(options)
    validate.optionalOneOf('options.type', options.type, ['stream', 'seqpacket'])
    const [own, other] = check(binding.socketPair(socketType(options.type)), 'socketpair')
    binding.release(other)
    return { channel: new FdChannel(own, options), fd: other }
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
   * Sends a message of at least one byte, and with it copies of up to 253 fds. Borrows the fds: they must stay open until the
   * promise is fulfilled, when the kernel has all of it; that the peer has read it, only an answer can tell. Messages
   * arrive in the order of the calls.
   *
   * Errors: `ERR_CHANNEL_CLOSED`, `EPIPE`, `EBADF` (of one of the fds), `EMSGSIZE` (a packet beyond the socket's buffer),
   * `ETOOMANYREFS`, and Node's own for a wrong argument.
   */
  async send(message: string | Uint8Array, fds: readonly number[] = []): Promise<void> {
    if (typeof message !== 'string' && !(message instanceof Uint8Array)) {
      throw invalidArgType('message', 'of type string or an instance of Uint8Array', message)
    }
    // A copy: it may be sent later.
    const data = Buffer.from(message as Uint8Array)
    if (data.length === 0) throw invalidArgValue('message', 'must not be empty', message)
    if (data.length > this.#maxMessage)
      throw invalidArgValue('message', `is longer than ${this.#maxMessage} bytes`, data)
    if (!Array.isArray(fds)) throw invalidArgType('fds', 'an array of fds', fds)
    if (fds.length > mostFds) throw invalidArgValue('fds', `must be at most ${mostFds}`, fds)
    for (const fd of fds) validate.fd('fds', fd)
    if (this.#closed) throw codedError('ERR_CHANNEL_CLOSED')
    const bytes = this.#packets ? data : Buffer.concat([header(data.length, fds.length), data])
    return new Promise((resolve, reject) => {
      this.#outgoing.push({ bytes, sent: 0, fds: [...fds], resolve, reject })
      if (this.#outgoing.length === 1) this.#flush()
      this.#watch()
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
      this.#nexts.push({ resolve, reject })
      // What had to wait in the kernel.
      if (this.#incoming.length < mostWaiting) this.#read()
      this.#settle()
      this.#watch()
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
        if (!this.#closed && this.#incoming.length < mostWaiting) this.#read()
        this.#settle()
        this.#watch()
      })
    }
  }

  #flush(): void {
    for (let each = this.#outgoing[0]; each !== undefined; each = this.#outgoing[0]) {
      const rest = each.bytes.subarray(each.sent)
      const sent = binding.sendMessage(this.#fd, rest, each.sent === 0 ? each.fds : [])
      if (sent === -EAGAIN) return
      if (sent >= 0) {
        each.sent += sent
        if (each.sent < each.bytes.length) continue
        each.resolve()
      } else {
        each.reject(systemError('sendmsg', sent))
        // Half a message is the end: whatever came behind it would be taken for its rest.
        if (each.sent > 0 || (sent !== -EBADF && sent !== -EMSGSIZE)) {
          this.#outgoing.shift()
          for (const other of this.#outgoing.splice(0)) other.reject(systemError('sendmsg', sent))
          return
        }
      }
      this.#outgoing.shift()
    }
  }

  #read(): void {
    while (!this.#closed && !this.#ended && this.#incoming.length < mostWaiting) {
      const received = binding.receiveMessage(this.#fd, this.#packets ? longestPacket : chunk)
      if (received === -EAGAIN) return
      const problem = typeof received === 'number' ? systemError('recvmsg', received) : this.#take(received)
      if (problem !== undefined) this.#fail(problem)
    }
  }

  /** What is wrong with it, if anything. */
  #take({ bytes, fds, truncated }: ReceivedMessage): Error | undefined {
    for (const fd of fds) this.#fds.push(new ReceivedFd(new OwnedFd(fd, undefined, origin)))
    if (truncated) return malformed('bytes or fds of it were lost')
    if (bytes.length === 0) {
      this.#ended = true
      return this.#bytes.length > 0 || this.#fds.length > 0 ? malformed('it ends before its time') : undefined
    }
    if (this.#packets) {
      if (bytes.length > this.#maxMessage) return malformed(`it has more than ${this.#maxMessage} bytes`)
      this.#give(bytes, this.#fds.length)
      return undefined
    }
    this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes])
    while (this.#bytes.length >= headerLength) {
      const length = this.#bytes.readUInt32BE(0)
      const count = this.#bytes.readUInt32BE(4)
      const end = headerLength + length
      if (length === 0 || count > mostFds) return malformed(`its header says ${length} bytes and ${count} fds`)
      if (length > this.#maxMessage) return malformed(`it has more than ${this.#maxMessage} bytes`)
      if (this.#bytes.length < end) break
      if (this.#fds.length < count) return malformed('it lacks fds')
      this.#give(this.#bytes.subarray(headerLength, end), count)
      this.#bytes = this.#bytes.subarray(end)
    }
    // They come with the first byte of their message.
    const most = this.#bytes.length === 0 ? 0 : mostFds
    return this.#fds.length > most ? malformed('there are fds that no header speaks of') : undefined
  }

  #give(data: Buffer, count: number): void {
    this.#incoming.push({ data, fds: this.#fds.splice(0, count) })
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
    binding.close(this.#fd)
    for (const fd of this.#fds.splice(0)) fd.close()
    for (const each of this.#outgoing.splice(0)) each.reject(codedError('ERR_CHANNEL_CLOSED'))
  }
}

const malformed = (what: string) => codedError('ERR_CHANNEL_MESSAGE', what)

const socketType = (type: 'stream' | 'seqpacket' = 'stream') =>
  binding.constants[type === 'stream' ? 'SOCK_STREAM' : 'SOCK_SEQPACKET'] as number

function header(length: number, fds: number): Buffer {
  const bytes = Buffer.alloc(headerLength)
  bytes.writeUInt32BE(length, 0)
  bytes.writeUInt32BE(fds, 4)
  return bytes
}

function checkOptions(options: FdChannelOptions): void {
  validate.object('options', options)
  validate.optionalInteger('options.maxMessage', options.maxMessage, 1, mostMessage)
}
