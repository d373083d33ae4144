import assert from 'node:assert/strict'
import http from 'node:http'
import net from 'node:net'
import type { Connection, DrainReport, Listener, Serving } from '../../src/index.js'
import type { ConnectionModel, ListenerModel, ServerModel, ServingModel } from './serving-model.js'

/** What a handler does with the next connection that its server or function receives. */
export type Plan =
  | 'destroy'
  | 'closeServer'
  | 'closeServing'
  | 'drain'
  | 'lowerLimit'
  | 'lowerServerLimit'
  | 'pause'
  | 'lowerRate'
  | 'toThread'
  | 'hold'
  | 'detach'
  | 'throw'
  | 'reject'

export interface ListenerPart {
  real: Listener
  model: ListenerModel
  /** The refs of outstanding `asyncAccept` requests that the application has made. */
  refs: Set<number>
}

/** A server, its model, and the events that it has emitted. */
export class ServerPart {
  readonly real: net.Server
  plan: Plan | undefined
  closeEvents = 0
  drops = 0
  readonly #connected: (socket: net.Socket) => void

  constructor(
    readonly model: ServerModel,
    connected: (socket: net.Socket) => void,
    requested: http.RequestListener,
  ) {
    this.#connected = connected
    const { kind } = model
    if (kind === 'http') {
      // An http.Server whose timeouts never end a connection.
      this.real = http.createServer(
        { keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0, connectionsCheckingInterval: 3_600_000 },
        requested,
      )
    } else {
      this.real = net.createServer({ pauseOnConnect: kind === 'paused' })
    }
    this.real.on('connection', this.#connected)
    this.#watch()
  }

  /** Removes all listeners, as an application may do, and adds those of the model test again. */
  removeAllListeners(): void {
    this.real.removeAllListeners()
    this.#watch()
  }

  #watch(): void {
    this.real.on('close', () => this.closeEvents++)
    this.real.on('drop', () => this.drops++)
  }

  get count(): number {
    return (this.real as unknown as { _connections: number })._connections
  }
}

/** A serving, its model, the events that it has emitted, and its unsettled promises. */
export class ServingPart {
  plan: Plan | undefined
  readonly events: string[] = []
  #unsettled = 0

  constructor(
    readonly real: Serving,
    readonly model: ServingModel,
    readonly problem: (problem: unknown) => void,
  ) {
    real.on('close', () => this.events.push('close'))
    real.on('error', (error) => this.events.push(`error ${error.message}`))
  }

  close(options: { closeListener?: boolean } = {}): void {
    this.#follow(this.real.close(options))
  }

  drain(options: { timeout: number; closeListener: boolean }): void {
    const drained = this.real
      .drain({ ...options, idleGrace: 0, unusedGrace: 3_600_000 })
      .then((report) => this.#check(report))
    this.#follow(drained)
  }

  #follow(promise: Promise<void>): void {
    this.#unsettled++
    promise.catch(this.problem).finally(() => this.#unsettled--)
  }

  #check({ idle, unused, finished, destroyed }: DrainReport): void {
    const { counted, cutOff } = this.model
    const ended = [idle, unused, finished, destroyed]
    assert.equal(
      ended.reduce((sum, count) => sum + count),
      counted,
      `the report: ${ended}`,
    )
    if (!cutOff) assert.equal(destroyed, 0, 'connections destroyed without a deadline')
  }

  /** Describes what this serving has yet to do to match its model; undefined when it matches. */
  missing(): string | undefined {
    const { real, model, events } = this
    const { state, live, errors } = model
    if (real.state !== state) return `state ${real.state}, expected ${state}`
    if (real.paused !== model.paused) return `paused: ${real.paused}, expected ${model.paused}`
    if (real.connections !== live.size) return `${real.connections} connections, expected ${live.size}`
    const closed = state === 'closed' ? ['close'] : []
    if (events.length !== errors + closed.length) return `emitted ${events}, expected ${errors} errors ${closed}`
    if (closed.length > 0 && this.#unsettled > 0) return `${this.#unsettled} unsettled promises`
    return undefined
  }

  /** Checks the events when the serving matches its model. */
  check(): void {
    const { events, model } = this
    const before = events.slice(0, model.errors)
    assert.ok(
      before.every((event) => event === 'error handler'),
      `events: ${events}`,
    )
  }
}

/** An accepted connection, with its socket or, before `toSocket()`, the Connection. */
export interface ConnectionPart {
  model: ConnectionModel
  socket?: net.Socket
  raw?: Connection
  response?: http.ServerResponse
  /** Whether its listeners have been removed. */
  stripped?: boolean
}
