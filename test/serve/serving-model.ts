// What servings, servers and listeners do, in plain words: clients wait in the order of their coming, and a serving takes
// them while there is room. It knows no sockets. Who accepted which client is told to it; all else follows.
import assert from 'node:assert/strict'
import type { ServingState } from '../../src/index.js'

const node = Number.parseInt(process.versions.node, 10)

/** A client by its number: they count up as they come. */
export type ClientNumber = number

/** A listening socket. Its clients that wait, the oldest first. */
export class QueueModel {
  waiting: ClientNumber[] = []
}

export class ListenerModel {
  open = true
  /** Outstanding accept requests of the application's own. */
  asked = 0
  /** How many there were when it was closed, lately: what was accepted before may still be delivered. */
  askedBefore = 0

  constructor(public queue: QueueModel) {}
}

/** `'paused'`: a net.Server whose sockets are paused until the application resumes them. */
export type ServerKind = 'net' | 'paused' | 'http'

export class ServerModel {
  /** `maxConnections`, as the application has set it. */
  limit: unknown
  readonly connections = new Set<ConnectionModel>()
  /** What the server listens on. */
  life: ServingModel | 'plain' | undefined
  /** The path of the last unix socket it has listened on, which Node never forgets. */
  path: string | undefined
  closeEvents = 0
  /** Node loses count of the connections of a server that has sent one to a child process. */
  counted = true
  /** It has lost its listeners of 'connection' and 'request'. */
  deaf = false

  constructor(readonly kind: ServerKind) {}

  /** How many more connections Node would not drop. */
  get room(): number {
    return this.roomAt(this.connections.size)
  }

  roomAt(connections: number): number {
    let room = 0
    while (room < most && !drops(this.limit as number, connections + room)) room++
    return room
  }
}

// As many requests as a serving has outstanding.
const most = 64

// What net.Server asks itself before it drops a connection.
const drops = (limit: number, connections: number): boolean =>
  node < 21 ? Boolean(limit) && connections >= limit : limit !== undefined && limit !== null && connections >= limit

export class ConnectionModel {
  ended = false
  /** It ends as soon as the event loop turns. */
  ending = false
  /** Its socket is read from: it ends when the client does. */
  reads = true
  /** Our side has been ended: the client sees that. */
  finished = false
  /** A thread, a child process or the application has the fd. */
  elsewhere = false
  /** It was sent to a child process that died: Node keeps the fd, and only a drain's deadline ends that. */
  stuck = false
  /** Of a connection with HTTP. */
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
  readonly live = new Set<ConnectionModel>()
  /** A handler of a connection has changed what is accepted: of the same batch more may come. */
  late = false
  /** What the report of a drain must count; undefined before it. */
  counted: number | undefined
  cutOff = false
  errors = 0

  constructor(
    readonly listener: ListenerModel,
    readonly server: ServerModel | undefined,
    public maxConnections: number,
  ) {}

  /** How many more connections it accepts. */
  get room(): number {
    if (this.state !== 'serving' || !this.listener.open) return 0
    return Math.max(0, Math.min(this.maxConnections - this.live.size, this.server?.room ?? Number.POSITIVE_INFINITY))
  }
}

const order = ['serving', 'draining', 'closing', 'closed']

export class ServingsModel {
  readonly listeners: ListenerModel[] = []
  readonly servers: ServerModel[] = []
  readonly servings: ServingModel[] = []
  /** Of every client that was accepted. */
  readonly connections = new Map<ClientNumber, ConnectionModel>()
  /** Clients that were reset in the backlog of a socket that was closed. */
  readonly cutOff = new Set<ClientNumber>()
  /** Clients that have ended their connection. */
  readonly left = new Set<ClientNumber>()
  /** To be closed as a consequence of something; until they really are, others may accept from them. */
  readonly due = new Set<ListenerModel>()
  #turning = false

  /** Whether the state of a serving changes in the next tick. */
  get ending(): boolean {
    return this.servings.some(({ state, live, listener }) => {
      return state === 'serving' ? !listener.open : state !== 'closed' && live.size === 0
    })
  }

  /** How many clients could be accepted, if they came. */
  capacity(listener: ListenerModel): number {
    const rooms = this.servings.filter((each) => each.listener === listener).map(({ room }) => room)
    return rooms.reduce((sum, room) => sum + room, listener.open ? listener.asked : 0)
  }

  /** How many requests are outstanding, those of servings included. */
  pending(listener: ListenerModel): number {
    const rooms = this.servings.filter((each) => each.listener === listener).map(({ room }) => Math.min(room, most))
    return rooms.reduce((sum, room) => sum + room, listener.asked)
  }

