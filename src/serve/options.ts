import type net from 'node:net'
import type tls from 'node:tls'
import type { Connection } from '../accept/connection.js'
import { serverFor } from '../accept/tls-upgrade.js'
import { onAbort } from '../core/abort.js'
import { abortError, invalidArgValue } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { networks } from '../peek/proxied.js'
import type { Alarm } from './alarms.js'

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
  /** Stops serving when aborted, as `Serving.close` does. */
  signal?: AbortSignal
}

// Each is read once: a getter may answer otherwise the next time.
export function readServeOptions(options: ServeOptions, target: unknown): ServeOptions {
  validate.object('options', options)
  const { maxConnections, proxyProtocol, trust, handshakeTimeout, signal }: ServeOptions = options
  const { alarm, tls }: ServeOptions = options
  if (maxConnections !== undefined) checkLimit('options.maxConnections', maxConnections)
  validate.optionalOneOf('options.proxyProtocol', proxyProtocol, ['require', 'optional'])
  const trusted = proxyProtocol !== undefined || trust !== undefined ? networks('options.trust', trust) : undefined
  if (tls !== undefined) {
    if (validate.isTlsServer(target))
      throw invalidArgValue('options.tls', 'is not for a server with TLS of its own', tls)
    serverFor(tls)
  }
  if (handshakeTimeout !== undefined) validate.timeout('options.handshakeTimeout', handshakeTimeout)
  validate.optionalSignal('options.signal', signal)
  if (signal?.aborted) throw abortError(signal)
  // If its methods throw, they do it now, while nothing has happened.
  if (signal !== undefined) onAbort(signal, () => {})()
  return { maxConnections, alarm: readAlarms(alarm), proxyProtocol, trust: trusted, tls, handshakeTimeout, signal }
}

function readAlarms(alarm: ServeOptions['alarm'] = []): Alarm[] {
  return [alarm].flat().map((each) => {
    validate.object('options.alarm', each)
    const { threshold, cooldown }: Alarm = each
    validate.integer('options.alarm.threshold', threshold, 1, Number.MAX_SAFE_INTEGER)
    validate.optionalInteger('options.alarm.cooldown', cooldown, 0, Number.MAX_SAFE_INTEGER)
    return { threshold, cooldown }
  })
}

export function checkLimit(name: string, value: unknown): void {
  if (value !== Number.POSITIVE_INFINITY) validate.integer(name, value, 0, Number.MAX_SAFE_INTEGER)
}
