import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import { onAbort } from '../core/abort.js'
import { deadline } from '../core/deadline.js'
import { abortError, codedError, runSafely } from '../core/errors.js'
import { networks } from '../peek/proxied.js'
import type { CheckedServeOptions, ConnectionFilter } from './options.js'
import type { ServedConnection } from './served-connection.js'

/** A connection that was closed before the server received it. */
export interface Refusal {
  /**
   * `ERR_PROXY_UNTRUSTED`: the peer is not in `trust`. `ERR_PROXY_HEADER`: the PROXY header is malformed, or required
   * and missing. `ERR_PEEK_ENDED` or `ECONNRESET`: the peer closed the connection before its header was complete, as
   * health checks do. `ERR_PEEK_TIMEOUT`: the header was not complete within `handshakeTimeout`.
   * `ERR_CONNECTION_FILTERED`: the option `filter` returned a falsy value, or threw or rejected; `cause` is then its
   * exception. `ERR_FILTER_TIMEOUT`: its promise did not settle within `handshakeTimeout`. `ERR_CONNECTION_CLAIMED`:
   * the filter, or a subscriber of the channel `async-accept.connection`, claimed the connection. If the TLS handshake
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
 * Reads the PROXY header of each connection, calls the filter, makes the TLS handshake, and then delivers the
 * connection. Closes it on failure.
 */
export class Admission {
  readonly #timeout: number
  readonly #onRefused: (refusal: Refusal) => void
  readonly #onSettled: () => void
  readonly #abortController = new AbortController()
  // One entry per wait, not per connection: the wait for the handshake begins within the wait for the PROXY header. An
  // entry keeps its Connection reachable. Otherwise the fd would be closed while a filter decides.
  readonly #waiting = new Set<{ served: ServedConnection; connection: Connection }>()

  /**
   * `timeout` is in ms, for each of the PROXY header, the filter and the handshake. 0 or negative: no timeout.
   * `onSettled` is called after each wait, whether it succeeded or failed.
   */
  constructor(timeout: number, onRefused: (refusal: Refusal) => void, onSettled: () => void) {
    this.#timeout = timeout
    this.#onRefused = onRefused
    this.#onSettled = onSettled
  }

  /** The number of connections that wait for a PROXY header, a filter or a handshake. */
  get waiting(): number {
    return this.#waiting.size
  }

  /** The connections that wait for a PROXY header, a filter or a handshake. */
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
      // Another Serving has read the header before it passed the connection to add().
      if (served.proxied !== undefined) return deliver(connection, served)
      const { remoteAddress, remotePort, remoteFamily } = connection
      const family = remoteFamily === 'IPv4' ? 'ipv4' : 'ipv6'
      let trusts: boolean
      try {
        trusts = remoteFamily === undefined || trusted.check(remoteAddress as string, family)
      } catch (error) {
        // `trust` may be an object of the application with the methods of a BlockList. Its check() may throw.
        return this.#refuse(connection, served, error as Error)
      }
      if (!trusts) {
        return required
          ? this.#refuse(connection, served, codedError('ERR_PROXY_UNTRUSTED'))
          : deliver(connection, served)
      }
      const reading = Connection.readProxyHeader(connection, { timeout, signal })
      const needed = required ? reading.then((header) => header ?? rejectMissingHeader(connection)) : reading
      this.#wait(connection, served, needed, (header) => {
        if (header !== null) served.setProxied(header, { remoteAddress, remotePort })
        deliver(connection, served)
      })
    }
  }

  /** Returns a function that calls `filter` with a connection, and passes it to `deliver` if the filter accepts it. */
  withFilter(filter: ConnectionFilter, deliver: Deliver): Deliver {
    return (connection, served) => {
      const decide = (verdict: unknown) => {
        if (!verdict) this.#refuse(connection, served, codedError('ERR_CONNECTION_FILTERED'), 'reset')
        else if (served.lost) this.#refuse(connection, served, codedError('ERR_CONNECTION_CLAIMED'))
        else deliver(connection, served)
      }
      let verdict: unknown
      try {
        verdict = filter(connection)
      } catch (error) {
        return this.#refuse(connection, served, filterError(error), 'reset')
      }
      // A verdict that cannot be a promise needs no wait.
      if (Object(verdict) !== verdict) return decide(verdict)
      this.#wait(connection, served, this.#verdict(verdict), decide, 'reset')
    }
  }

  /** Resolves to the verdict of a filter. Rejects after the timeout and on abort. */
  #verdict(verdict: unknown): Promise<unknown> {
    const { signal } = this.#abortController
    return new Promise((resolve, reject) => {
      const timer = deadline(this.#timeout > 0 ? this.#timeout : -1, () =>
        end(reject, codedError('ERR_FILTER_TIMEOUT')),
      )
      const stop = onAbort(signal, () => end(reject, abortError(signal)))
      const end = (settle: (result: unknown) => void, result: unknown) => {
        clearTimeout(timer)
        stop()
        settle(result)
      }
      // The filter may return any class of promise, and its `then` may throw. This constructor rejects then.
      new Promise((fulfil) => fulfil(verdict)).then(
        (result) => end(resolve, result),
        (error) => end(reject, filterError(error)),
      )
    })
  }

  // `end`: how the connection is closed when the promise rejects.
  #wait<T>(
    connection: Connection,
    served: ServedConnection,
    promise: Promise<T>,
    then: (result: T) => unknown,
    end?: 'close' | 'reset',
  ): void {
    const wait = { served, connection }
    this.#waiting.add(wait)
    promise
      .then(
        (result) => runSafely(() => then(result)),
        (error) => this.#refuse(connection, served, error, end),
      )
      .then(() => {
        this.#waiting.delete(wait)
        this.#onSettled()
      })
  }

  #refuse(connection: Connection, served: ServedConnection, error: Error, end: 'close' | 'reset' = 'close'): void {
    const { remoteAddress, remotePort } = connection
    const { aborted } = this.#abortController.signal
    served.close(aborted ? 'close' : end)
    // A filter may have claimed the connection, which stays open then.
    served.markSettled()
    if (!aborted) runSafely(() => this.#onRefused({ error, remoteAddress, remotePort }))
  }
}

const filterError = (cause: unknown) => codedError('ERR_CONNECTION_FILTERED', 'the filter failed', { cause })

/** Rejects with the reason why a connection has no PROXY header. Consumes no bytes. */
async function rejectMissingHeader(connection: Connection): Promise<never> {
  const { length } = await connection.peek(1, { timeout: 0 })
  if (length === 0) throw codedError('ERR_PEEK_ENDED', '0 bytes received')
  throw codedError('ERR_PROXY_HEADER', 'the header is missing')
}
