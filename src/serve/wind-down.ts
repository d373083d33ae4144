import type http from 'node:http'
import type http2 from 'node:http2'
import type net from 'node:net'
import { binding } from '../core/binding.js'
import {
  type Handle,
  type HttpPhase,
  handleBeneath,
  httpConnections,
  observerOf,
  socketOn,
  speaksHttp,
} from '../core/node-internals.js'
import * as validate from '../core/validate.js'
import { longestProxyHeader } from '../peek/proxy-protocol.js'
import type { Admission } from './admission.js'
import { intercept, Pipelines } from './pipelines.js'
import type { ServedConnection } from './served-connection.js'

/** The state of a Serving, which {@link WindDown} looks at again and again. */
export interface WindDownTarget {
  /** Undefined when a function is served. */
  readonly server: net.Server | undefined
  /** Open connections. The server may have others: from another Serving, or from its own `listen()`. */
  readonly connections: ReadonlySet<ServedConnection>
  readonly admission: Admission
}

// ms between two looks at all connections. Events bring most looks. This one is for what ends without an event, and for an
// application that has removed our listeners.
const lookInterval = 100

// ms for which a client may be silent between our FIN and its own (RFC 9112, section 9.6).
const lingerTime = 1_000

const connectionEvents = new Set<unknown>([
  'request',
  'checkContinue',
  'checkExpectation',
  'upgrade',
  'connect',
  'session',
])

/** A connection that was ended from our side, and not yet from the client's. */
interface Lingering {
  socket: net.Socket
  isSent: () => boolean
  /** What the client had sent at `since`. */
  bytesRead: number | undefined
  since: number
}

/**
 * Announces the end in the server's protocol (`Connection: close` for HTTP/1, GOAWAY for HTTP/2), and ends each connection
 * on which no request waits for its answer. It looks at the state of the connections; events only say when to look.
 */
export class WindDown {
  readonly #target: WindDownTarget
  readonly #unusedGrace: number
  readonly #pipelines: Pipelines | undefined
  readonly #idle = new Set<Handle>()
  readonly #unused = new Set<Handle | ServedConnection>()
  readonly #lingering = new Map<Handle, Lingering>()
  /** When each connection was first seen with a request that has not begun, or not come whole. */
  readonly #since = new WeakMap<net.Socket, number>()
  readonly #timers: NodeJS.Timeout[]
  readonly #undo: (() => void) | undefined
  #idleGraceOver = false
  #unusedGraceOver = false
  #soon: NodeJS.Immediate | undefined

  /** Both are in ms. */
  constructor(target: WindDownTarget, { idleGrace, unusedGrace }: { idleGrace: number; unusedGrace: number }) {
    const { server, connections } = target
    this.#target = target
    this.#unusedGrace = unusedGrace
    if (server !== undefined && speaksHttp(server)) {
      const pipelines = new Pipelines({
        // Later, a client that always has a request ready would hold its connection until the deadline.
        hasMore: (socket) => !this.#idleGraceOver && hasUnread(handleBeneath(socket)),
        end: (socket) => this.#end(socket),
        answered: this.#look,
      })
      this.#pipelines = pipelines
      this.#undo = intercept(server, (event, args, emit) => {
        const socket = socketOf(event, args)
        if (socket !== undefined && !this.#isOurs(socket)) return emit()
        if (event === 'session') this.#goAway(args[0] as http2.ServerHttp2Session)
        return pipelines.onEvent(event, args, emit)
      })
      for (const { session } of connections) if (session !== undefined) this.#goAway(session)
    }
    const idleTimer = setTimeout(() => {
      this.#idleGraceOver = true
      this.#look()
    }, idleGrace)
    const unusedTimer = setTimeout(() => {
      this.#unusedGraceOver = true
      this.#look()
    }, unusedGrace)
    this.#timers = [idleTimer, unusedTimer, setInterval(this.#look, lookInterval).unref()]
    this.#endHttp()
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    clearImmediate(this.#soon)
    this.#undo?.()
    this.#pipelines?.stop()
  }

  /** Whether everything was sent, and only the client's end is waited for. */
  hasEnded({ handle }: ServedConnection): boolean {
    return handle !== undefined && this.#lingering.get(handle)?.isSent() === true
  }

