// A model of servings, servers and listeners without sockets: clients wait in the order of their arrival, and a serving
// accepts them while it has room. The test tells the model which consumer accepted which client. The rest is derived.
import assert from 'node:assert/strict'
import type { ServingState } from '../../src/index.js'

const node = Number.parseInt(process.versions.node, 10)

/** Identifies a client. Numbers increase in the order of arrival. */
export type ClientNumber = number

/** The accept queue of a listening socket: waiting clients, the oldest first. */
export class QueueModel {
  waiting: ClientNumber[] = []
}

export class ListenerModel {
  open = true
  /** The number of outstanding accept requests that the application has made. */
  asked = 0
  /** `asked` when the listener closed, until the next settle: accepted connections may still be delivered. */
  askedBefore = 0

  constructor(public queue: QueueModel) {}
}

/** `'paused'`: a net.Server whose sockets are paused until the application resumes them. */
export type ServerKind = 'net' | 'paused' | 'http'

export class ServerModel {
  /** `maxConnections`, as set by the application. */
  limit: unknown
  readonly connections = new Set<ConnectionModel>()
  /** What the server listens on. */
  life: ServingModel | 'plain' | undefined
  /** The path of the last unix socket that it listened on. Node keeps reporting it. */
  path: string | undefined
  closeEvents = 0
  /** False after the server has sent a connection to a child process: Node then loses count of its connections. */
  counted = true
  /** Whether its 'connection' and 'request' listeners have been removed. */
  listenersRemoved = false

  constructor(readonly kind: ServerKind) {}

  /** How many more connections Node would not drop. */
  get room(): number {
    return this.roomAt(this.connections.size)
  }

  roomAt(connections: number): number {
    let room = 0
    while (room < mostRoom && !drops(this.limit as number, connections + room)) room++
    return room
  }
}

// The number of requests that a serving keeps outstanding on one listener.
const most = 64

// No serving has more listeners than that.
const mostRoom = 3 * most

// The condition on which net.Server drops a connection.
const drops = (limit: number, connections: number): boolean =>
  node < 21 ? Boolean(limit) && connections >= limit : limit !== undefined && limit !== null && connections >= limit

export class ConnectionModel {
  ended = false
  /** It ends in the next turn of the event loop. */
  ending = false
  /** Its socket is being read, so it ends when its client ends. */
  reads = true
  /** The server has ended its side, which the client sees. */
  finished = false
  /** A thread, a child process or the application has the fd. */
  elsewhere = false
  /** It was sent to a child process that died. Node keeps the fd until the deadline of a drain. */
  stuck = false
  /** The state of HTTP on the connection. */
  http: 'none' | 'silent' | 'partial' | 'idle' | 'inFlight' = 'none'

  constructor(
    readonly client: ClientNumber,
    readonly serving?: ServingModel,
    readonly server?: ServerModel,
  ) {}
}

export class ServingModel {
  state: ServingState = 'serving'
  closeListener = false
  paused = false
  /** Whether its maxRate is 0. */
  withoutRate = false
  readonly live = new Set<ConnectionModel>()
  /** A connection handler has changed what is accepted. More connections of the same batch may still be delivered. */
  late = false
  /** The total that the report of a drain must have; undefined before a drain. */
  counted: number | undefined
  cutOff = false
  errors = 0

  constructor(
    /** One or more; the served server has the address of the first. */
    readonly listeners: readonly ListenerModel[],
    readonly server: ServerModel | undefined,
    public maxConnections: number,
  ) {}

  get first(): ListenerModel {
    return this.listeners[0] as ListenerModel
  }

  get openListeners(): ListenerModel[] {
    return this.listeners.filter(({ open }) => open)
  }

  /** The least and the largest number of requests on one of its open listeners, and their number on all. */
  get requests(): { least: number; largest: number; all: number } {
    const { room } = this
    const { length: open } = this.openListeners
    // When there is not room for a connection of each, the listeners take turns. If none has a client, all ask.
    if (room === 0 || room < open) return { least: Math.min(room, 1), largest: Math.min(room, 1), all: room && open }
    const all = Math.min(room, open * most)
    return { least: Math.floor(all / open), largest: Math.ceil(all / open), all }
  }

