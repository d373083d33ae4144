import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import type net from 'node:net'
import { type Connection, Listener, type ListenOptions, serve } from '../../src/index.js'
import { codeOf } from '../helpers.js'
import { type Client, dial } from '../model-clients.js'
import type { TurnOf } from '../model-sequences.js'
import type { SocketHolders } from '../socket-holders.js'
import { ListenerModel, QueueModel, type ServerKind, ServerModel } from './serving-model.js'
import { type ConnectionPart, type ListenerPart, type Plan, ServerPart, ServingPart } from './serving-model-parts.js'
import { of, ServingWorld, waitUntilNothingMissing } from './serving-model-world.js'

type SocketEnd = 'end' | 'destroy' | 'reset' | 'strip' | 'resume' | 'answer'
type Move = 'toThread' | 'toChild' | 'toDeadChild' | 'toDyingChild'

/** One action. Its numbers select among the existing objects, modulo their count. */
export type Step =
  | { do: 'open'; place: 'tcp' | 'path'; maxBatch: number }
  | { do: 'newServer'; kind: ServerKind }
  | { do: 'serve'; on: number; also: number[]; server: number | null; maxConnections: number | null }
  | { do: 'connect'; on: number; count: number }
  | { do: 'leave'; which: number; how: 'reset' | 'close' }
  | { do: 'send'; which: number; what: 'part' | 'request' | 'held' }
  | { do: 'socket'; which: number; how: SocketEnd }
  | { do: 'move'; which: number; where: Move }
  | { do: 'plan'; of: 'server' | 'serving'; which: number; plan: Plan }
  | { do: 'closeServer'; which: number; andThen: 'serve' | 'listen' | null; on: number }
  | { do: 'listenPlainly'; which: number }
  | { do: 'closeServing'; which: number; closeListener: boolean }
  | { do: 'drain'; which: number; timeout: number; closeListener: boolean }
  | { do: 'closeListener'; which: number }
  | { do: 'detach'; which: number; adopt: boolean }
  | { do: 'limit'; which: number; maxConnections: number | null }
  | { do: 'limitServer'; which: number; maxConnections: unknown }
  | { do: 'limitRate'; which: number; maxRate: number | null }
  | { do: 'pause' | 'resume'; which: number }
  | { do: 'add'; which: number; to: number }
  | { do: 'ref' | 'unref' | 'removeAllListeners'; of: 'server' | 'listener'; which: number }
  | { do: 'ask'; on: number; way: 'event' | 'promise' }
  | { do: 'cancel'; on: number }
export type Turn = TurnOf<Step>

const most = { listeners: 3, servers: 3, servings: 8 }

export class ServingRun extends ServingWorld {
  /** Executes the steps, then ends everything. Resolves with false when the run proves nothing: `ServingWorld.live`. */
  static of(newPath: () => string, holders: SocketHolders, turns: readonly Turn[]): Promise<boolean> {
    const run = new ServingRun(newPath, holders)
    return ServingWorld.live(run, async () => {
      for (const { step, turns: turn } of turns) {
        // The model does not say whether a step sees the effects of the next tick, so the run waits for them.
        if (run.model.ending) await run.settle()
        await run.do(step)
        if (turn) await run.settle()
      }
    })
  }

