import net from 'node:net'
import type tls from 'node:tls'
import { isMainThread } from 'node:worker_threads'
import { binding, type PeerCredentials, type PlainAddress } from '../core/binding.js'
import { brand } from '../core/brand.js'
import { abortError, check, codedError, invalidArgType } from '../core/errors.js'
import { adopt, inspect, inspectStream } from '../core/inspect.js'
import {
  type Handle,
  type HandleClass,
  handleBeneath,
  handleClassOf,
  openHandle,
  setPeer,
  watchHandle,
  watchSocket,
} from '../core/node-internals.js'
import * as validate from '../core/validate.js'
import { type ClientHello, parseClientHello } from '../peek/client-hello.js'
import {
  type End,
  isSeqpacket,
  type LookAheadOptions,
  lookAhead,
  type Reading,
  resetPeekOffset,
} from '../peek/look-ahead.js'
import { noteProxied, type Proxied } from '../peek/proxied.js'
import { longestProxyHeader, type ProxyHeader, parseProxyHeader } from '../peek/proxy-protocol.js'
import { type ConnectionSource, type FdObserver, OwnedFd, unclaimed } from './owned-fd.js'
import type { InheritedOptions } from './sockopt.js'
import { type UpgradeOptions, upgrade } from './tls-upgrade.js'

export interface ToSocketOptions extends InheritedOptions {
  /** Keep the writable side open when the peer ends its own. Default: false. */
  allowHalfOpen?: boolean
  /** Bytes at which the stream's buffers count as full. Default: the listener's `highWaterMark`, or Node's. */
  highWaterMark?: number
  /** Destroys the socket when aborted. */
  signal?: AbortSignal
}

const longestPeek = 65_536
// Bytes of a PROXY header or of a ClientHello. The longest header is longer than any ClientHello in use.
const mostPeeked = longestProxyHeader

// Only a worker can end between an fd's being taken and its release.
const prepareTransfer = isMainThread ? () => {} : binding.prepareTransfer

const noOptions = readToSocketOptions({})
const fromCaller: ConnectionSource = { where: 'given to Connection.fromFd()' }

/**
 * An accepted connection: a raw fd, close-on-exec and non-blocking, that nobody has read from.
 *
 * It owns the fd until one of `toSocket`, `toTLS`, `detach`, `close` or `reset` ends that; each works once. When it
 * becomes unreachable before, the fd is closed and the process is warned.
 */
export class Connection {
  readonly #owned: OwnedFd
  #local: PlainAddress | undefined
  #lookedAt = false

  static {
    brand(Connection, 'Connection')
  }

  /** @internal Whether it is a connection of this copy of the package. A Proxy is not: it has no private fields. */
  static isConnection(value: unknown): value is Connection {
    return typeof value === 'object' && value !== null && #owned in value
  }

  /** @internal Connections come from a Listener or from `Connection.fromFd`. */
  constructor(owned: OwnedFd) {
    if (!(owned instanceof OwnedFd)) throw invalidArgType('owned', 'an accepted fd', owned)
    this.#owned = owned
  }

