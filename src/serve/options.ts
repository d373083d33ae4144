import type net from 'node:net'
import type tls from 'node:tls'
import type { Connection } from '../accept/connection.js'
import { serverFor } from '../accept/tls-upgrade.js'
import { onAbort } from '../core/abort.js'
import { abortError, invalidArgValue } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { networks } from '../peek/proxied.js'
import { type Alarm, alarmNames } from './alarms.js'

/** A function that is called with each connection and takes ownership of it. */
export type ConnectionHandler = (connection: Connection) => unknown
/** A function that is called with each TLS socket, when the option `tls` is set. It takes ownership of the socket. */
export type SecureHandler = (socket: tls.TLSSocket) => unknown

/**
 * Decides whether a connection is served. It borrows the connection: it may read its addresses and `proxied`, call
 * `peerCredentials()`, and look at what the client has sent with `peek()` or `clientHello()`. It must not claim it.
 */
export type ConnectionFilter = (connection: Connection) => boolean | PromiseLike<boolean>

/** The options of `serve` that do not depend on each other. */
export interface CommonServeOptions {
  /**
   * The maximum number of open connections. A connection counts from its accept until its fd is closed or detached.
   * Further clients wait in the accept queue. 0: no connection is accepted. Default: `Infinity`. The server's own
   * `maxConnections` applies too. Clients beyond it also wait in the accept queue; the server drops no connection.
   */
  maxConnections?: number
  /**
   * The maximum number of connections per second: an integer. Further clients wait in the accept queue. After an idle
   * second, the connections of one second may come at once. 0: no connection is accepted. Default: `Infinity`.
   */
  maxRate?: number
  /** One or more thresholds for the number of connections. An 'alarm' event is emitted when one is reached. */
  alarm?: Alarm | readonly Alarm[]
  /**
   * Called with each connection after its PROXY header is read, and before a socket or TLS exists. If it returns a
   * falsy value or throws, the connection is reset and 'refused' is emitted. If it returns a promise, the connection
   * waits for the result, at most `handshakeTimeout` ms. The connection counts until it is closed. Default: every
   * connection is served.
   */
  filter?: ConnectionFilter
  /**
   * Makes a TLS handshake on each connection, as `Connection.toTLS` does, before the server receives it. Not allowed
   * with a server that does TLS itself.
   */
  tls?: tls.TlsOptions | tls.Server
  /**
   * ms for the PROXY header, again for the promise of `filter`, and again for the TLS handshake. A connection that
   * needs longer is closed. 0 or negative: no timeout. Default: 10,000. A served `tls.Server` keeps its own handshake
   * timeout unless this option is set.
   */
  handshakeTimeout?: number
  /** When aborted, stops serving as `Serving.close()` does. */
  signal?: AbortSignal
}

/** The options for the PROXY protocol. */
export interface ProxyProtocolOptions {
  /**
   * Reads a PROXY protocol header (version 1 or 2) from each connection. `'require'`: a connection without a header, or
   * from a peer that is not in `trust`, is closed. `'optional'`: the server receives such a connection unchanged. The
   * client in the header becomes the socket's `remoteAddress`, `remotePort` and `remoteFamily`; `proxyOf(socket)`
   * returns the whole header. Default: no header is read.
   */
  proxyProtocol: 'require' | 'optional'
  /**
   * The trusted proxies: addresses or networks such as `'10.0.0.0/8'`, or a `net.BlockList` of them. PROXY headers of
   * other peers are not read. Required with `proxyProtocol`. Peers on a unix socket are always trusted, because its
   * file permissions control which processes may connect.
   */
  trust: net.BlockList | readonly string[]
}

/** Options of `serve`. `proxyProtocol` requires `trust`. */
export type ServeOptions = CommonServeOptions &
  (ProxyProtocolOptions | { proxyProtocol?: undefined; trust?: ProxyProtocolOptions['trust'] })

/** @internal Options that `readServeOptions` has checked. */
export type CheckedServeOptions = CommonServeOptions & Partial<ProxyProtocolOptions>

const serveNames: validate.Names<CheckedServeOptions> = {
  maxConnections: true,
  maxRate: true,
  alarm: true,
  filter: true,
  tls: true,
  handshakeTimeout: true,
  signal: true,
  proxyProtocol: true,
  trust: true,
}

// Reads each option once, because a getter may return another value the next time.
/** @internal */
export function readServeOptions(options: ServeOptions, target: unknown): CheckedServeOptions {
  validate.options<CheckedServeOptions>('options', options, serveNames)
  const { maxConnections, proxyProtocol, trust, handshakeTimeout, signal }: CheckedServeOptions = options
  const { maxRate, alarm, filter, tls }: CheckedServeOptions = options
  if (maxConnections !== undefined) validate.limit('options.maxConnections', maxConnections)
  if (maxRate !== undefined) validate.limit('options.maxRate', maxRate)
  validate.optionalOneOf('options.proxyProtocol', proxyProtocol, ['require', 'optional'])
  const trusted = proxyProtocol !== undefined || trust !== undefined ? networks('options.trust', trust) : undefined
  validate.optionalFunction('options.filter', filter)
  if (tls !== undefined) {
    if (validate.isTlsServer(target))
      throw invalidArgValue('options.tls', 'must not be set for a server that does TLS itself', tls)
    serverFor(tls)
  }
  if (handshakeTimeout !== undefined) validate.timeout('options.handshakeTimeout', handshakeTimeout)
  validate.optionalSignal('options.signal', signal)
  if (signal?.aborted) throw abortError(signal)
  // The methods of an application's own signal class may throw. Call them here, before serving has begun.
  if (signal !== undefined) onAbort(signal, () => {})()
  const checked = { maxConnections, maxRate, alarm: readAlarms(alarm), proxyProtocol, trust: trusted, filter }
  return { ...checked, tls, handshakeTimeout, signal }
}

function readAlarms(alarm: CommonServeOptions['alarm'] = []): Alarm[] {
  return [alarm].flat().map((each) => {
    validate.options('options.alarm', each, alarmNames)
    const { threshold, cooldown }: Alarm = each
    validate.integer('options.alarm.threshold', threshold, 1, Number.MAX_SAFE_INTEGER)
    validate.optionalInteger('options.alarm.cooldown', cooldown, 0, Number.MAX_SAFE_INTEGER)
    return { threshold, cooldown }
  })
}
