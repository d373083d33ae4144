import { deadline, longestTimer } from '../core/deadline.js'
import * as validate from '../core/validate.js'
import type { ServedConnection } from './served-connection.js'
import { WindDown, type WindDownTarget } from './wind-down.js'

export interface EndOptions {
  /** Close the listener too: clients in the backlog are reset. Default: false, and they wait for the next Serving. */
  closeListener?: boolean
}

export interface DrainOptions extends EndOptions {
  /** ms after which what is left is destroyed; negative: never. Default: 30,000. */
  timeout?: number
  /**
   * ms for which an idle HTTP/1 connection may still bring a request, which is then answered, before it is ended. A
   * client that is sending a request when its connection ends cannot know whether the server has read it. Default: 200.
   */
  idleGrace?: number
  /**
   * ms for which a connection without a whole request may still bring one, before it is ended. Its client has only
   * connected, as browsers do ahead, or has sent a part of a PROXY header, of a TLS handshake or of a request head. For
   * servers of HTTP; with other servers and functions, for PROXY headers and handshakes of `tls` alone. Default: 1,000.
   */
  unusedGrace?: number
}

/** How connections ended. Each is counted once, in `idle`, `unused`, `finished` or `destroyed`. */
export interface DrainReport {
  /** HTTP/1 connections that had answered their requests, and were ended because no other request came. */
  idle: number
  /** Connections that were ended because no request ever came: see `unusedGrace`. HTTP/2: no stream was ever opened. */
  unused: number
  /** Connections that ended in time for any other reason, most of them behind their last response. */
  finished: number
  /** Connections that were cut off at the deadline. */
  destroyed: number
  /** ms that it took. */
  elapsed: number
}

/** Reads each option once. Errors: Node's for wrong options. */
export function readEndOptions(options: EndOptions): Required<EndOptions> {
  validate.object('options', options)
  const { closeListener }: EndOptions = options
  validate.optionalBoolean('options.closeListener', closeListener)
  return { closeListener: closeListener === true }
}

/** The same, with the defaults of what is left out. */
export function readDrainOptions(options: DrainOptions): Required<DrainOptions> {
  const { closeListener } = readEndOptions(options)
  const { timeout = 30_000, idleGrace = 200, unusedGrace = 1_000 } = options
  validate.integer('options.idleGrace', idleGrace, 0, longestTimer)
  validate.integer('options.unusedGrace', unusedGrace, 0, longestTimer)
  return { timeout: validate.timeout('options.timeout', timeout), idleGrace, unusedGrace, closeListener }
}

/** A drain from its beginning until no connection is left: the wind-down, the deadline, and the report. */
export class Drain {
  readonly #started = performance.now()
  readonly #target: WindDownTarget
  readonly #all: Set<ServedConnection>
  readonly #windDown: WindDown
  readonly #timer: NodeJS.Timeout | undefined
  /** Connections that were cut off; undefined before the deadline. */
  #cut: Set<ServedConnection> | undefined

  constructor(target: WindDownTarget, { timeout, idleGrace, unusedGrace }: Required<DrainOptions>) {
    this.#target = target
    this.#all = new Set(target.connections)
    this.#windDown = new WindDown(target, { idleGrace, unusedGrace })
    this.#timer = deadline(timeout, () => {
      this.#cut = new Set()
      target.admission.cutOff()
      this.#cutOff([...target.connections])
    })
  }

  /** Counts a connection that was accepted before the drain and is delivered in it. */
  add(served: ServedConnection): void {
    this.#all.add(served)
    if (this.#cut !== undefined) this.#cutOff([served])
  }

  /** No connection is left. */
  finish(): DrainReport {
    clearTimeout(this.#timer)
    this.#windDown.stop()
    const cut = this.#cut ?? new Set()
    for (const served of cut) this.#all.delete(served)
    const report = this.#windDown.report(this.#all)
    return { ...report, destroyed: cut.size, elapsed: performance.now() - this.#started }
  }

  #cutOff(connections: readonly ServedConnection[]): void {
    for (const served of connections) {
      if (!this.#windDown.hasEnded(served)) this.#cut?.add(served)
      // The close_notify is then on its way when the socket is destroyed.
      served.secure?.end()
    }
    setImmediate(() => {
      for (const served of connections) if (this.#target.connections.has(served)) served.destroy()
    })
  }
}
