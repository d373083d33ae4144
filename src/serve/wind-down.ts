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

/** The state of a Serving that {@link WindDown} checks repeatedly. */
export interface WindDownTarget {
  /** Undefined when a function is served. */
  readonly server: net.Server | undefined
  /** The open connections of the Serving. The server may have others, of another Serving or of its own `listen()`. */
  readonly connections: ReadonlySet<ServedConnection>
  readonly admission: Admission
}

// ms between two periodic checks of all connections. Most checks are triggered by events. The periodic check finds
// changes that have no event, or whose event listener the application has removed.
const checkInterval = 100

// A check looks at every connection, which takes about 1 us for each. So checks use at most a tenth of the time, also
// while 100,000 connections are open and a response ends in each turn of the event loop.
const looksPerMs = 100

// In ms. After our FIN, a client that sends nothing for this time, not even its FIN, is disconnected (RFC 9112, section
// 9.6).
const lingerTime = 1_000

const connectionEvents = new Set<unknown>([
  'request',
  'checkContinue',
  'checkExpectation',
  'upgrade',
  'connect',
  'session',
])

/** A connection that this side has ended and whose client has not sent its FIN yet. */
interface Lingering {
  socket: net.Socket
  isSent: () => boolean
  /** The number of bytes read from the client at `since`; undefined until everything is sent. */
  bytesRead: number | undefined
  since: number
}

/**
 * Announces shutdown in the server's protocol (`Connection: close` for HTTP/1, GOAWAY for HTTP/2) and ends each
 * connection without a pending request. It decides by the state of the connections; events only trigger a check.
 */
export class WindDown {
  readonly #target: WindDownTarget
  readonly #idleGrace: number
  readonly #unusedGrace: number
  readonly #pipelines: Pipelines | undefined
  readonly #idle = new Set<Handle>()
  readonly #unused = new Set<Handle | ServedConnection>()
  readonly #lingering = new Map<Handle, Lingering>()
  /** For each connection without a request in progress: whether it is idle, and the first check that found it so. */
  readonly #waiting = new WeakMap<net.Socket, { isIdle: boolean; since: number }>()
  readonly #timers: NodeJS.Timeout[]
  readonly #restoreEmit: (() => void) | undefined
  #idleGraceOver = false
  #unusedGraceOver = false
  #scheduled: NodeJS.Immediate | undefined
  #deferred: NodeJS.Timeout | undefined
  /** The time before which no further check runs. */
  #restUntil = Number.NEGATIVE_INFINITY

  /** `idleGrace` and `unusedGrace` are in ms. */
  constructor(target: WindDownTarget, { idleGrace, unusedGrace }: { idleGrace: number; unusedGrace: number }) {
    const { server, connections } = target
    this.#target = target
    this.#idleGrace = idleGrace
    this.#unusedGrace = unusedGrace
    if (server !== undefined && speaksHttp(server)) {
      const pipelines = new Pipelines({
        // After idleGrace, unread bytes do not count: a client could otherwise hold its connection until the deadline.
        hasUnparsed: (socket) => !this.#idleGraceOver && hasUnread(handleBeneath(socket)),
        end: (socket) => this.#end(socket),
        onResponseEnd: this.#scheduleCheck,
      })
      this.#pipelines = pipelines
      this.#restoreEmit = intercept(server, (event, args, emit) => {
        const socket = socketOf(event, args)
        if (socket !== undefined && !this.#belongsToServing(socket)) return emit()
        if (event === 'session') this.#goAway(args[0] as http2.ServerHttp2Session)
        return pipelines.onEvent(event, args, emit)
      })
      for (const { session } of connections) if (session !== undefined) this.#goAway(session)
    }
    const idleTimer = setTimeout(() => {
      this.#idleGraceOver = true
      this.#scheduleCheck()
    }, idleGrace)
    const unusedTimer = setTimeout(() => {
      this.#unusedGraceOver = true
      this.#scheduleCheck()
    }, unusedGrace)
    this.#timers = [idleTimer, unusedTimer, setInterval(this.#scheduleCheck, checkInterval).unref()]
    this.#endHttpConnections()
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    clearImmediate(this.#scheduled)
    clearTimeout(this.#deferred)
    this.#restoreEmit?.()
    this.#pipelines?.stop()
  }

  /** Whether everything has been sent and only the client's FIN is missing. */
  hasEnded({ handle }: ServedConnection): boolean {
    return handle !== undefined && this.#lingering.get(handle)?.isSent() === true
  }

  /** Counts connections that were not destroyed at the deadline, by the way in which they ended. */
  report(connections: Iterable<ServedConnection>): { idle: number; unused: number; finished: number } {
    const report = { idle: 0, unused: 0, finished: 0 }
    for (const connection of connections) {
      const { handle } = connection
      if (this.#unused.has(connection) || (handle && this.#unused.has(handle))) report.unused++
      else if (handle && this.#idle.has(handle)) report.idle++
      else report.finished++
    }
    return report
  }

  #belongsToServing(socket: net.Socket): boolean {
    const handle = handleBeneath(socket)
    return handle !== undefined && this.#target.connections.has(observerOf(handle) as ServedConnection)
  }

  // Schedules a check for the check phase of the event loop. Bytes that arrived before a timer fired are read by then.
  #scheduleCheck = (): void => {
    if (this.#scheduled !== undefined || this.#deferred !== undefined) return
    const rest = this.#restUntil - performance.now()
    if (rest <= 0) {
      this.#scheduled = setImmediate(this.#check)
    } else {
      this.#deferred = setTimeout(() => {
        this.#deferred = undefined
        this.#scheduled = setImmediate(this.#check)
      }, rest).unref()
    }
  }

