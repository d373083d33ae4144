import { deadline, longestTimer } from '../core/deadline.js'
import * as validate from '../core/validate.js'
import type { ServedConnection } from './served-connection.js'
import { WindDown, type WindDownTarget } from './wind-down.js'

export interface EndOptions {
  /**
   * Also close the listener, or every listener, which resets the clients in its accept queue. Default: false. These
   * clients then wait for the next Serving.
   */
  closeListener?: boolean
}

export interface DrainOptions extends EndOptions {
  /** ms after which the remaining connections are destroyed; negative: no deadline. Default: 30,000. */
  timeout?: number
  /**
   * ms for which an idle HTTP/1 connection stays open, from the beginning of the drain or the end of a response whose
   * head was written before. A request that arrives in this time is answered. If the server ended the connection at
   * once, a client that is sending a request could not know whether the server has read it. Minimum: 0. Default: 200.
   */
  idleGrace?: number
  /**
   * ms for which a connection without a complete request stays open. Its client has sent nothing (browsers connect in
   * advance), or only a part of a PROXY header, TLS handshake or request head; or the promise of the option `filter`
   * has not settled. For a function or a server that does not speak HTTP, this limits only the wait for PROXY headers,
   * filters and handshakes of the option `tls`. Minimum: 0. Default: 1,000.
   */
  unusedGrace?: number
}

/** The result of a drain. Each connection is counted once, in `idle`, `unused`, `finished` or `destroyed`. */
export interface DrainReport {
  /** HTTP/1 connections that were ended because all their requests were answered and no other request arrived. */
  idle: number
  /** Connections that were ended because no complete request ever arrived; with HTTP/2, no stream was ever opened. */
  unused: number
  /** Connections that ended before the deadline for any other reason, usually after their last response. */
  finished: number
  /**
   * Connections that were destroyed at the deadline. Not counted: connections that had sent everything and waited only
   * for the FIN of the client.
   */
  destroyed: number
  /** The duration of the drain in ms. */
  elapsed: number
}

const endNames: validate.Names<EndOptions> = { closeListener: true }
const drainNames: validate.Names<DrainOptions> = { ...endNames, timeout: true, idleGrace: true, unusedGrace: true }

/** @internal Reads each option once. Errors: Node's `ERR_INVALID_ARG_TYPE` for an invalid option. */
export function readEndOptions(options: EndOptions): Required<EndOptions> {
  validate.options('options', options, endNames)
  return { closeListener: readCloseListener(options) }
}

function readCloseListener({ closeListener }: EndOptions): boolean {
  validate.optionalBoolean('options.closeListener', closeListener)
  return closeListener === true
}

/** @internal Reads each option once and fills in the defaults. Errors: Node's codes for an invalid option. */
export function readDrainOptions(options: DrainOptions): Required<DrainOptions> {
  validate.options('options', options, drainNames)
  const closeListener = readCloseListener(options)
  const { timeout = 30_000, idleGrace = 200, unusedGrace = 1_000 } = options
  validate.integer('options.idleGrace', idleGrace, 0, longestTimer)
  validate.integer('options.unusedGrace', unusedGrace, 0, longestTimer)
  return { timeout: validate.timeout('options.timeout', timeout), idleGrace, unusedGrace, closeListener }
}

/**
 * @internal One drain: runs the wind-down, destroys the remaining connections at the deadline, and makes the report.
 */
export class Drain {
  readonly #started = performance.now()
  readonly #target: WindDownTarget
  readonly #connections: Set<ServedConnection>
  readonly #windDown: WindDown
  readonly #timer: NodeJS.Timeout | undefined
  /** Connections that were destroyed at the deadline or after it; undefined before the deadline. */
  #destroyed: Set<ServedConnection> | undefined

  constructor(target: WindDownTarget, { timeout, idleGrace, unusedGrace }: Required<DrainOptions>) {
    this.#target = target
    this.#connections = new Set(target.connections)
    this.#windDown = new WindDown(target, { idleGrace, unusedGrace })
    this.#timer = deadline(timeout, () => {
      this.#destroyed = new Set()
      target.admission.abort()
      this.#destroy([...target.connections])
    })
  }

  /** Adds a connection that was accepted before the drain and is delivered during the drain. */
  add(connection: ServedConnection): void {
    this.#connections.add(connection)
    if (this.#destroyed !== undefined) this.#destroy([connection])
  }

  /** Called when no connection is left. Returns the report. */
  finish(): DrainReport {
    clearTimeout(this.#timer)
    this.#windDown.stop()
    const destroyed = this.#destroyed ?? new Set()
    for (const connection of destroyed) this.#connections.delete(connection)
    const report = this.#windDown.report(this.#connections)
    return { ...report, destroyed: destroyed.size, elapsed: performance.now() - this.#started }
  }

  #destroy(connections: readonly ServedConnection[]): void {
    for (const connection of connections) {
      if (!this.#windDown.hasEnded(connection)) this.#destroyed?.add(connection)
      // end() sends the close_notify of TLS. The sockets are destroyed later, in the check phase, so that close_notify
      // is sent first.
      connection.secure?.end()
    }
    setImmediate(() => {
      for (const connection of connections) if (this.#target.connections.has(connection)) connection.destroy()
    })
  }
}
