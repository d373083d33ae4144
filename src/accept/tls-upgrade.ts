import type net from 'node:net'
import tls from 'node:tls'
import { onAbort } from '../core/abort.js'
import { deadlineAfterPoll, longestTimer } from '../core/deadline.js'
import { abortError, invalidArgType, withCode } from '../core/errors.js'
import * as validate from '../core/validate.js'
import type { InheritedOptions } from './sockopt.js'

export interface UpgradeOptions {
  /**
   * ms for the whole handshake, from the call. 0 or negative: no deadline. Default: 10,000. When the event loop comes to
   * the deadline more than 20 ms late, what has arrived is read first. A client that has sent something then gets the time
   * by which the loop was late, and at least a second, for its next answer.
   */
  timeout?: number
  /** Ends the handshake when aborted. */
  signal?: AbortSignal
}

// What Node keeps of a server's options and its types leave out.
type Server = tls.Server & {
  allowHalfOpen: boolean
  noDelay: boolean
  keepAlive: boolean
  /** In seconds. */
  keepAliveInitialDelay: number
  ALPNCallback?: unknown
}

type TLSSocket = tls.TLSSocket & { server: tls.Server }

const defaultTimeout = 10_000

// The client can go on only when it has been answered, and a loop that stands still answers nothing. So a deadline that
// comes late gives the client the time by which it was late, as long as it has sent something since the last one.
// ms: a deadline of a loop with no more than its usual work is not later than that.
const standstill = 20
// ms: the least that the client gets for its answer.
const roundTrip = 1_000

// A context costs a thousand times a handshake's look-up of it; one for each options object, for as long as that lives.
const servers = new WeakMap<object, Server>()

/** The server that makes the handshakes; throws when the options are not those of one. */
export function serverFor(options: tls.TlsOptions | tls.Server): Server {
  if (validate.isTlsServer(options)) return checked(options as Server)
  if (validate.isServer(options)) throw invalidArgType('options', 'a tls.Server or the options of one', options)
  validate.object('options', options)
  let server = servers.get(options)
  if (server === undefined) {
    // Each is read once, and what has been checked is what Node gets.
    const { enableTrace, handshakeTimeout }: tls.TlsOptions = options
    validate.optionalBoolean('options.enableTrace', enableTrace ?? undefined)
    // Node's own limit, of 120 s, would end what was to have no deadline.
    const own = { ...options, enableTrace, handshakeTimeout: handshakeTimeout || longestTimer }
    // net.Server looks at own options only, tls.Server at inherited ones too.
    const both: tls.TlsOptions = Object.create(options, Object.getOwnPropertyDescriptors(own))
    server = checked(tls.createServer(both) as Server)
    servers.set(options, server)
  }
  return server
}

// Node looks at it when a client has come. Then it would be too late to leave the fd with its connection.
function checked(server: Server): Server {
  const { ALPNCallback } = server
  if (ALPNCallback && typeof ALPNCallback !== 'function') {
    throw invalidArgType('options.ALPNCallback', 'of type function', ALPNCallback)
  }
  return server
}

// A net.Server sets these on what it accepts. What it does not ask for stays as the listener has it.
function wantedBy(server: Server): InheritedOptions {
  const { noDelay, keepAlive, keepAliveInitialDelay } = server
  return {
    ...(noDelay && { noDelay }),
    ...(keepAlive && { keepAlive, keepAliveInitialDelay: keepAliveInitialDelay * 1000 }),
  }
}

type ConnectionHandler = (this: tls.Server, socket: net.Socket) => void

let nodesHandler: ConnectionHandler | undefined

// Node's handler of 'connection', which is one function for all servers. Not looked up in a server that was lent: that
// may have handlers of its own, which must not run.
function connectionHandler(): ConnectionHandler {
  nodesHandler ??= tls.createServer().listeners('connection')[0] as ConnectionHandler
  return nodesHandler
}

/**
 * Makes a handshake on a socket through a `tls.Server` that never listens, so that everything that a tls.Server can do
 * works as it does there. `claim` is called when the arguments have proved right; from then on the socket is ours, and
 * is destroyed when the promise rejects.
 */
export function upgrade(
  claim: (options: InheritedOptions) => net.Socket,
  options: tls.TlsOptions | tls.Server,
  upgradeOptions: UpgradeOptions,
): Promise<tls.TLSSocket> {
  validate.object('upgradeOptions', upgradeOptions)
  const { timeout = defaultTimeout, signal }: UpgradeOptions = upgradeOptions
  const ms = validate.timeout('upgradeOptions.timeout', timeout)
  validate.optionalSignal('upgradeOptions.signal', signal)
  const server = serverFor(options)
  let aborted = signal?.aborted === true
  let failAborted: (() => void) | undefined
  // Before the claim: the signal may be of a class of the application, and throw.
  const stopWatching =
    signal &&
    onAbort(signal, () => {
      aborted = true
      failAborted?.()
    })
  let socket: net.Socket
  try {
    socket = claim(wantedBy(server))
  } catch (error) {
    stopWatching?.()
    throw error
  }
  return new Promise((resolve, reject) => {
    let stopTimer = () => {}
    const settle = () => {
      stopTimer()
      stopWatching?.()
    }

    // What Node's handler sees as its server: the real one in all but the two events that end a handshake, of which
    // one comes, once. They say whose handshake it was to nobody but the server, and one that was lent must not take
    // the connection for its own.
    const emit = (event: string, ...args: unknown[]): boolean => {
      if (event === 'secureConnection') {
        const [secure] = args as [TLSSocket]
        settle()
        secure.server = server
        // Only now: a client that ends its side before has hung up, and must not be waited for.
        secure.allowHalfOpen = server.allowHalfOpen
        resolve(secure)
        return true
      }
      if (event === 'tlsClientError') {
        const [error, secure] = args as [Error, TLSSocket]
        settle()
        // Closes the fd. What still comes of it goes to Node's own handler of 'error'.
        secure.destroy()
        reject(causeOf(error, secure))
        return true
      }
      return server.emit(event, ...args)
    }
    const facade: tls.Server = Object.create(server, { emit: { value: emit } })

    // Like an error of the raw socket, which Node takes to 'tlsClientError'. To destroy the raw socket would not do:
    // when a callback then destroys the TLSSocket, Node frees what OpenSSL, which has called it, is still using.
    const fail = (error: Error) => void socket.emit('error', error)

    try {
      if (signal && aborted) throw abortError(signal)
      connectionHandler().call(facade, socket)
    } catch (error) {
      settle()
      socket.destroy()
      reject(error)
      return
    }
    if (signal) failAborted = () => fail(abortError(signal))
    if (aborted) failAborted?.()
    let received = 0
    const wait = (time: number) => {
      const due = performance.now() + time
      stopTimer = deadlineAfterPoll(time, () => {
        const late = performance.now() - due
        const { bytesRead } = socket
        if (late < standstill || bytesRead === received) {
          fail(withCode(new Error('TLS handshake timeout'), 'ERR_TLS_HANDSHAKE_TIMEOUT'))
          return
        }
        received = bytesRead
        wait(Math.max(late, roundTrip))
      })
    }
    if (ms > 0) wait(ms)
  })
}

// Node says 'socket hang up' when it was the server that refused the client's certificate.
function causeOf(error: Error, { authorizationError }: TLSSocket): Error {
  if (!authorizationError) return error
  const code = String(authorizationError)
  return withCode(new Error(`The client's certificate was refused: ${code}`), code)
}