  /**
   * @internal From now on an fd that nobody claims is closed when its connection is unreachable. Registering costs as
   * much as the rest of accepting, and most connections are claimed as soon as they are there; so it is done for those
   * that are left when the code that got them has run.
   */
  static watch(connections: readonly Connection[]): void {
    for (const connection of connections) {
      if (connection.#owned.fd >= 0) unclaimed.register(connection, connection.#owned)
    }
  }

  /**
   * Takes `fd`, a connected stream or seqpacket socket: from a thread, another process, or `Accept=yes`. It becomes
   * close-on-exec and non-blocking. On failure the fd stays the caller's, untouched. With `dup` borrows it and owns a
   * copy: what a thread does with an fd that another one keeps until it hears that the copy is there.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_FAMILY`, `ERR_SOCKET_TYPE`,
   * `ERR_SOCKET_LISTENING`, `ERR_FD_IN_USE`; with `dup` `EMFILE`.
   */
  static fromFd(fd: number, options: { dup?: boolean } = {}): Connection {
    validate.object('options', options)
    const { dup } = options
    validate.optionalBoolean('options.dup', dup)
    if (inspectStream(fd).listening) throw codedError('ERR_SOCKET_LISTENING', `fd ${fd}`)
    let own = fd
    if (dup) own = check(binding.duplicate(fd), 'fcntl')
    else adopt(fd)
    const owned = new OwnedFd(own, undefined, fromCaller)
    const peer = binding.peerAddress(own)
    // The peer may have gone already; then nobody knows any more who it was.
    owned.peer = typeof peer === 'number' ? { address: '' } : peer
    const connection = new Connection(owned)
    Connection.watch([connection])
    return connection
  }

  /**
   * @internal Gives the fd to what `take` makes of it, in this thread. When that throws, the connection still owns it.
   */
  static handOver<T>(connection: Connection, take: (fd: number) => T): T {
    const taken = take(connection.#claimable())
    const owned = connection.#owned
    owned.release()
    owned.observer?.released()
    return taken
  }

  /** @internal For who serves it: `observer` is told what becomes of the fd. Gives the fd's owner. */
  static observe(connection: Connection, observer: FdObserver): OwnedFd {
    connection.#owned.observer = observer
    return connection.#owned
  }

  /** @internal Gives the fd to a handle as a net.Server's. On failure the connection still owns it. */
  static toHandle(connection: Connection, HandleClass: HandleClass): Handle {
    const fd = connection.#claimable()
    prepareTransfer(fd)
    const handle = openHandle(HandleClass, fd)
    if (handle === undefined) throw codedError('ERR_FD_IN_USE', `fd ${fd}`)
    connection.#giveTo(handle)
    return handle
  }

  /** Borrowed: do not close it, and do not use it after the connection was claimed; it is -1 then. */
  get fd(): number {
    return this.#owned.fd
  }

  /** The tag of the accept request that brought it; undefined after `fromFd`. */
  get ref(): number | undefined {
    return this.#owned.ref
  }

  /**
   * The peer's address, from `accept4` itself: known even when the peer has gone, and after the claim. For a unix
   * socket its path, if it has one. Undefined when it has none.
   */
  get remoteAddress(): string | undefined {
    return this.#owned.peer.address || undefined
  }

  get remotePort(): number | undefined {
    return this.#owned.peer.port
  }

  /** `'IPv4'` or `'IPv6'`; undefined for a unix socket. */
  get remoteFamily(): 'IPv4' | 'IPv6' | undefined {
    return this.#owned.peer.family
  }

  /** What a proxy said of the client, after `serve` has read its PROXY header: then `remote*` are the client's. */
  get proxied(): Proxied | undefined {
    return this.#owned.observer?.proxied
  }

  /** Our own end's address. Undefined when it is asked for the first time after the claim. */
  get localAddress(): string | undefined {
    return this.#localEnd()?.address || undefined
  }

  get localPort(): number | undefined {
    return this.#localEnd()?.port
  }

  /**
   * The process at the other end of a unix socket, as it was when it connected (unix(7), `SO_PEERCRED`). Borrows the
   * fd. It may have executed another program since, or passed the socket on.
   *
   * Errors: `ERR_SOCKET_NOT_UNIX`, `ERR_CONNECTION_CLAIMED`.
   */
  peerCredentials(): PeerCredentials {
    const fd = this.#claimable()
    if (inspect(fd).domain !== binding.constants.AF_UNIX) throw codedError('ERR_SOCKET_NOT_UNIX', `fd ${fd}`)
    return check(binding.peerCredentials(fd), 'getsockopt')
  }

  /**
   * Gives the fd to a `net.Socket`, which reads from it at once, as one from `net.Server` would. On failure the
   * connection still owns it.
   *
   * Errors: `ERR_CONNECTION_CLAIMED`, and Node's own for a wrong option.
   */
  toSocket(options: ToSocketOptions = noOptions): net.Socket {
    const wanted = options === noOptions ? noOptions : readToSocketOptions(options)
    const { source } = this.#owned
    const { allowHalfOpen, highWaterMark = source.highWaterMark, noDelay, keepAliveInitialDelay, signal } = wanted
    const aborted = signal?.aborted
    const fd = this.#claimable()
    prepareTransfer(fd)
    // Not with a signal, the one option that can make the constructor throw: a handle that is open cannot give back its
    // fd.
    const handle = signal === undefined && source.handleClass ? openHandle(source.handleClass, fd) : undefined
    const socket = new net.Socket({
      fd: handle === undefined ? fd : undefined,
      handle,
      readable: true,
      writable: true,
      allowHalfOpen,
      // One that is aborted already would destroy the socket before it has the fd, and nobody would close that.
      signal: aborted ? undefined : signal,
      // Tells the socket what it has inherited, so that its setNoDelay() knows when there is nothing to do.
      noDelay: source.noDelay,
      keepAlive: source.keepAlive,
      keepAliveInitialDelay: source.keepAliveInitialDelay,
      readableHighWaterMark: highWaterMark,
      writableHighWaterMark: highWaterMark,
    } as net.SocketConstructorOpts)
    const given = handle ?? (handleBeneath(socket) as Handle)
    this.#giveTo(given)
    if (this.#owned.observer !== undefined) watchSocket(socket, given)
    if (handle === undefined && source !== fromCaller) source.handleClass ??= handleClassOf(socket)
    if (noDelay !== undefined) socket.setNoDelay(noDelay)
    // A delay alone changes the probing that the listener has turned on.
    const keepAlive = wanted.keepAlive ?? (keepAliveInitialDelay === undefined ? undefined : source.keepAlive)
    if (keepAlive !== undefined) socket.setKeepAlive(keepAlive, keepAliveInitialDelay)
    if (aborted) socket.destroy(abortError(signal))
    return socket
  }

  /**
   * Gives the fd to a `tls.TLSSocket` and makes the handshake, as a server. `options` are those of `tls.createServer`;
   * give the same object each time, because the context, and with it the sessions that clients may resume, is made once
   * for each. Or give a `tls.Server` of your own (`https` and `http2` secure ones are such): its contexts, callbacks
   * and session events serve, but it gets neither the connection nor its failure. A server that is to get the socket
   * afterwards, by `emit('secureConnection', socket)`, must be the one that was lent. What either says of `noDelay`,
   * `keepAlive`, `allowHalfOpen` and `pauseOnConnect` holds.
   *
   * When the options are wrong or the connection was claimed before, nothing has happened. Otherwise the fd is the
   * socket's from the call on, and when the promise rejects, it is closed.
   *
   * Errors: `ERR_TLS_HANDSHAKE_TIMEOUT`, `ABORT_ERR`, `ECONNRESET` (the client hung up), OpenSSL's codes such as
   * `ERR_SSL_HTTP_REQUEST`, those of a refused client certificate such as `DEPTH_ZERO_SELF_SIGNED_CERT`, what a
   * callback of the options threw, `ERR_CONNECTION_CLAIMED`, and Node's own for a wrong option.
   */
  async toTLS(options: tls.TlsOptions | tls.Server, upgradeOptions: UpgradeOptions = {}): Promise<tls.TLSSocket> {
    return upgrade((inherited) => this.toSocket(inherited), options, upgradeOptions)
  }

  /**
   * Waits for the first `length` bytes (at most 65,536) and looks at them; they are still there for the next reader.
   * When the peer ends its side before, what it has sent is all there is; of a seqpacket socket the first packet is. A
   * receive buffer (`SO_RCVBUF`, socket(7)) that is too small for them is larger until the look ends. Borrows the fd.
   * One look at a time.
   *
   * Errors: `ERR_PEEK_TIMEOUT`, `ABORT_ERR`, `ECONNRESET`, `ERR_PEEK_PENDING`, `ERR_CONNECTION_CLAIMED` (also when the
   * connection is claimed meanwhile), `ERR_OUT_OF_RANGE`; `ERR_PEEK_STOPPED` when urgent data (tcp(7)) or file
   * descriptors (unix(7)) keep the kernel from showing what is behind them; `ERR_PEEK_BUFFER` when `net.core.rmem_max`
   * allows no buffer that is large enough.
   */
  async peek(length: number, options: LookAheadOptions = {}): Promise<Buffer> {
    validate.integer('length', length, 1, longestPeek)
    return this.#look<Buffer>(length, options, (bytes, end) =>
      end !== undefined || bytes.length === length ? { result: bytes } : { needed: length },
    )
  }

  /**
   * Waits for a TLS ClientHello, in any number of pieces and TLS records, and reads it; it is still there for `toTLS`.
   * Null when the client sends something else, or hangs up before. Borrows the fd.
   *
   * Errors: as of {@link peek}.
   */
  async clientHello(options: LookAheadOptions = {}): Promise<ClientHello | null> {
    return this.#look<ClientHello | null>(mostPeeked, options, (bytes, end) => {
      const parsed = parseClientHello(bytes)
      if (parsed === null) return { result: null }
      if ('hello' in parsed) return { result: parsed.hello }
      if (end !== undefined || bytes.length === mostPeeked) return { result: null }
      return { needed: Math.min(parsed.needed, mostPeeked) }
    })
  }

