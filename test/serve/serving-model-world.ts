import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { closeSync } from 'node:fs'
import type http from 'node:http'
import type net from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Connection, Listener } from '../../src/index.js'
import { namedFds } from '../fd-room.js'
import type { Client } from '../model-clients.js'
import { movesSockets, type SocketHolders } from '../socket-holders.js'
import { type ConnectionModel, type ListenerModel, type ServingModel, ServingsModel } from './serving-model.js'
import type { ConnectionPart, ListenerPart, Plan, ServerPart, ServingPart } from './serving-model-parts.js'

type Accepted = { listener: Listener; connection: Connection }

// In ms. Long, because the machine can be busy. Short after the first failure, because shrinking repeats the failure.
let patience = 10_000

/** Waits until `missing` returns undefined, and fails with its last result otherwise. */
export async function waitUntilNothingMissing(missing: () => string | undefined): Promise<void> {
  const end = performance.now() + patience
  for (let what = missing(); what !== undefined; what = missing()) {
    if (performance.now() > end) {
      patience = 500
      assert.fail(`timed out waiting for: ${what}`)
    }
    await nextTurn()
  }
}

// The rest of the batch that was accepted before these is still delivered.
const plansThatStop: readonly Plan[] = ['closeServing', 'drain', 'lowerLimit', 'lowerServerLimit', 'pause', 'lowerRate']

/** Selects an element by a number, modulo the count. */
export const of = <T>(all: readonly T[], which: number): T | undefined => all[which % all.length]

/** Real servers, servings, listeners and clients, each with its model. */
export class ServingWorld {
  protected readonly model = new ServingsModel()
  protected readonly listeners: ListenerPart[] = []
  protected readonly servers: ServerPart[] = []
  protected readonly servings: ServingPart[] = []
  protected readonly clients: Client[] = []
  protected readonly connections = new Map<ConnectionModel, ConnectionPart>()
  /** The fds that functions have detached. */
  protected readonly detached: number[] = []
  /** The client numbers of accepted connections, and that of the connection being delivered. */
  readonly #clientOf = new WeakMap<Connection, number>()
  #delivered = -1
  /** Whether the connection that is being delivered was passed to `add()`. */
  #adding = false
  readonly #bySocket = new WeakMap<net.Socket, ConnectionPart>()
  readonly #problems: unknown[] = []

  constructor(
    protected readonly newPath: () => string,
    protected readonly holders: SocketHolders,
  ) {}

  /** Resolves with false when the run proves nothing because other code in this process has closed an fd. */
  static async live(world: ServingWorld, life: () => Promise<void>): Promise<boolean> {
    const before = namedFds()
    // A diagnostics channel, because an application can remove all 'connection' listeners.
    const onSocket = (message: unknown) => world.onSocket((message as { socket: net.Socket }).socket)
    const onAccept = (message: unknown) => world.#onAccept(message as Accepted)
    subscribe('net.server.socket', onSocket)
    subscribe('async-accept.connection', onAccept)
    try {
      try {
        await life()
        await world.#finish()
      } finally {
        await world.#cleanUp()
        unsubscribe('net.server.socket', onSocket)
        unsubscribe('async-accept.connection', onAccept)
      }
      const more = () => namedFds().filter((fd) => !before.includes(fd))
      for (let turn = 0; turn < patience && more().length > 0; turn++) await nextTurn()
      assert.deepEqual(more(), [], 'fds left open')
      return true
    } catch (error) {
      const now = namedFds()
      if (before.every((fd) => now.includes(fd))) throw error
      return false
    }
  }

  protected problem = (problem: unknown): void => {
    this.#problems.push(problem)
  }

