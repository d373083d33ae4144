import net from 'node:net'
import type tls from 'node:tls'
import { isMainThread } from 'node:worker_threads'
import { binding, type PeerCredentials, type PlainAddress } from '../core/binding.js'
import { brand } from '../core/brand.js'
import { type CallSite, callSite } from '../core/call-site.js'
import { abortError, check, codedError, fdError, invalidArgType } from '../core/errors.js'
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
import { showAs } from '../core/show.js'
import * as validate from '../core/validate.js'
import { type ClientHello, parseClientHello } from '../peek/client-hello.js'
import {
  type End,
  isSeqpacket,
  type LookAheadOptions,
  lookAhead,
  type PeekOptions,
  peekNames,
  type Reading,
  resetPeekOffset,
} from '../peek/look-ahead.js'
import { noteProxied, type Proxied } from '../peek/proxied.js'
import { longestProxyHeader, type ProxyHeader, parseProxyHeader } from '../peek/proxy-protocol.js'
import { type ConnectionSource, closeWithWarning, type FdObserver, OwnedFd, unclaimed } from './owned-fd.js'
import { type InheritedOptions, inheritedNames } from './sockopt.js'
import { type UpgradeOptions, upgrade } from './tls-upgrade.js'

/** Options of `Connection.toSocket`. */
export interface ToSocketOptions extends InheritedOptions {
  /** Keeps the writable side open after the peer has ended its side. Default: false. */
  allowHalfOpen?: boolean
  /** The size in bytes at which a stream buffer counts as full. Default: the listener's `highWaterMark`, or Node's. */
  highWaterMark?: number
  /** Destroys the socket when aborted. */
  signal?: AbortSignal
}

const longestPeek = 65_536
// The maximum number of bytes that `clientHello` and `proxyHeader` peek at. The longest PROXY header is longer than any
// ClientHello in use.
const longestLook = longestProxyHeader

// Needed in a worker only. The worker may be terminated after a handle has taken the fd, but before the addon has
// released the fd.
const prepareTransfer = isMainThread ? () => {} : binding.prepareTransfer

const fromFdNames: validate.Names<{ dup?: boolean }> = { dup: true }
const toSocketNames: validate.Names<ToSocketOptions> = {
  ...inheritedNames,
  allowHalfOpen: true,
  highWaterMark: true,
  signal: true,
}
const defaults = readToSocketOptions({})
const fromCaller: ConnectionSource = { where: 'given to Connection.fromFd()' }

/**
 * An accepted connection: a raw fd, close-on-exec and non-blocking, from which nothing has been read.
 *
 * The connection owns the fd until the first call of `toSocket`, `toTLS`, `detach`, `close` or `reset`, which claims
 * it. If an unclaimed connection becomes unreachable, its fd is closed and the process emits a warning with the code
 * `ASYNC_ACCEPT_UNCLAIMED_CONNECTION`.
 */
export class Connection {
  readonly #owned: OwnedFd
  #local: PlainAddress | undefined
  #peekOffsetReset = false

  static {
    brand(Connection, 'Connection')
    // A promise that is resolved with an object looks up the object's `then`. V8 takes long to find that there is none:
    // on Node 26, longer than to settle the promise.
    Object.defineProperty(Connection.prototype, 'then', { value: undefined })
    showAs(Connection, 'Connection', (connection) => ({
      fd: connection.fd,
      ref: connection.ref,
      state: connection.fd < 0 ? 'claimed' : 'unclaimed',
      remoteAddress: connection.remoteAddress,
      remotePort: connection.remotePort,
      // Reading it would be a system call, which can fail.
      localAddress: connection.#local?.address || undefined,
      localPort: connection.#local?.port,
      proxied: connection.proxied,
    }))
  }

  /**
   * @internal Returns whether a value is a Connection of this copy of the package. Returns false for a Proxy, which has
   * no private fields.
   */
  static isConnection(value: unknown): value is Connection {
    return typeof value === 'object' && value !== null && #owned in value
  }

  private constructor(owned: OwnedFd) {
    if (!(owned instanceof OwnedFd)) throw invalidArgType('owned', 'an accepted fd', owned)
    this.#owned = owned
  }

  /** @internal Creates the Connection of an accepted fd. */
  static of(owned: OwnedFd): Connection {
    return new Connection(owned)
  }