  /** How many more connections it accepts. */
  get room(): number {
    if (this.state !== 'serving' || this.paused || this.withoutRate || this.openListeners.length === 0) return 0
    return Math.max(0, Math.min(this.maxConnections - this.live.size, this.server?.room ?? Number.POSITIVE_INFINITY))
  }
}

const order = ['serving', 'draining', 'closing', 'closed']

export class ServingsModel {
  readonly listeners: ListenerModel[] = []
  readonly servers: ServerModel[] = []
  readonly servings: ServingModel[] = []
  /** The connections of all accepted clients. */
  readonly connections = new Map<ClientNumber, ConnectionModel>()
  /** Clients that the kernel reset because they waited in the backlog of a socket that was closed. */
  readonly cutOff = new Set<ClientNumber>()
  /** Clients that have ended their connection. */
  readonly left = new Set<ClientNumber>()
  /** Listeners that must close as a consequence. Until they have closed, other consumers may accept from them. */
  readonly due = new Set<ListenerModel>()
  #turning = false

  /** Whether the state of a serving changes in the next tick. */
  get ending(): boolean {
    return this.servings.some(({ state, live, openListeners }) => {
      return state === 'serving' ? openListeners.length === 0 : state !== 'closed' && live.size === 0
    })
  }

  /** How many clients would be accepted if they connected. */
  capacity(listener: ListenerModel): number {
    const rooms = this.#servingsOf(listener).map(({ room }) => room)
    return rooms.reduce((sum, room) => sum + room, listener.open ? listener.asked : 0)
  }

  /** Whether an open listener may have this number of outstanding requests, including those of servings. */
  mayHavePending(listener: ListenerModel, pending: number): boolean {
    const requests = this.#servingsOf(listener).map((each) => each.requests)
    const least = requests.reduce((sum, each) => sum + each.least, listener.asked)
    const largest = requests.reduce((sum, each) => sum + each.largest, listener.asked)
    return least <= pending && pending <= largest
  }

  /** The number of outstanding requests on all listeners, including those of servings. */
  get pending(): number {
    const asked = this.listeners.reduce((sum, each) => sum + each.asked, 0)
    return this.servings.reduce((sum, { requests }) => sum + requests.all, asked)
  }

