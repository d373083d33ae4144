import type tls from 'node:tls'
import type { Connection } from '../accept/connection.js'
import { codedError, runSafely } from '../core/errors.js'
import { networks } from '../peek/proxied.js'
import type { ServeOptions } from './options.js'
import type { ServedConnection } from './served-connection.js'

/** A connection that the server did not get. */
export interface Refusal {
  /**
   * `ERR_PROXY_UNTRUSTED`; as of `Connection.proxyHeader`: `ERR_PROXY_HEADER`, `ERR_PEEK_ENDED` or `ECONNRESET` (the peer
   * hung up, as health checks do), `ERR_PEEK_TIMEOUT`; or why there is no TLS: see `Connection.toTLS`.
   */
  error: Error
  remoteAddress: string | undefined
  remotePort: number | undefined
}

/** Has a connection, or what it has become, go to whom it is for. */
export type Deliver<Argument = Connection> = (argument: Argument, served: ServedConnection) => unknown

/** Where connections wait, before a server gets them, for their PROXY header and their handshake; or are refused. */
export class Admission {
  readonly #timeout: number
  readonly #refused: (refusal: Refusal) => void
  readonly #settled: () => void
  readonly #cutOff = new AbortController()
  // One entry for each wait: a connection may wait for its handshake before its wait for the PROXY header is settled.
  readonly #waiting = new Set<{ served: ServedConnection }>()

  /** `timeout` is in ms, for each of the two; 0 or negative: none. `settled` is called whenever one has waited. */
  constructor(timeout: number, refused: (refusal: Refusal) => void, settled: () => void) {
    this.#timeout = timeout
    this.#refused = refused
    this.#settled = settled
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.size
  }

  /** The connections that wait. */
  get connections(): ServedConnection[] {
    return [...this.#waiting].map(({ served }) => served)
  }

  /** Closes those that wait; `refused` is not called for them. */
  cutOff(): void {
    this.#cutOff.abort()
  }

  /** Gives the socket of each when its handshake is made. */
  secured(options: tls.TlsOptions | tls.Server, deliver: Deliver<tls.TLSSocket>): Deliver {
    const { signal } = this.#cutOff
    return (connection, served) =>
      this.#wait(connection, served, connection.toTLS(options, { timeout: this.#timeout, signal }), (socket) =>
        deliver(socket, served),
      )
  }

  /** Gives each when its PROXY header has said who it is. */
  introduced({ proxyProtocol, trust }: ServeOptions, deliver: Deliver): Deliver {
    const trusted = networks('options.trust', trust)
    const required = proxyProtocol === 'require'
    const timeout = this.#timeout > 0 ? this.#timeout : -1
    const { signal } = this.#cutOff
    return (connection, served) => {
      const { remoteAddress, remotePort, remoteFamily } = connection
      const family = remoteFamily === 'IPv4' ? 'ipv4' : 'ipv6'
      let trusts: boolean
      try {
        trusts = remoteFamily === undefined || trusted.check(remoteAddress as string, family)
      } catch (error) {
        // The list is of a class of the application.
        return this.#refuse(connection, error as Error)
      }
      if (!trusts) {
        return required ? this.#refuse(connection, codedError('ERR_PROXY_UNTRUSTED')) : deliver(connection, served)
      }
      const reading = connection.proxyHeader({ timeout, signal })
      const needed = required ? reading.then((header) => header ?? absent(connection)) : reading
      this.#wait(connection, served, needed, (header) => {
        if (header !== null) served.introduce(header, { remoteAddress, remotePort })
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
        this.#settled()
      })
  }

  #refuse(connection: Connection, error: Error): void {
    const { remoteAddress, remotePort } = connection
    connection.close()
    if (!this.#cutOff.signal.aborted) runSafely(() => this.#refused({ error, remoteAddress, remotePort }))
  }
}

/** Rejects with the reason why there is no PROXY header. Nothing of what the peer has sent was taken. */
async function absent(connection: Connection): Promise<never> {
  const { length } = await connection.peek(1, { timeout: 0 })
  if (length === 0) throw codedError('ERR_PEEK_ENDED', 'nothing of a PROXY header')
  throw codedError('ERR_PROXY_HEADER', 'there is none')
}
