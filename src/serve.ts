import net from 'node:net'
import tls from 'node:tls'
import type { Alarm } from './alarms.js'
import type { Connection } from './connection.js'
import { abortError, codedError, invalidArgType, invalidArgValue } from './errors.js'
import { Listener } from './listener.js'
import { networks } from './proxied.js'
import { checkLimit, Serving } from './serving.js'
import { serverFor } from './tls-upgrade.js'
import * as validate from './validate.js'

/** Gets each connection, and owns it. */
export type ConnectionHandler = (connection: Connection) => unknown
/** The same behind `tls`. */
export type SecureHandler = (socket: tls.TLSSocket) => unknown

export interface ServeOptions {
  /**
   * The most connections at once, each counted from its accept until its fd is closed or detached. Those beyond wait in
   * the backlog. 0: nobody is accepted. Default: `Infinity`. A `maxConnections` of the server's own is a limit of the
   * same kind, and drops nobody.
   */
  maxConnections?: number
  /** Has an 'alarm' event emitted when there are that many connections. */
  alarm?: Alarm | readonly Alarm[]
  /**
   * The PROXY protocol. `'require'`: a connection without a PROXY header, or from a peer that is not among `trust`, is
   * closed. `'optional'`: it goes to the server as it is. The client that the header names is the socket's
   * `remoteAddress`, `remotePort` and `remoteFamily`; `proxyOf(socket)` has the rest. Default: none is looked for.
   */
  proxyProtocol?: 'require' | 'optional'
  /**
   * Whose PROXY headers are believed: networks such as `'10.0.0.0/8'`, or a `net.BlockList` of them. Required with
   * `proxyProtocol`. Peers on a unix socket are trusted: its permissions say who may connect.
   */
  trust?: net.BlockList | readonly string[]
  /** Makes TLS of each connection, as `Connection.toTLS` does, before the server gets it. Not for a server that does. */
  tls?: tls.TlsOptions | tls.Server
  /**
   * ms for the PROXY header, and again for the TLS handshake; whoever is later is closed. 0 or negative: no deadline.
   * Default: 10,000, and for the handshakes of a served `tls.Server` its own.
   */
  handshakeTimeout?: number
  /** Stops serving when aborted, as {@link Serving.close} does. */
  signal?: AbortSignal
}

/**
 * Drives a server that somebody else has made with the connections of `listener`: net, tls, http, https, http2, or a
 * function that takes a {@link Connection}. The server sees what it would see if it listened itself: it is `listening`,
 * has an `address()`, sets its options on each socket, counts them, and `server.close()` ends it, and the listener with
 * it. It must not listen yet.
 *
 * Errors: `ERR_LISTENER_CLOSED`, `ERR_SERVER_ALREADY_LISTEN`, `ERR_SOCKET_TYPE` (a seqpacket listener, which only a
 * function can serve), `ERR_NODE_INTERNALS`, and Node's own for a wrong option.
 */
export function serve(
  listener: Listener,
  handler: SecureHandler,
  options: ServeOptions & { tls: tls.TlsOptions | tls.Server },
): Serving
export function serve(listener: Listener, target: net.Server | ConnectionHandler, options?: ServeOptions): Serving
export function serve(
  listener: Listener,
  target: net.Server | ConnectionHandler | SecureHandler,
  options: ServeOptions = {},
): Serving {
  if (!(listener instanceof Listener)) throw invalidArgType('listener', 'a Listener', listener)
  if (typeof target !== 'function' && !(target instanceof net.Server)) {
    throw invalidArgType('target', 'a net.Server or a function', target)
  }
  if (typeof target === 'function' && 'listen' in target) {
    throw invalidArgValue('target', "is a framework's application; give the server that it is called by", target)
  }
  checkServeOptions(options, target)
  if (listener.address() === null) throw codedError('ERR_LISTENER_CLOSED')
  return new Serving(listener, target, options)
}

function checkServeOptions(options: ServeOptions, target: unknown): void {
  validate.object('options', options)
  const { maxConnections, alarm = [], proxyProtocol, trust, handshakeTimeout = 0, signal }: ServeOptions = options
  if (maxConnections !== undefined) checkLimit('options.maxConnections', maxConnections)
  for (const each of [alarm].flat()) {
    validate.object('options.alarm', each)
    validate.integer('options.alarm.threshold', each.threshold, 1, Number.MAX_SAFE_INTEGER)
    validate.optionalInteger('options.alarm.cooldown', each.cooldown, 0, Number.MAX_SAFE_INTEGER)
  }
  validate.optionalOneOf('options.proxyProtocol', proxyProtocol, ['require', 'optional'])
  if (proxyProtocol !== undefined || trust !== undefined) networks('options.trust', trust)
  if (options.tls !== undefined) {
    if (target instanceof tls.Server)
      throw invalidArgValue('options.tls', 'is not for a server with TLS of its own', options.tls)
    serverFor(options.tls as tls.TlsOptions | tls.Server)
  }
  validate.timeout('options.handshakeTimeout', handshakeTimeout)
  validate.optionalSignal('options.signal', signal)
  if (signal?.aborted) throw abortError(signal)
}