  serve(listener: ListenerModel, server: ServerModel | undefined, maxConnections: number): ServingModel {
    const serving = new ServingModel(listener, server, maxConnections)
    if (server !== undefined) server.life = serving
    this.servings.push(serving)
    return serving
  }

  /** The client, which waits no more, is a connection of the serving, or of the application that had asked for it. */
  accepted(client: ClientNumber, listener: ListenerModel, serving?: ServingModel): ConnectionModel {
    assert.ok(!this.connections.has(client), `client ${client} was accepted twice`)
    this.cutOff.delete(client)
    const server = serving?.server
    if (serving === undefined) {
      const asked = listener.asked > 0 ? listener.asked-- : listener.askedBefore--
      assert.ok(asked > 0, `client ${client} was accepted, and the application had not asked`)
    } else {
      assert.ok(serving.late || serving.state === 'serving', `client ${client} was accepted while ${serving.state}`)
      if (serving.counted !== undefined) serving.counted++
    }
    const connection = new ConnectionModel(client, serving, server)
    connection.reads = server !== undefined && server.kind !== 'paused'
    if (server?.kind === 'http' && !server.deaf) connection.http = 'silent'
    serving?.live.add(connection)
    server?.connections.add(connection)
    this.connections.set(client, connection)
    return connection
  }

  /** It is closed, or its fd is elsewhere. */
  end(connection: ConnectionModel): void {
    if (connection.ended) return
    connection.ended = true
    connection.serving?.live.delete(connection)
    this.leaveServer(connection)
  }

  /** Its server counts it no more. */
  leaveServer(connection: ConnectionModel): void {
    const { server } = connection
    if (!server?.connections.delete(connection)) return
    if (server.life === undefined && server.connections.size === 0) server.closeEvents++
  }

  /** `server.close()`, by whomever. */
  closeServer(server: ServerModel): void {
    const { life } = server
    // Node closes idle connections before anything else; since version 26 also those that have sent nothing yet.
    for (const connection of server.connections) {
      const { http } = connection
      if (http === 'idle' || (http === 'silent' && node >= 26)) this.end(connection)
    }
    server.life = undefined
    if (life !== undefined && life !== 'plain') {
      this.enter(life, 'closing', true)
      if (life.closeListener) this.closeListener(life.listener)
    }
    if (server.connections.size === 0) server.closeEvents++
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

  /** The state only goes forward; the first who ends serving decides what becomes of the listener. */
  enter(serving: ServingModel, state: ServingState, closeListener = false): void {
    if (order.indexOf(state) <= order.indexOf(serving.state)) return
    if (serving.state === 'serving') serving.closeListener = closeListener
    serving.state = state
  }

  /** `connections`: how many it has in fact; those whose clients have left may still be among them. */
  drain(serving: ServingModel, connections: number, closeListener: boolean, cutOff: boolean): void {
    if (serving.counted !== undefined) return
    serving.counted = connections
    serving.cutOff = cutOff
    this.enter(serving, 'draining', closeListener)
  }

  /** What follows at once from the state of a serving. */
  follow(serving: ServingModel): void {
    if (serving.state === 'draining' && serving.live.size === 0) serving.state = 'closing'
    if (serving.state !== 'closing') return
    if (serving.server?.life === serving) this.closeServer(serving.server)
    if (serving.closeListener) this.closeListener(serving.listener)
    if (serving.live.size === 0) serving.state = 'closed'
  }

  /** What follows when the event loop turns. `isOpen`: whether a listener is still open in fact. */
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
      if (!serving.listener.open && serving.state === 'serving') this.enter(serving, 'closing', true)
    }
    for (const connection of this.connections.values()) {
      if (connection.ended) continue
      const { serving, client, http, reads, ending } = connection
      const drained = serving?.counted !== undefined && (serving.cutOff || http === 'idle')
      if (ending || drained || (reads && this.left.has(client))) this.end(connection)
    }
    for (const serving of this.servings) this.follow(serving)
  }

  /** Clients whose connection the other side has ended. */
  isEnded(client: ClientNumber): boolean {
    const connection = this.connections.get(client)
    if (connection === undefined) return this.cutOff.has(client)
    return connection.finished || (connection.ended && !connection.elsewhere)
  }

  toString(): string {
    const servings = this.servings.map(({ state, live, room }) => `${state} ${live.size} room ${room}`)
    const queues = this.listeners.map(
      ({ open, queue, asked }) => `${open ? 'open' : 'closed'} [${queue.waiting}] +${asked}`,
    )
    return `servings ${servings.join(', ') || 'none'}; listeners ${queues.join(', ')}`
  }
}