  /**
   * @internal Registers connections with `unclaimed`, which closes the fd of an unclaimed connection that becomes
   * unreachable. Registration costs as much as the rest of accepting, and most accepted connections are claimed at
   * once. So they are registered only if they are still unclaimed after the code that received them has run.
   */
  static watch(connections: readonly Connection[]): void {
    for (const connection of connections) {
      if (connection.#owned.fd >= 0) unclaimed.register(connection, connection.#owned)
    }
  }

  /** @internal Closes a connection that was accepted for a request of `asyncAccept`, and that no handler received. */
  static closeUnhandled(connection: Connection): void {
    const what = "Closing a connection because the Listener has no 'accept' handler"
    closeWithWarning(connection.#owned, what, 'ASYNC_ACCEPT_NO_HANDLER')
  }

  /**
   * Takes ownership of `fd`, a connected stream or seqpacket socket from another thread, another process, or systemd
   * with `Accept=yes`. Makes it close-on-exec and non-blocking. On failure the caller still owns the fd, unchanged.
   *
   * With `dup: true`, borrows the fd and owns a duplicate (`F_DUPFD_CLOEXEC`, fcntl(2)). Use it to receive an fd from
   * another thread: the sender keeps its fd open until the receiver confirms that it has the duplicate.
   *
   * Errors: `EBADF`, `ERR_FD_IS_FILE`, `ERR_FD_IS_PIPE`, `ERR_FD_NOT_SOCKET`, `ERR_SOCKET_FAMILY`, `ERR_SOCKET_TYPE`,
   * `ERR_SOCKET_LISTENING`, `ERR_FD_IN_USE`; with `dup` `EMFILE`.
   */
  static fromFd(fd: number, options: { dup?: boolean } = {}): Connection {
    validate.options('options', options, fromFdNames)
    const { dup } = options
    validate.optionalBoolean('options.dup', dup)
    if (inspectStream(fd).listening) throw fdError('ERR_SOCKET_LISTENING', fd)
    let own = fd
    if (dup) own = check(binding.duplicate(fd), 'fcntl', { fd })
    else adopt(fd)
    const owned = new OwnedFd(own, undefined, fromCaller)
    const peer = binding.peerAddress(own)
    // If the peer has disconnected already, its address is unknown.
    owned.peer = typeof peer === 'number' ? { address: '' } : peer
    const connection = new Connection(owned)
    Connection.watch([connection])
    return connection
  }

  /**
   * @internal Transfers ownership of the fd to `take`, in this thread. If `take` throws, the connection keeps the fd.
   */
  static handOver<T>(connection: Connection, take: (fd: number) => T): T {
    const taken = take(connection.#claimable())
    const owned = connection.#owned
    owned.release()
    owned.observer?.released()
    return taken
  }

  /**
   * @internal Notifies `observer` when the fd is released. An earlier observer is notified now, as its last time. Returns
   * the owner of the fd.
   */
  static observe(connection: Connection, observer: FdObserver): OwnedFd {
    const owned = connection.#owned
    const before = owned.observer
    owned.observer = observer
    before?.released()
    return owned
  }

  /**
   * @internal Transfers ownership of the fd to a handle like those that net.Server creates. On failure, the connection
   * keeps ownership.
   */
  static toHandle(connection: Connection, HandleClass: HandleClass): Handle {
    const fd = connection.#claimable()
    prepareTransfer(fd)
    const handle = openHandle(HandleClass, fd)
    if (handle === undefined) throw fdError('ERR_FD_IN_USE', fd)
    connection.#giveTo(handle)
    return handle
  }

  /** The fd, borrowed: the caller must not close it. -1 once the connection is claimed. */
  get fd(): number {
    return this.#owned.fd
  }

  /** The ref of the accept request that received this connection; undefined after `fromFd`. */
  get ref(): number | undefined {
    return this.#owned.ref
  }

  /**
   * The IP address of the peer, or the path or abstract name of a unix socket; undefined if the peer's unix socket is
   * unnamed. The address is read when the connection is created. It stays known after the peer has disconnected and
   * after the connection is claimed.
   */
  get remoteAddress(): string | undefined {
    return this.#owned.peer.address || undefined
  }

  /** The port of the peer; undefined for a unix socket. */
  get remotePort(): number | undefined {
    return this.#owned.peer.port
  }

  /** `'IPv4'` or `'IPv6'`; undefined for a unix socket. */
  get remoteFamily(): 'IPv4' | 'IPv6' | undefined {
    return this.#owned.peer.family
  }

  /**
   * The PROXY header that `serve` has read, and the address of the proxy; undefined if there is no header. If the
   * header contains the client's address, `remoteAddress`, `remotePort` and `remoteFamily` are those of the client.
   */
  get proxied(): Proxied | undefined {
    return this.#owned.observer?.proxied
  }

  /** The local IP address or path. Undefined if it is first read after the connection is claimed. */
  get localAddress(): string | undefined {
    return this.#readLocalAddress()?.address || undefined
  }

  /** The local port; undefined for a unix socket, or if it is first read after the connection is claimed. */
  get localPort(): number | undefined {
    return this.#readLocalAddress()?.port
  }

  /**
   * Returns the credentials of the peer process of a unix socket at the time it connected (`SO_PEERCRED`, unix(7)).
   * Since then the process may have executed another program or passed the socket to another process. Borrows the fd.
   *
   * Errors: `ERR_SOCKET_NOT_UNIX`, `ERR_CONNECTION_CLAIMED`.
   */
  peerCredentials(): PeerCredentials {
    const fd = this.#claimable()
    if (inspect(fd).domain !== binding.constants.AF_UNIX) throw fdError('ERR_SOCKET_NOT_UNIX', fd)
    return check(binding.peerCredentials(fd), 'getsockopt')
  }

  /**
   * Transfers ownership of the fd to a new `net.Socket`, which starts reading at once, as a socket of `net.Server`
   * does. On failure the connection keeps ownership.
   *
   * Errors: `ERR_CONNECTION_CLAIMED`, and Node's codes for invalid options.
   *
   * @example
   * ```js
   * const socket = connection.toSocket()
   * socket.on('error', () => socket.destroy())
   * socket.end('hello')
   * ```
   */
  toSocket(options: ToSocketOptions = defaults): net.Socket {
    const wanted = options === defaults ? defaults : readToSocketOptions(options)
    const { source } = this.#owned
    const { allowHalfOpen, highWaterMark = source.highWaterMark, noDelay, keepAliveInitialDelay, signal } = wanted
    const aborted = signal?.aborted
    const fd = this.#claimable()
    prepareTransfer(fd)
    // A signal is the only option that can make the constructor throw, and an open handle cannot give its fd back. So
    // with a signal, the constructor opens the handle itself, after it has used the signal.
    const handle = signal === undefined && source.handleClass ? openHandle(source.handleClass, fd) : undefined
    const socket = new net.Socket({
      fd: handle === undefined ? fd : undefined,
      handle,
      readable: true,
      writable: true,
      allowHalfOpen,
      // With an aborted signal, the constructor would destroy the socket before the socket has the fd, and the fd would
      // stay open.
      signal: aborted ? undefined : signal,
      // The options that the socket has inherited from the listener. net.Socket records them, and setNoDelay() then
      // makes no system call if the value is the same.
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
    // keepAliveInitialDelay without keepAlive changes the delay if the listener has enabled keep-alive.
    const keepAlive = wanted.keepAlive ?? (keepAliveInitialDelay === undefined ? undefined : source.keepAlive)
    if (keepAlive !== undefined) socket.setKeepAlive(keepAlive, keepAliveInitialDelay)
    if (aborted) socket.destroy(abortError(signal))
    return socket
  }

  /**
   * Transfers ownership of the fd to a new `tls.TLSSocket` and performs the TLS handshake as the server. Resolves when
   * the handshake is complete.
   *
   * `options` is one of the following. Its `noDelay`, `keepAlive`, `allowHalfOpen` and `pauseOnConnect` apply to the
   * socket.
   *
   * - The options of `tls.createServer`. Pass the same object for every connection: one TLS context is created per
   *   object, and clients can resume sessions within one context only.
   * - A `tls.Server`, such as a server of `https` or a secure server of `http2`. Its contexts, callbacks and session
   *   events are used, but it emits neither `'secureConnection'` nor `'tlsClientError'`. To pass the socket to a server
   *   afterwards, by `emit('secureConnection', socket)`, use that same server here.
   *
   * If the options are invalid or the connection is claimed already, the promise rejects and nothing changes. If it
   * rejects for another reason, the fd is closed.
   *
   * Errors: `ERR_CONNECTION_CLAIMED`; `ERR_TLS_HANDSHAKE_TIMEOUT`; `ABORT_ERR`; `ECONNRESET` if the client has
   * disconnected; OpenSSL's codes, such as `ERR_SSL_HTTP_REQUEST`; the reason why the client's certificate was
   * rejected, such as `DEPTH_ZERO_SELF_SIGNED_CERT`; an exception of a callback in the options; Node's codes for
   * invalid options.
   *
   * @example
   * ```js
   * const options = { key, cert } // one object for all connections
   * const socket = await connection.toTLS(options, { timeout: 5_000 })
   * ```
   */
  async toTLS(options: tls.TlsOptions | tls.Server, upgradeOptions: UpgradeOptions = {}): Promise<tls.TLSSocket> {
    const claim = (inherited: InheritedOptions) => this.toSocket(inherited)
    return upgrade(claim, options, upgradeOptions, callSite(this.toTLS))
  }

  /**
   * Waits for the first `length` bytes, from 1 to 65,536, and returns them without consuming them (`MSG_PEEK`,
   * recv(2)). With `min`, waits only for that many bytes, and returns up to `length` bytes. Returns fewer bytes if the
   * peer ends its side earlier; for a seqpacket socket, returns at most the first packet. If the receive buffer
   * (`SO_RCVBUF`, socket(7)) is too small, it is enlarged until the promise settles. Borrows the fd. Only one `peek`,
   * `clientHello` or `proxyHeader` call may be pending.
   *
   * Errors: `ERR_PEEK_TIMEOUT`, whose property `bytesAvailable` is the number of bytes that had arrived; `ABORT_ERR`,
   * `ECONNRESET`, `ERR_PEEK_PENDING`, `ERR_OUT_OF_RANGE`; `ERR_CONNECTION_CLAIMED`, also if the connection is claimed
   * during the wait; `ERR_PEEK_STOPPED` if the kernel shows no bytes behind urgent data (tcp(7)) or file descriptors
   * (unix(7)); `ERR_PEEK_BUFFER` if `net.core.rmem_max` does not allow a large enough receive buffer.
   */
  async peek(length: number, options: PeekOptions = {}): Promise<Buffer> {
    validate.integer('length', length, 1, longestPeek)
    validate.options('options', options, peekNames)
    const { min = length, timeout, signal }: PeekOptions = options
    validate.integer('options.min', min, 1, length)
    const read = (bytes: Buffer, end: End | undefined): Reading<Buffer> =>
      end !== undefined || bytes.length >= min ? { result: bytes } : { needed: min }
    return this.#look(length, { timeout, signal }, read, callSite(this.peek))
  }

  /**
   * Waits for a TLS ClientHello (RFC 8446 section 4.1.2) and parses it without consuming it, so that `toTLS` still
   * receives it. The ClientHello may span any number of segments and TLS records. Returns null if the client sends
   * anything else, or disconnects before the ClientHello is complete. Borrows the fd.
   *
   * Errors: those of {@link peek}.
   *
   * @example
   * ```js
   * const hello = await connection.clientHello({ timeout: 1_000 })
   * const name = hello?.serverName
   * ```
   */
  async clientHello(options: LookAheadOptions = {}): Promise<ClientHello | null> {
    const read = (bytes: Buffer, end: End | undefined): Reading<ClientHello | null> => {
      const parsed = parseClientHello(bytes)
      if (parsed === null) return { result: null }
      if ('hello' in parsed) return { result: parsed.hello }
      if (end !== undefined || bytes.length === longestLook) return { result: null }
      return { needed: Math.min(parsed.needed, longestLook) }
    }
    return this.#look(longestLook, options, read, callSite(this.clientHello))
  }

  /**
   * Waits for a PROXY protocol header of version 1 or 2 and consumes exactly the header; later bytes stay unread.
   * Returns null, and consumes nothing, if the peer sends anything else or ends its side without sending a byte. On a
   * seqpacket socket the header must be a packet of its own. Any client can send such a header: trust it only if
   * `remoteAddress` is the address of a known proxy. Borrows the fd.
   *
   * Errors: `ERR_PROXY_HEADER` if the header is malformed, `ERR_PEEK_ENDED` if the peer disconnects within the header,
   * and those of {@link peek}. On error, nothing is consumed.
   *
   * @example
   * ```js
   * const header = await connection.proxyHeader({ timeout: 1_000 })
   * const client = header?.source?.address ?? connection.remoteAddress
   * ```
   */
  async proxyHeader(options: LookAheadOptions = {}): Promise<ProxyHeader | null> {
    return this.#readProxyHeader(options, callSite(this.proxyHeader))
  }

  /** @internal As `proxyHeader`, without the cost of a stack in errors. */
  static readProxyHeader(connection: Connection, options: LookAheadOptions): Promise<ProxyHeader | null> {
    return connection.#readProxyHeader(options)
  }

  async #readProxyHeader(options: LookAheadOptions, site?: CallSite): Promise<ProxyHeader | null> {
    const read = (bytes: Buffer, end: End | undefined): Reading<ProxyHeader | null> => {
      const parsed = parseProxyHeader(bytes)
      if (parsed === null) return { result: null }
      if ('malformed' in parsed) throw codedError('ERR_PROXY_HEADER', parsed.malformed)
      if ('needed' in parsed) {
        if (end === undefined) return { needed: parsed.needed }
        if (bytes.length === 0) return { result: null }
        if (end === 'packet') throw codedError('ERR_PROXY_HEADER', 'the packet ends before the header does')
        throw codedError('ERR_PEEK_ENDED', `${bytes.length} bytes received`)
      }
      // If recv(2) reads part of a packet, it discards the rest. A socket with a `remoteFamily` is an IP socket, which
      // is never seqpacket.
      if (bytes.length > parsed.length && this.remoteFamily === undefined && isSeqpacket(this.#owned.fd)) {
        throw codedError('ERR_PROXY_HEADER', 'the packet has bytes after the header')
      }
      check(binding.receive(this.#owned.fd, parsed.length, false), 'recv')
      return { result: parsed.header }
    }
    return this.#look(longestLook, options, read, site)
  }

  async #look<T>(
    limit: number,
    options: LookAheadOptions,
    read: (bytes: Buffer, end: End | undefined) => Reading<T>,
    site?: CallSite,
  ): Promise<T> {
    const fd = this.#claimable()
    if (this.#owned.abandonLook !== undefined) throw codedError('ERR_PEEK_PENDING')
    if (!this.#peekOffsetReset) {
      this.#peekOffsetReset = true
      resetPeekOffset(fd)
    }
    // The callback refers to `this`. During the wait, this keeps the connection reachable and thus its fd open.
    return lookAhead(fd, limit, options, (abandon) => (this.#owned.abandonLook = abandon), read, site)
  }

  /** Transfers ownership of the fd to the caller, which must close it. Error: `ERR_CONNECTION_CLAIMED`. */
  detach(): number {
    const fd = this.#claimable()
    binding.detach(this.#owned.release())
    this.#owned.observer?.released()
    return fd
  }

  /** Closes the fd. Does nothing if the connection is claimed already. */
  close(): void {
    this.#owned.close('close')
  }

  /**
   * Closes the fd and sends a reset (RST) to a TCP peer, by `SO_LINGER` with a time of 0 (socket(7)). Does nothing if
   * the connection is claimed already.
   */
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

  #readLocalAddress(): PlainAddress | undefined {
    const { fd } = this.#owned
    if (this.#local === undefined && fd >= 0) this.#local = check(binding.localAddress(fd), 'getsockname')
    return this.#local
  }
}

// Reads each option once, because a getter may return another value the next time.
function readToSocketOptions(options: ToSocketOptions): ToSocketOptions {
  validate.options('options', options, toSocketNames)
  const { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark, signal }: ToSocketOptions = options
  validate.optionalBoolean('options.allowHalfOpen', allowHalfOpen)
  validate.optionalBoolean('options.noDelay', noDelay)
  validate.optionalBoolean('options.keepAlive', keepAlive)
  validate.optionalInteger('options.keepAliveInitialDelay', keepAliveInitialDelay, 0, 2 ** 31 - 1)
  validate.optionalInteger('options.highWaterMark', highWaterMark, 0, 2 ** 31 - 1)
  validate.optionalSignal('options.signal', signal)
  return { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark, signal }
}