  private async do(step: Step): Promise<unknown> {
    switch (step.do) {
      case 'open':
        return this.#open(step.place === 'path' ? { path: this.newPath() } : { host: '127.0.0.1' }, step.maxBatch)
      case 'newServer':
        return this.#newServer(step.kind)
      case 'connect':
        return this.#connect(step.on, step.count)
      case 'leave':
        return this.#leave(step.which, step.how)
      case 'send':
        return this.#send(step.which, step.what)
      case 'socket':
        return this.#withSocket(step.which, step.how)
      case 'move':
        return this.#move(step.which, step.where)
      case 'serve':
        return this.#serve(step)
      case 'plan':
        return this.#plan(step)
      case 'closeServer':
        return this.#closeServer(step)
      case 'listenPlainly':
        return this.#listenPlainly(of(this.servers, step.which))
      case 'closeServing': {
        const serving = of(this.servings, step.which)
        serving?.close({ closeListener: step.closeListener })
        if (serving) this.model.enter(serving.model, 'closing', step.closeListener)
        if (serving) this.model.follow(serving.model)
        return
      }
      case 'drain': {
        const serving = of(this.servings, step.which)
        if (serving) this.drain(serving, step)
        if (serving) this.model.follow(serving.model)
        return
      }
      case 'closeListener':
      case 'detach':
        return this.#endListener(step)
      case 'limit': {
        const serving = of(this.servings, step.which)
        if (serving) this.limit(serving, step.maxConnections ?? Number.POSITIVE_INFINITY)
        return
      }
      case 'limitServer': {
        const server = of(this.servers, step.which)
        if (server) this.limitServer(server, step.maxConnections)
        return
      }
      case 'limitRate': {
        const serving = of(this.servings, step.which)
        if (serving) this.limitRate(serving, step.maxRate ?? Number.POSITIVE_INFINITY)
        return
      }
      case 'pause':
      case 'resume': {
        const serving = of(this.servings, step.which)
        if (serving) this.pause(serving, step.do === 'pause')
        return
      }
      case 'add':
        return this.#add(step.which, step.to)
      case 'ref':
      case 'unref':
        return of<ServerPart | ListenerPart>(step.of === 'server' ? this.servers : this.listeners, step.which)?.real[
          step.do
        ]()
      case 'removeAllListeners':
        return this.#removeAllListeners(step)
      case 'ask':
        return this.#ask(step.on, step.way)
      case 'cancel':
        return this.#cancel(step.on)
    }
  }