  /**
   * Waits for a PROXY header of version 1 or 2, and takes exactly that; what comes behind it is untouched. Null when
   * something else comes, or the peer ends its side without a word; then nothing was taken. A seqpacket socket must
   * bring it in a packet of its own. Believe it only from a proxy that you know by its `remoteAddress`. Borrows the fd.
   *
   * Errors: `ERR_PROXY_HEADER` (it is malformed), `ERR_PEEK_ENDED` (the peer hung up within it), and those of {@link
   * peek}. With each of them nothing was taken.
   */
  async proxyHeader(options: LookAheadOptions = {}): Promise<ProxyHeader | null> {
    return this.#look<ProxyHeader | null>(mostPeeked, options, (bytes, end) => {
      const parsed = parseProxyHeader(bytes)
      if (parsed === null) return { result: null }
      if ('malformed' in parsed) throw codedError('ERR_PROXY_HEADER', parsed.malformed)
      if ('needed' in parsed) {
        if (end === undefined) return { needed: parsed.needed }
        if (bytes.length === 0) return { result: null }
        if (end === 'packet') throw codedError('ERR_PROXY_HEADER', 'its packet ends before it')
        throw codedError('ERR_PEEK_ENDED', `${bytes.length} bytes of a PROXY header`)
      }
      // What is left of a packet is lost when a part of it is taken. IP sockets, which have a family, are streams.
      if (bytes.length > parsed.length && this.remoteFamily === undefined && isSeqpacket(this.#owned.fd)) {
        throw codedError('ERR_PROXY_HEADER', 'its packet does not end with it')
      }
      check(binding.receive(this.#owned.fd, parsed.length, false), 'recv')
      return { result: parsed.header }
    })
  }

  async #look<T>(
    limit: number,
    options: LookAheadOptions,
    read: (bytes: Buffer, end: End | undefined) => Reading<T>,
  ): Promise<T> {
    const fd = this.#claimable()
    if (this.#owned.abandonLook !== undefined) throw codedError('ERR_PEEK_PENDING')
    if (!this.#lookedAt) {
      this.#lookedAt = true
      resetPeekOffset(fd)
    }
    // `this`, and not only its fd: a connection whose bytes somebody waits for is not forgotten.
    return lookAhead(fd, limit, options, (abandon) => (this.#owned.abandonLook = abandon), read)
  }

  /** Gives the fd to the caller, who must close it. Error: `ERR_CONNECTION_CLAIMED`. */
  detach(): number {
    const fd = this.#claimable()
    binding.detach(this.#owned.release())
    this.#owned.observer?.released()
    return fd
  }

  /** Closes the fd. Harmless when there is nothing to close any more. */
  close(): void {
    this.#owned.close('close')
  }

  /** Closes the fd so that a TCP peer gets a reset (`SO_LINGER` with a time of 0). Harmless like {@link close}. */
  reset(): void {
    this.#owned.close('reset')
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #claimable(): number {
    const { fd } = this.#owned
    if (fd < 0) throw codedError('ERR_CONNECTION_CLAIMED')
    return fd
  }

  #giveTo(handle: Handle): void {
    binding.release(this.#owned.release())
    const { observer } = this.#owned
    if (observer === undefined) return
    observer.handle = handle
    watchHandle(handle, observer)
    const { proxied } = observer
    if (proxied === undefined) return
    if (proxied.client) setPeer(handle, proxied.client)
    noteProxied(handle, proxied)
  }

  #localEnd(): PlainAddress | undefined {
    const { fd } = this.#owned
    if (this.#local === undefined && fd >= 0) this.#local = check(binding.localAddress(fd), 'getsockname')
    return this.#local
  }
}

// Each is read once: a getter may answer otherwise the next time.
function readToSocketOptions(options: ToSocketOptions): ToSocketOptions {
  validate.object('options', options)
  const { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark, signal }: ToSocketOptions = options
  validate.optionalBoolean('options.allowHalfOpen', allowHalfOpen)
  validate.optionalBoolean('options.noDelay', noDelay)
  validate.optionalBoolean('options.keepAlive', keepAlive)
  validate.optionalInteger('options.keepAliveInitialDelay', keepAliveInitialDelay, 0, 2 ** 31 - 1)
  validate.optionalInteger('options.highWaterMark', highWaterMark, 0, 2 ** 31 - 1)
  validate.optionalSignal('options.signal', signal)
  return { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark, signal }
}