  #check = (): void => {
    this.#scheduled = undefined
    const looks = Math.max(this.#endHttpConnections(), this.#target.connections.size)
    if (this.#unusedGraceOver) this.#endUnadmitted()
    this.#endLingering()
    this.#restUntil = performance.now() + looks / looksPerMs
  }

  /** Returns the number of connections that it has looked at. */
  #endHttpConnections(): number {
    const pipelines = this.#pipelines
    if (pipelines === undefined) return 0
    const server = this.#target.server as http.Server
    const connections = httpConnections(server) ?? []
    for (const { socket, phase } of connections) {
      if (!this.#belongsToServing(socket)) continue
      pipelines.takeControl(socket)
      const handle = handleBeneath(socket)
      if (handle === undefined || this.#lingering.has(handle)) continue
      // Skip a connection with unread bytes. Node reads them next, and a later check handles the connection.
      if (!this.#mayEnd(socket, phase) || hasUnread(handle)) continue
      // Node or the application may have ended the connection already. It does not count as idle or unused then.
      if (!socket.writableEnded) (phase === 'unused' ? this.#unused : this.#idle).add(handle)
      this.#end(socket)
    }
    return connections.length
  }

  #mayEnd(socket: net.Socket, phase: HttpPhase): boolean {
    if (phase === 'answering') {
      this.#waiting.delete(socket)
      return false
    }
    const isIdle = phase === 'idle'
    if (isIdle && this.#pipelines?.wasTold(socket)) return true
    const now = performance.now()
    let waiting = this.#waiting.get(socket)
    if (waiting?.isIdle !== isIdle) {
      waiting = { isIdle, since: now }
      this.#waiting.set(socket, waiting)
    }
    if (isIdle && !this.#idleGraceOver) return false
    // A timer may fire up to 1 ms early.
    return now - waiting.since > (isIdle ? this.#idleGrace : this.#unusedGrace) - 1
  }

  // Ends the connections that wait for a PROXY header, a filter or a handshake of the option `tls`. Then those in the
  // handshake of a served https or http2 server. `secure` may be undefined after the handshake, because the application
  // may have removed our listener of 'secureConnection'. So the HTTP connections that Node lists are skipped too: their
  // handshake is complete.
  #endUnadmitted(): void {
    const { server, connections, admission } = this.#target
    for (const served of admission.connections) {
      this.#unused.add(served)
      // Read a partial PROXY header: if bytes are unread at close(2), the kernel sends a reset instead of a FIN.
      if (!served.lost) binding.receive(served.owned.fd, longestProxyHeader, false)
    }
    admission.abort()
    if (this.#pipelines === undefined || !validate.isTlsServer(server)) return
    const established = new Set<Handle | undefined>()
    for (const { socket } of httpConnections(server) ?? []) established.add(handleBeneath(socket))
    for (const { handle, secure } of [...connections]) {
      if (
        handle === undefined ||
        secure !== undefined ||
        established.has(handle) ||
        this.#lingering.has(handle) ||
        hasUnread(handle)
      )
        continue
      this.#unused.add(handle)
      socketOn(handle)?.destroy()
    }
  }

  // Sends a FIN, on TLS after a close_notify.
  #end(socket: net.Socket): void {
    const handle = handleBeneath(socket)
    if (handle === undefined || this.#lingering.has(handle)) return
    this.#pipelines?.close(socket)
    this.#linger(handle, socket, () => socket.writableFinished)
    socket.end()
  }

  // Sends one GOAWAY, with the ID of the last stream that is handled. It tells the client that it may retry the
  // requests on later streams (RFC 9113, section 8.7). Section 6.8 describes an earlier GOAWAY that still allows new
  // streams. Node cannot send one: after any GOAWAY, nghttp2 ignores new streams.
  #goAway(session: http2.ServerHttp2Session): void {
    if (session.destroyed) return
    const handle = handleBeneath(session.socket)
    const unused = session.state.lastProcStreamID === 0
    session.close()
    if (handle === undefined) return
    if (unused) this.#unused.add(handle)
    // After the last stream, Node sends a FIN and waits for the client's FIN without a timeout.
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

/** The socket of the connection that an event of an HTTP server refers to; undefined for other events. */
function socketOf(event: unknown, args: unknown[]): net.Socket | undefined {
  if (event === 'clientError') return args[1] as net.Socket
  const subject = args[0] as { socket?: net.Socket } | undefined
  return connectionEvents.has(event) ? subject?.socket : undefined
}

function hasUnread(handle: Handle | undefined): boolean {
  if (handle === undefined || handle.fd < 0) return false
  const unread = binding.receive(handle.fd, 1, true)
  return typeof unread !== 'number' && unread.length > 0
}