  async #open(options: ListenOptions, maxBatch: number): Promise<void> {
    if (this.listeners.length >= most.listeners) return
    this.#addListener(await Listener.listen({ ...options, maxBatch }), new QueueModel())
  }

  #addListener(real: Listener, queue: QueueModel): void {
    const part: ListenerPart = { real, model: new ListenerModel(queue), refs: new Set() }
    this.listeners.push(part)
    this.model.listeners.push(part.model)
    this.#watchListener(part)
  }

  #watchListener(part: ListenerPart): void {
    part.real.on('accept', ({ ref, connection }) => {
      if (!part.refs.delete(ref)) this.problem(new Error(`unexpected 'accept' event for ref ${ref}`))
      else if (connection) this.onOwn(part, connection)
    })
  }

  #newServer(kind: ServerKind): void {
    if (this.servers.length >= most.servers) return
    const model = new ServerModel(kind)
    const onSocket = (socket: net.Socket) => this.onSocket(socket)
    this.servers.push(new ServerPart(model, onSocket, this.onRequest))
    this.model.servers.push(model)
  }

  async #connect(on: number, count: number): Promise<void> {
    const listener = of(
      this.listeners.filter(({ model }) => model.open),
      on,
    )
    const address = listener?.real.address()
    for (let i = 0; address && i < count; i++) {
      this.clients.push(await dial(address))
      listener?.model.queue.waiting.push(this.clients.length - 1)
    }
  }

  #leave(which: number, how: 'reset' | 'close'): void {
    const client = which % this.clients.length
    this.clients[client]?.leave(how)
    this.model.left.add(client)
    const connection = this.model.connections.get(client)
    const part = connection && this.connections.get(connection)
    if (part?.stripped && !connection?.ended) this.destroy(part)
  }

  /** Selects an open connection. */
  #connection(which: number): ConnectionPart | undefined {
    return of(
      [...this.connections.values()].filter(({ model }) => !model.ended && !model.ending && !model.stuck),
      which,
    )
  }

  async #send(which: number, what: 'part' | 'request' | 'held'): Promise<void> {
    await this.settle()
    const part = this.#connection(which)
    if (part?.socket === undefined || part.stripped || this.model.left.has(part.model.client)) return
    const { model, socket } = part
    const client = this.clients[model.client] as Client
    const { bytesRead } = socket
    if (model.server?.kind !== 'http') {
      client.send('x')
      if (model.reads)
        await waitUntilNothingMissing(() => (socket.bytesRead > bytesRead ? undefined : 'bytes that a client has sent'))
      return
    }
    if (model.server.listenersRemoved || (model.http !== 'silent' && model.http !== 'idle')) return
    if (what === 'part') {
      client.send('GET / HTTP/1.1\r\n')
      await waitUntilNothingMissing(() => (socket.bytesRead > bytesRead ? undefined : 'a partial request'))
      model.http = 'partial'
      return
    }
    client.send(`GET /${what} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    await waitUntilNothingMissing(() => (part.response ? undefined : 'a request'))
    model.http = 'inFlight'
    if (what === 'request') await this.#answer(part)
    await this.settle()
  }

  async #answer(part: ConnectionPart): Promise<void> {
    const { response, model } = part
    part.response = undefined
    const closed = new Promise((resolve) => response?.once('close', resolve))
    response?.end('ok')
    await closed
    if (model.serving?.counted === undefined) model.http = 'idle'
    else model.ending = true
  }

  async #withSocket(which: number, how: SocketEnd): Promise<void> {
    if (how === 'answer') await this.settle()
    const part = this.#connection(which)
    if (part === undefined) return
    const { model, socket, raw, response } = part
    switch (how) {
      case 'end':
        if (socket === undefined || model.http !== 'none') return
        if (this.model.left.has(model.client)) return this.destroy(part)
        socket.end()
        model.finished = true
        return
      case 'destroy':
        return this.destroy(part)
      case 'reset':
        if (socket === undefined) raw?.reset()
        if (socket === undefined) return this.model.end(model)
        if (model.server?.kind === 'http' || this.overUnix(model)) return this.destroy(part)
        socket.resetAndDestroy()
        return this.model.end(model)
      case 'resume':
        if (socket === undefined || part.stripped || model.http !== 'none') return
        socket.resume()
        model.reads = true
        return
      case 'strip':
        if (socket === undefined) return
        if (this.model.left.has(model.client)) return this.destroy(part)
        socket.removeAllListeners().on('error', () => {})
        part.stripped = true
        model.reads = false
        return
      case 'answer':
        if (response !== undefined && !part.stripped) await this.#answer(part)
        return this.settle()
    }
  }

  async #move(which: number, where: Move): Promise<void> {
    await this.settle()
    const part = this.#connection(which)
    if (part?.socket === undefined || part.stripped || part.model.finished || part.model.server?.kind === 'http') return
    const { socket, model } = part
    if (where === 'toThread') {
      this.moveToThread(part)
      return this.settle()
    }
    if (where === 'toDeadChild') return this.holders.sendToDeadChild(socket)
    if (where === 'toDyingChild') return this.#sendToDyingChild(part)
    // Node loses count of the connections that this server still has.
    if (model.server) model.server.counted = false
    this.holders.sendToChild(socket)
    model.elsewhere = true
    this.model.end(model)
    await this.settle()
  }

  /**
   * Passes a connection to a serving: one that the application has accepted itself, one that a function holds, or a new
   * one from elsewhere.
   */
  async #add(which: number, to: number): Promise<void> {
    await this.settle()
    const held = [...this.connections.values()].filter(
      ({ raw, socket, model }) => raw !== undefined && socket === undefined && !model.ended && !model.ending,
    )
    const serving = of(this.servings, to)
    if (serving === undefined) return
    const part = of(held, which) ?? (await this.#acceptElsewhere())
    const { raw } = part as { raw: Connection }
    if (serving.model.state === 'serving') {
      this.add(part, serving)
      // A handler may have ended the serving. No other connection is undelivered, so the server closes within add().
      this.model.follow(serving.model)
    } else assert.throws(() => serving.real.add(raw), { code: 'ERR_SERVING_CLOSED' })
  }

  /** Accepts a connection on a listener that no serving has. */
  async #acceptElsewhere(): Promise<ConnectionPart> {
    const listener = await Listener.listen({ host: '127.0.0.1' })
    const accepted = listener.accept()
    this.clients.push(await dial(listener.address() as net.AddressInfo))
    const raw = await accepted
    await listener.close()
    return this.onElsewhere(raw, this.clients.length - 1)
  }

  async #sendToDyingChild({ model, socket }: ConnectionPart): Promise<void> {
    const { serving, server } = model
    if (serving === undefined || serving.counted !== undefined || socket === undefined) return
    if (server) server.counted = false
    server?.connections.delete(model)
    model.stuck = true
    model.reads = false
    await this.holders.sendToDyingChild(socket)
    await this.settle()
  }

  #serve({ on, also, server: which, maxConnections }: Omit<Extract<Step, { do: 'serve' }>, 'do'>): void {
    const listener = of(this.listeners, on)
    const server = which === null ? undefined : of(this.servers, which)
    const full = this.servings.length >= most.servings
    if (full || listener === undefined || (which !== null && server === undefined) || server?.model.counted === false)
      return
    const limit = maxConnections ?? Number.POSITIVE_INFINITY
    const path = listener.real.address()
    const parts = [...new Set([listener, ...also.map((each) => of(this.listeners, each) as ListenerPart)])]
    const refused = parts.some(({ model }) => !model.open)
      ? 'ERR_LISTENER_CLOSED'
      : server?.model.life
        ? 'ERR_SERVER_ALREADY_LISTEN'
        : undefined
    const reals = parts.map(({ real }) => real)
    if (refused !== undefined) {
      assert.throws(() => serve(reals, server?.real ?? (() => {})), { code: refused })
      return
    }
    const onConnection = (connection: Connection) => this.onConnection(part, connection)
    const real = serve(reals, server?.real ?? onConnection, { maxConnections: limit })
    const models = parts.map(({ model }) => model)
    const part = new ServingPart(real, this.model.serve(models, server?.model, limit), this.problem)
    this.servings.push(part)
    if (server && typeof path === 'string') server.model.path = path
  }

  #plan({ of: what, which, plan }: { of: 'server' | 'serving'; which: number; plan: Plan }): void {
    const part = of<ServerPart | ServingPart>(what === 'server' ? this.servers : this.servings, which)
    if (part) part.plan = plan
  }

  async #closeServer(step: { which: number; andThen: 'serve' | 'listen' | null; on: number }): Promise<void> {
    const server = of(this.servers, step.which)
    if (server === undefined) return
    server.real.close()
    this.model.closeServer(server.model)
    if (step.andThen === 'serve') this.#serve({ on: step.on, also: [], server: step.which, maxConnections: null })
    if (step.andThen === 'listen') this.#listenPlainly(server)
  }

  #listenPlainly(server: ServerPart | undefined): void {
    if (server === undefined || !server.model.counted || server.model.life !== undefined) return
    server.model.path = this.newPath()
    server.model.life = 'plain'
    server.real.listen(server.model.path)
  }

  async #endListener(step: { do: 'closeListener' | 'detach'; which: number; adopt?: boolean }): Promise<void> {
    const part = of(this.listeners, step.which)
    if (part === undefined || !part.model.open) return
    const { real, model } = part
    if (step.do === 'detach') {
      const fd = real.detach()
      if (step.adopt) {
        this.#addListener(Listener.fromFd(fd), model.queue)
        model.queue = new QueueModel()
      } else closeSync(fd)
    } else void real.close()
    this.model.closeListener(model)
    // Servings are notified in the next tick. Until then, a server continues to listen.
    await this.settle()
  }

  #removeAllListeners(step: { of: 'server' | 'listener'; which: number }): void {
    if (step.of === 'listener') {
      const listener = of(this.listeners, step.which)
      listener?.real.removeAllListeners()
      if (listener) this.#watchListener(listener)
      return
    }
    const server = of(this.servers, step.which)
    server?.removeAllListeners()
    if (server) server.model.listenersRemoved = true
  }

  #ask(on: number, way: 'event' | 'promise'): void {
    const part = of(this.listeners, on)
    if (part === undefined || !part.model.open) return
    part.model.asked++
    if (way === 'event') part.refs.add(part.real.asyncAccept())
    else
      part.real.accept().then(
        (connection) => this.onOwn(part, connection),
        (error) => codeOf(error) === 'ERR_LISTENER_CLOSED' || this.problem(error),
      )
  }

  /** Asserts that only the refs of the application can be cancelled. */
  #cancel(on: number): void {
    const part = of(this.listeners, on)
    for (let ref = 1; part && ref < 300; ref++) {
      const own = part.model.open && part.refs.delete(ref)
      assert.equal(part.real.cancel(ref), own, `ref ${ref}`)
      if (own) part.model.asked--
    }
  }
}