  // An assertion that fails in a handler must not become an error of the handler.
  #noting(run: () => void): void {
    try {
      run()
    } catch (error) {
      this.problem(error)
    }
  }

  /** Called in the order in which the kernel accepted the connections, over all consumers. */
  #onAccept({ listener: real, connection }: Accepted): void {
    const listener = this.listeners.find((each) => each.real === real)
    if (listener === undefined) return
    const peer = connection.remotePort ?? connection.remoteAddress
    const { waiting } = listener.model.queue
    this.#noting(() => {
      const is = (client: number) => this.clients[client]?.peer === peer
      const client = waiting.find(is) ?? [...this.model.cutOff].findLast(is)
      assert.ok(client !== undefined, `accepted ${peer}, which is not in the backlog`)
      assert.ok(
        !waiting.includes(client) || client === waiting[0],
        `accepted ${client}, but the backlog is [${waiting}]`,
      )
      if (client === waiting[0]) waiting.shift()
      this.#clientOf.set(connection, client)
      this.#delivered = client
    })
  }

  /** Called when a server receives a connection. */
  protected onSocket(socket: net.Socket): void {
    const { server: real } = socket as unknown as { server: net.Server }
    const server = this.servers.find((each) => each.real === real)
    if (server === undefined || this.#bySocket.has(socket)) return
    this.#noting(() => {
      const { life, kind, listenersRemoved, limit } = server.model
      assert.ok(life !== undefined && life !== 'plain', 'connection for a server that is not served')
      const part = this.#accepted(this.#delivered, life.first, life)
      part.socket = socket
      this.#bySocket.set(socket, part)
      socket.on('error', () => {})
      // The limit includes this connection.
      if (!life.late && !this.#adding)
        assert.ok(server.model.roomAt(server.count - 1) > 0, `limit ${limit}, count ${server.count}`)
      if (kind === 'net' || (kind === 'http' && listenersRemoved)) socket.resume()
      // The sockets of an http.Server are half-open.
      if (kind === 'http' && listenersRemoved) socket.on('end', () => socket.end())
      this.#act(part, server)
      server.plan = undefined
    })
  }

  /** Called when a function receives a connection. */
  protected onConnection(serving: ServingPart, connection: Connection): unknown {
    const { plan } = serving
    serving.plan = undefined
    let part: ConnectionPart | undefined
    this.#noting(() => {
      part = this.#accepted(this.#clientOf.get(connection), serving.model.first, serving.model)
      part.raw = connection
      if (plan !== undefined && ['hold', 'detach', 'throw', 'reject'].includes(plan)) return
      part.socket = connection.toSocket().on('error', () => {})
      part.socket.resume()
      part.model.reads = true
      if (plan !== undefined) this.#act(part, { plan })
    })
    if (part === undefined) return
    if (plan === 'detach') {
      this.detached.push(connection.detach())
      part.model.elsewhere = true
      this.model.end(part.model)
    }
    if (plan !== 'throw' && plan !== 'reject') return
    serving.model.errors++
    part.model.ending = true
    if (plan === 'throw') throw new Error('handler')
    return Promise.reject(new Error('handler'))
  }

  /** Called when an accept request of the application receives a connection. */
  protected onOwn(listener: ListenerPart, raw: Connection): void {
    this.#noting(() => {
      this.#accepted(this.#clientOf.get(raw), listener.model).raw = raw
    })
  }

  /** Called when a listener that is no part of the model has accepted a connection for the application. */
  protected onElsewhere(raw: Connection, client: number): ConnectionPart {
    this.#clientOf.set(raw, client)
    const part: ConnectionPart = { model: this.model.fromElsewhere(client), raw }
    this.connections.set(part.model, part)
    return part
  }

  protected onRequest = (request: http.IncomingMessage, response: http.ServerResponse): void => {
    const part = this.#bySocket.get(request.socket)
    if (part) part.response = response
  }

  #accepted(client: number | undefined, listener: ListenerModel, serving?: ServingModel): ConnectionPart {
    assert.ok(client !== undefined, 'delivered connection without an accept')
    const model = this.model.accepted(client, listener, serving, this.#adding)
    const part = { model }
    this.connections.set(model, part)
    const real = this.servings.find((each) => each.model === serving)?.real
    if (real && !serving?.late && !this.#adding)
      assert.ok(real.connections <= (serving?.maxConnections ?? 0), 'maxConnections exceeded')
    return part
  }

  // Executes the plan of a handler.
  #act(part: ConnectionPart, { plan }: { plan: Plan | undefined }): void {
    const { serving: model, server } = part.model
    const serving = this.servings.find((each) => each.model === model)
    const own = this.servers.find((each) => each.model === server)
    if (serving === undefined || plan === undefined) return
    if (plan === 'destroy') this.destroy(part)
    if (plan === 'toThread') this.moveToThread(part)
    if (plan === 'closeServer' && own) {
      own.real.close()
      this.model.closeServer(own.model)
    }
    serving.model.late ||= plansThatStop.includes(plan)
    if (plan === 'closeServing') {
      serving.close()
      this.model.enter(serving.model, 'closing')
    }
    if (plan === 'drain') this.drain(serving, { timeout: 3_600_000, closeListener: true })
    if (plan === 'lowerLimit') this.limit(serving, 0)
    if (plan === 'lowerServerLimit' && own) this.limitServer(own, 1)
    if (plan === 'pause') this.pause(serving, true)
    if (plan === 'lowerRate') this.limitRate(serving, 0)
  }

  /** Passes a connection that the application has to a serving. */
  protected add({ model, raw }: ConnectionPart, to: ServingPart): void {
    this.model.moved(model)
    this.connections.delete(model)
    this.#delivered = model.client
    this.#adding = true
    to.real.add(raw as Connection)
    this.#adding = false
    const now = this.model.connections.get(model.client)
    if (now?.serving !== to.model) this.problem(new Error('a connection was not delivered within add()'))
  }

  protected destroy({ socket, raw, model }: ConnectionPart): void {
    if (socket) socket.destroy()
    else raw?.close()
    this.model.end(model)
  }

  protected overUnix = ({ client }: ConnectionModel): boolean => typeof this.clients[client]?.peer === 'string'

  protected moveToThread({ socket, model }: ConnectionPart): void {
    if (!movesSockets || socket === undefined || model.server?.kind === 'http') return
    const fresh = socket.bytesRead === 0 && !this.overUnix(model) && !this.model.left.has(model.client)
    if (this.holders.moveToThread(socket)) {
      model.elsewhere = true
      this.model.leaveServer(model)
      // The thread receives the fd later.
      model.ending = true
    } else assert.ok(!fresh, 'could not move a new socket')
  }

  protected drain(serving: ServingPart, options: { timeout: number; closeListener: boolean }): void {
    const timeout = [...serving.model.live].some(({ stuck }) => stuck) ? 0 : options.timeout
    this.model.drain(serving.model, serving.real.connections, options.closeListener, timeout === 0)
    serving.drain({ timeout, closeListener: options.closeListener })
  }

  protected limit(serving: ServingPart, maxConnections: number): void {
    serving.model.maxConnections = maxConnections
    serving.real.maxConnections = maxConnections
  }

  /** `maxRate`: 0, or a rate that is never reached. */
  protected limitRate(serving: ServingPart, maxRate: number): void {
    serving.model.withoutRate = maxRate === 0
    serving.real.maxRate = maxRate
  }

  protected pause(serving: ServingPart, paused: boolean): void {
    serving.model.paused = paused
    if (paused) serving.real.pause()
    else serving.real.resume()
  }

  protected limitServer(server: ServerPart, maxConnections: unknown): void {
    server.model.limit = maxConnections
    server.real.maxConnections = maxConnections as number
  }

  /** Waits until everything matches the model, and checks that it stays so. */
  protected async settle(): Promise<void> {
    await waitUntilNothingMissing(() => (this.#problems.length > 0 ? undefined : this.#missing()))
    // Two turns, so that the event loop polls between them and any unexpected event waitUntilNothingMissing.
    await nextTurn()
    await nextTurn()
    if (this.#problems.length > 0) throw this.#problems[0]
    const missing = this.#missing()
    assert.equal(missing, undefined, missing)
    for (const serving of this.servings) {
      serving.check()
      serving.model.late = false
    }
    for (const { model } of this.listeners) model.askedBefore = 0
    for (const server of this.servers) await this.#check(server)
    for (const [number, { ended, left }] of this.clients.entries()) {
      assert.ok(left || this.model.isEnded(number) || !ended, `client ${number} was disconnected`)
    }
  }

  // An HTTP client ends its side when a drain has ended the server's. Otherwise the drain would wait for the client.
  #leaveBehind(): void {
    for (const { ended, client: number, serving, server } of this.connections.keys()) {
      const client = this.clients[number]
      if (!ended || server?.kind !== 'http' || serving?.counted === undefined || client?.left || !client?.ended)
        continue
      client.leave('close')
      this.model.left.add(number)
    }
  }

  #missing(): string | undefined {
    const { model } = this
    model.progress((listener) => this.listeners.some((each) => each.model === listener && each.real.fd >= 0))
    this.#leaveBehind()
    if (model.due.size > 0) return `the end of a listener; ${model}`
    for (const [i, { real, model: listener }] of this.listeners.entries()) {
      if (!listener.open) {
        if (real.fd >= 0) return `the end of listener ${i}`
        continue
      }
      const { waiting } = listener.queue
      const capacity = model.capacity(listener)
      const queued = real.fd < 0 ? -1 : real.backlog().queued
      if (queued !== waiting.length || (capacity > 0 && queued > 0)) {
        return `listener ${i}: backlog ${queued}, expected ${waiting.length}, room for ${capacity}; ${model}`
      }
      if (!model.mayHavePending(listener, real.pending)) return `listener ${i}: ${real.pending} requests; ${model}`
    }
    const pending = this.listeners.reduce((sum, { real }) => sum + real.pending, 0)
    if (pending !== model.pending) return `${pending} requests, expected ${model.pending}; ${model}`
    for (const [i, serving] of this.servings.entries()) {
      const missing = serving.missing()
      if (missing !== undefined) return `serving ${i}: ${missing}; ${model}`
    }
    for (const [i, server] of this.servers.entries()) {
      const { counted, closeEvents } = server.model
      if (counted && server.closeEvents !== closeEvents)
        return `server ${i}: ${server.closeEvents} 'close' events, expected ${closeEvents}`
    }
    const open = [...this.clients.entries()].find(([number, client]) => model.isEnded(number) && !client.ended)
    return open && `the end of client ${open[0]}`
  }

  async #check({ real, model, drops }: ServerPart): Promise<void> {
    const { life, connections, path, counted } = model
    const at = this.servers.findIndex((each) => each.real === real)
    assert.equal(drops, 0, `server ${at} dropped clients`)
    assert.equal(real.listening, life !== undefined, `server ${at} is listening: ${real.listening}`)
    const listener = this.listeners.find((each) => life !== 'plain' && each.model === life?.first)
    // During a drain, a listener may close before its server.
    const address = listener === undefined ? (path ?? null) : listener.real.address()
    if (listener === undefined || address !== null) {
      assert.ok(isDeepStrictEqual(real.address(), address), `address of server ${at}: ${real.address()}`)
    }
    if (!counted) return
    const count = await new Promise((resolve) => real.getConnections((_, number) => resolve(number)))
    assert.equal(count, connections.size, `connections of server ${at}`)
  }

  /** Accepts every waiting client that has a consumer, ends everything, and waits until all of it has closed. */
  async #finish(): Promise<void> {
    await this.settle()
    for (const server of this.servers) this.limitServer(server, undefined)
    for (const serving of this.servings) {
      this.limit(serving, Number.POSITIVE_INFINITY)
      this.limitRate(serving, Number.POSITIVE_INFINITY)
      this.pause(serving, false)
    }
    await this.settle()
    for (const serving of this.servings) this.drain(serving, { timeout: 3_600_000, closeListener: false })
    for (const part of this.connections.values()) if (!part.model.ended && !part.model.stuck) this.destroy(part)
    await this.holders.end()
    for (const { model } of this.connections.values()) model.elsewhere = false
    for (const fd of this.detached.splice(0)) closeSync(fd)
    for (const serving of this.servings) {
      serving.close()
      this.model.enter(serving.model, 'closing')
      this.model.follow(serving.model)
    }
    for (const { real, model } of this.servers) {
      if (model.life === 'plain') real.close()
      if (model.life === 'plain') this.model.closeServer(model)
    }
    for (const { real, model } of this.listeners) {
      void real.close()
      this.model.closeListener(model)
    }
    await this.settle()
    assert.ok(this.servings.every(({ real }) => real.state === 'closed'))
  }

  async #cleanUp(): Promise<void> {
    for (const { socket, raw } of this.connections.values()) socket ? socket.destroy() : raw?.reset()
    await this.holders.end()
    for (const fd of this.detached) closeSync(fd)
    for (const { real } of this.servings) void real.close()
    for (const { real } of this.servers) if (real.listening) real.close()
    for (const { real } of this.listeners) await real.close()
    for (const client of this.clients) client.leave()
  }
}