  #servingsOf(listener: ListenerModel): ServingModel[] {
    return this.servings.filter(({ listeners }) => listeners.includes(listener))
  }

  serve(listeners: readonly ListenerModel[], server: ServerModel | undefined, maxConnections: number): ServingModel {
    const serving = new ServingModel(listeners, server, maxConnections)
    if (server !== undefined) server.life = serving
    this.servings.push(serving)
    return serving
  }

  /** Adds a connection that the application has from elsewhere. */
  fromElsewhere(client: ClientNumber): ConnectionModel {
    const connection = new ConnectionModel(client)
    connection.reads = false
    this.connections.set(client, connection)
    return connection
  }

  /** Ends the part of its present owner in a connection that the application passes to `add()` of a serving. */
  moved(connection: ConnectionModel): void {
    this.end(connection)
    this.connections.delete(connection.client)
  }

  /**
   * Moves a client from the backlog to the serving, or to an accept request of the application. `added`: the serving
   * gets the connection by `add()`.
   */
  accepted(client: ClientNumber, listener: ListenerModel, serving?: ServingModel, added = false): ConnectionModel {
    assert.ok(!this.connections.has(client), `client ${client} was accepted twice`)
    this.cutOff.delete(client)
    const server = serving?.server
    if (serving === undefined) {
      const asked = listener.asked > 0 ? listener.asked-- : listener.askedBefore--
      assert.ok(asked > 0, `client ${client} was accepted without a request of the application`)
    } else {
      assert.ok(serving.late || serving.state === 'serving', `client ${client} was accepted while ${serving.state}`)
      const waits = serving.paused || serving.withoutRate
      assert.ok(added || serving.late || !waits, `client ${client} was accepted while paused or with a maxRate of 0`)
      if (serving.counted !== undefined) serving.counted++
    }
    const connection = new ConnectionModel(client, serving, server)
    connection.reads = server !== undefined && server.kind !== 'paused'
    if (server?.kind === 'http' && !server.listenersRemoved) connection.http = 'silent'
    serving?.live.add(connection)
    server?.connections.add(connection)
    this.connections.set(client, connection)
    return connection
  }

  /** Ends a connection that has closed, or whose fd has moved elsewhere. */
  end(connection: ConnectionModel): void {
    if (connection.ended) return
    connection.ended = true
    connection.serving?.live.delete(connection)
    this.leaveServer(connection)
  }

  /** Removes a connection from the count of its server. */
  leaveServer(connection: ConnectionModel): void {
    const { server } = connection
    if (!server?.connections.delete(connection)) return
    if (server.life === undefined && server.connections.size === 0) server.closeEvents++
  }

  /** Models `server.close()`, called by the application or by a serving. */
  closeServer(server: ServerModel): void {
    const { life } = server
    // Node closes idle connections first. Since version 26 it also closes those that have sent nothing yet.
    for (const connection of server.connections) {
      const { http } = connection
      if (http === 'idle' || (http === 'silent' && node >= 26)) this.end(connection)
    }
    server.life = undefined
    if (life !== undefined && life !== 'plain') {
      this.enter(life, 'closing', true)
      if (life.closeListener) this.#closeListeners(life)
    }
    if (server.connections.size === 0) server.closeEvents++
  }

  #closeListeners({ listeners }: ServingModel): void {
    for (const each of listeners) this.closeListener(each)
  }

  closeListener(listener: ListenerModel): void {
    if (!listener.open) return
    if (this.#turning) {
      this.due.add(listener)
      return
    }
    listener.open = false
    listener.askedBefore = listener.asked
    listener.asked = 0
    for (const client of listener.queue.waiting.splice(0)) this.cutOff.add(client)
  }

  /** Advances the state, never back. The first call that ends the serving decides what happens to the listener. */
  enter(serving: ServingModel, state: ServingState, closeListener = false): void {
    if (order.indexOf(state) <= order.indexOf(serving.state)) return
    if (serving.state === 'serving') serving.closeListener = closeListener
    serving.state = state
  }

  /** `connections`: the actual number, which may still include those whose clients have left. */
  drain(serving: ServingModel, connections: number, closeListener: boolean, cutOff: boolean): void {
    if (serving.counted !== undefined) return
    serving.counted = connections
    serving.cutOff = cutOff
    this.enter(serving, 'draining', closeListener)
  }

  /** Derives what follows immediately from the state of a serving. */
  follow(serving: ServingModel): void {
    if (serving.state === 'draining' && serving.live.size === 0) serving.state = 'closing'
    if (serving.state !== 'closing') return
    if (serving.server?.life === serving) this.closeServer(serving.server)
    if (serving.closeListener) this.#closeListeners(serving)
    if (serving.live.size === 0) serving.state = 'closed'
  }

  /** Derives what follows in the next turn. `isOpen`: whether the real listener is still open. */
  progress(isOpen: (listener: ListenerModel) => boolean): void {
    for (const listener of [...this.due].filter((each) => !isOpen(each))) {
      this.due.delete(listener)
      this.closeListener(listener)
    }
    this.#turning = true
    this.#turn()
    this.#turning = false
  }

  #turn(): void {
    for (const serving of this.servings) {
      if (serving.openListeners.length === 0 && serving.state === 'serving') this.enter(serving, 'closing', true)
    }
    for (const connection of this.connections.values()) {
      if (connection.ended) continue
      const { serving, client, http, reads, ending } = connection
      const drained = serving?.counted !== undefined && (serving.cutOff || http === 'idle')
      if (ending || drained || (reads && this.left.has(client))) this.end(connection)
    }
    for (const serving of this.servings) this.follow(serving)
  }

  /** Whether the server side has ended the connection of this client. */
  isEnded(client: ClientNumber): boolean {
    const connection = this.connections.get(client)
    if (connection === undefined) return this.cutOff.has(client)
    return connection.finished || (connection.ended && !connection.elsewhere)
  }

  toString(): string {
    const servings = this.servings.map((each) => {
      const on = each.listeners.map((listener) => this.listeners.indexOf(listener))
      return `${each.state}${each.paused ? ' paused' : ''} on ${on}: ${each.live.size} room ${each.room}`
    })
    const queues = this.listeners.map(
      ({ open, queue, asked }) => `${open ? 'open' : 'closed'} [${queue.waiting}] +${asked}`,
    )
    return `servings ${servings.join(', ') || 'none'}; listeners ${queues.join(', ')}`
  }
}
