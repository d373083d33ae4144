import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import { codedError, runSafely } from '../core/errors.js'
import { networks } from '../peek/proxied.js'
import type { CheckedServeOptions } from './options.js'
import type { ServedConnection } from './served-connection.js'

/** A connection that was closed before the server received it. */
export interface Refusal {
  /**
   * `ERR_PROXY_UNTRUSTED`: the peer is not in `trust`. `ERR_PROXY_HEADER`: the PROXY header is malformed, or required
   * and missing. `ERR_PEEK_ENDED` or `ECONNRESET`: the peer closed the connection before its header was complete, as
   * health checks do. `ERR_PEEK_TIMEOUT`: the header was not complete within `handshakeTimeout`. If the TLS handshake
   * failed: an error of `Connection.toTLS`.
   */
  error: Error
  /** The address of the client: from the PROXY header if one was read, else that of the peer. */
  remoteAddress: string | undefined
  remotePort: number | undefined
}

/** @internal Passes a connection, or the TLS socket made from it, to the server or function that handles it. */
export type Deliver<Argument = Connection> = (argument: Argument, served: ServedConnection) => unknown

/**
 * @internal
 * Reads the PROXY header and makes the TLS handshake of each connection, and then delivers it. Closes it on failure.
 */
export class Admission {
  readonly #timeout: number
  readonly #onRefused: (refusal: Refusal) => void
  readonly #onSettled: () => void
  readonly #abortController = new AbortController()
  // One entry per wait, not per connection: the wait for the handshake begins within the wait for the PROXY header.
  readonly #waiting = new Set<{ served: ServedConnection }>()

  /**
   * `timeout` is in ms and applies to the PROXY header and to the handshake separately; 0 or negative: no timeout.
   * `onSettled` is called after each wait, whether it succeeded or failed.
   */
  constructor(timeout: number, onRefused: (refusal: Refusal) => void, onSettled: () => void) {
    this.#timeout = timeout
    this.#onRefused = onRefused
    this.#onSettled = onSettled
  }

  /** The number of connections that wait for a PROXY header or a handshake. */
  get waiting(): number {
    return this.#waiting.size
  }

  /** The connections that wait for a PROXY header or a handshake. */
  get connections(): ServedConnection[] {
    return [...this.#waiting].map(({ served }) => served)
  }

  /**
   * Closes the waiting connections. From now on, closes every connection that would have to wait. Does not call
   * `onRefused` for them.
   */
  abort(): void {
    this.#abortController.abort()
  }

  /** Returns a function that makes the TLS handshake of a connection, and then passes its TLS socket to `deliver`. */
  withTls(options: tls.TlsOptions | tls.Server, deliver: Deliver<tls.TLSSocket>): Deliver {
    const { signal } = this.#abortController
    return (connection, served) =>
      this.#wait(connection, served, connection.toTLS(options, { timeout: this.#timeout, signal }), (socket) =>
        deliver(socket, served),
      )
  }

  /** Returns a function that reads the PROXY header of a connection, and then passes the connection to `deliver`. */
  withProxyHeader({ proxyProtocol, trust }: CheckedServeOptions, deliver: Deliver): Deliver {
    const trusted = networks('options.trust', trust)
    const required = proxyProtocol === 'require'
    const timeout = this.#timeout > 0 ? this.#timeout : -1
    const { signal } = this.#abortController
    return (connection, served) => {
      const { remoteAddress, remotePort, remoteFamily } = connection
      const family = remoteFamily === 'IPv4' ? 'ipv4' : 'ipv6'
      let trusts: boolean
      try {
        trusts = remoteFamily === undefined || trusted.check(remoteAddress as string, family)
      } catch (error) {
        // `trust` may be an object of the application with the methods of a BlockList. Its check() may throw.
        return this.#refuse(connection, error as Error)
      }
      if (!trusts) {
        return required ? this.#refuse(connection, codedError('ERR_PROXY_UNTRUSTED')) : deliver(connection, served)
      }
      const reading = Connection.readProxyHeader(connection, { timeout, signal })
      const needed = required ? reading.then((header) => header ?? rejectMissingHeader(connection)) : reading
      this.#wait(connection, served, needed, (header) => {
        if (header !== null) served.setProxied(header, { remoteAddress, remotePort })
        deliver(connection, served)
      })
    }
  }

  #wait<T>(connection: Connection, served: ServedConnection, promise: Promise<T>, then: (result: T) => unknown): void {
    const wait = { served }
    this.#waiting.add(wait)
    promise
      .then(
        (result) => runSafely(() => then(result)),
        (error) => this.#refuse(connection, error),
      )
      .then(() => {
        this.#waiting.delete(wait)
        this.#onSettled()
      })
  }

  #refuse(connection: Connection, error: Error): void {
    const { remoteAddress, remotePort } = connection
    connection.close()
    if (!this.#abortController.signal.aborted) runSafely(() => this.#onRefused({ error, remoteAddress, remotePort }))
  }
}

/** Rejects with the reason why a connection has no PROXY header. Consumes no bytes. */
async function rejectMissingHeader(connection: Connection): Promise<never> {
  const { length } = await connection.peek(1, { timeout: 0 })
  if (length === 0) throw codedError('ERR_PEEK_ENDED', '0 bytes received')
  throw codedError('ERR_PROXY_HEADER', 'the header is missing')
}