  /** How connections ended that were not destroyed at the deadline. */
  report(ended: Iterable<ServedConnection>): { idle: number; unused: number; finished: number } {
    const report = { idle: 0, unused: 0, finished: 0 }
    for (const served of ended) {
      const { handle } = served
      if (this.#unused.has(served) || (handle && this.#unused.has(handle))) report.unused++
      else if (handle && this.#idle.has(handle)) report.idle++
      else report.finished++
    }
    return report
  }

  #isOurs(socket: net.Socket): boolean {
    const handle = handleBeneath(socket)
    return handle !== undefined && this.#target.connections.has(observerOf(handle) as ServedConnection)
  }

  // In the check phase. Bytes that had come when a timer fired have been read by then.
  #look = (): void => {
    this.#soon ??= setImmediate(() => {
      this.#soon = undefined
      this.#endHttp()
      if (this.#unusedGraceOver) this.#endUnadmitted()
      this.#endLingering()
    })
  }

  #endHttp(): void {
    const pipelines = this.#pipelines
    if (pipelines === undefined) return
    const server = this.#target.server as http.Server
    const connections = httpConnections(server)
    for (const { socket, phase } of connections ?? []) {
      if (!this.#isOurs(socket)) continue
      pipelines.take(socket)
      const handle = handleBeneath(socket)
      // What has come is read next, and looked at again.
      if (handle === undefined || !this.#isOver(socket, phase) || hasUnread(handle)) continue
      // Node or the application may have ended it already.
      if (!socket.writableEnded) (phase === 'unused' ? this.#unused : this.#idle).add(handle)
      this.#end(socket)
    }
  }

  #isOver(socket: net.Socket, phase: HttpPhase): boolean {
    if (phase === 'idle') return this.#idleGraceOver || this.#pipelines?.hasAnswered(socket) === true
    if (phase === 'answering') {
      this.#since.delete(socket)
      return false
    }
    const now = performance.now()
    const since = this.#since.get(socket) ?? now
    this.#since.set(socket, since)
    // A timer may be a little early.
    return now - since > this.#unusedGrace - 1
  }

  // Connections that the server has not got yet, and those whose handshake a served tls.Server has not finished. An
  // application that removes our listener of 'secureConnection' hides the end of handshakes from us.
  #endUnadmitted(): void {
    const { server, connections, admission } = this.#target
    for (const served of admission.connections) {
      this.#unused.add(served)
      // The kernel sends a reset, and no FIN, where a part of a PROXY header is left unread.
      if (served.owned.fd >= 0) binding.receive(served.owned.fd, longestProxyHeader, false)
    }
    admission.cutOff()
    if (this.#pipelines === undefined || !validate.isTlsServer(server)) return
    const made = new Set<Handle | undefined>()
    for (const { socket } of httpConnections(server) ?? []) made.add(handleBeneath(socket))
    for (const { handle, secure } of [...connections]) {
      if (
        handle === undefined ||
        secure !== undefined ||
        made.has(handle) ||
        this.#lingering.has(handle) ||
        hasUnread(handle)
      )
        continue
      this.#unused.add(handle)
      socketOn(handle)?.destroy()
    }
  }

  // Sends a FIN, behind a close_notify where there is TLS.
  #end(socket: net.Socket): void {
    const handle = handleBeneath(socket)
    if (handle === undefined || this.#lingering.has(handle)) return
    this.#pipelines?.close(socket)
    this.#linger(handle, socket, () => socket.writableFinished)
    socket.end()
  }

  // One GOAWAY, with the last stream that is served. The client knows that it may make anew what it has opened since
  // (RFC 9113, section 8.7). Section 6.8 has one before it that excludes no stream yet, but whatever Node sends makes
  // nghttp2 ignore new streams from then on.
  #goAway(session: http2.ServerHttp2Session): void {
    if (session.destroyed) return
    const handle = handleBeneath(session.socket)
    const unused = session.state.lastProcStreamID === 0
    session.close()
    if (handle === undefined) return
    if (unused) this.#unused.add(handle)
    // Node sends a FIN behind the last stream, and then waits for the client's without a limit.
    this.#linger(handle, socketOn(handle), () => session.destroyed && handle.writeQueueSize === 0)
  }

  #linger(handle: Handle, socket: net.Socket | undefined, isSent: () => boolean): void {
    if (socket === undefined) return
    this.#lingering.set(handle, { socket, isSent, bytesRead: undefined, since: 0 })
  }

  #endLingering(): void {
    const now = performance.now()
    for (const [handle, lingering] of this.#lingering) {
      const { socket, isSent, bytesRead, since } = lingering
      if (socket.destroyed) {
        this.#lingering.delete(handle)
      } else if (!isSent() || bytesRead !== handle.bytesRead) {
        lingering.bytesRead = isSent() ? handle.bytesRead : undefined
        lingering.since = now
      } else if (now - since >= lingerTime) {
        socket.destroy()
      }
    }
  }
}

/** The socket that an event of an HTTP server is about. */
function socketOf(event: unknown, args: unknown[]): net.Socket | undefined {
  if (event === 'clientError') return args[1] as net.Socket
  const about = args[0] as { socket?: net.Socket } | undefined
  return connectionEvents.has(event) ? about?.socket : undefined
}

function hasUnread(handle: Handle | undefined): boolean {
  if (handle === undefined || handle.fd < 0) return false
  const unread = binding.receive(handle.fd, 1, true)
  return typeof unread !== 'number' && unread.length > 0
}
