import type net from 'node:net'
import tls from 'node:tls'
import { onAbort } from '../core/abort.js'
import { type CallSite, isFromNode, leadTo } from '../core/call-site.js'
import { deadlineAfterPoll, longestTimer } from '../core/deadline.js'
import { abortError, invalidArgType, plainAbortError, withCode, withoutStacks } from '../core/errors.js'
import * as validate from '../core/validate.js'
import type { InheritedOptions } from './sockopt.js'

/** Options of `Connection.toTLS`. */
export interface UpgradeOptions {
  /**
   * The timeout of the whole handshake in ms, from the call. 0 or negative: no timeout. Default: 10,000.
   *
   * The event loop reads the data that has arrived before it handles the deadline. If the deadline is handled at least
   * 20 ms late and the client has sent data, the deadline is extended. The extension is the delay of the event loop,
   * but at least 1 s.
   */
  timeout?: number
  /** Ends the handshake with `ABORT_ERR` when aborted. */
  signal?: AbortSignal
}

// Properties that Node sets from the options of a server, but that its types leave out.
type Server = tls.Server & {
  allowHalfOpen: boolean
  noDelay: boolean
  keepAlive: boolean
  /** In seconds. */
  keepAliveInitialDelay: number
  ALPNCallback?: unknown
}

type TLSSocket = tls.TLSSocket & { server: tls.Server }

const upgradeNames: validate.Names<UpgradeOptions> = { timeout: true, signal: true }

const defaultTimeout = 10_000

// A client can continue its handshake only after an answer from the server, and a blocked event loop sends no answers.
// Therefore a deadline that is handled late is extended by the delay, if the client has sent data since the previous
// deadline.

// In ms. A shorter delay does not extend the deadline: the event loop was not blocked, only busy as usual.
const blockedLoop = 20
// In ms. The minimum extension, enough for a client to receive an answer and to send its next message.
const roundTrip = 1_000

// Creating a TLS context costs a thousand times as much as looking it up for a handshake. So there is one server, with
// one context, per options object. It exists as long as the object exists.
const servers = new WeakMap<object, Server>()

/** @internal Returns the server that performs the handshakes. Throws if the options are invalid. */
export function serverFor(options: tls.TlsOptions | tls.Server): Server {
  if (validate.isTlsServer(options)) return checked(options as Server)
  if (validate.isServer(options))
    throw invalidArgType('options', 'a tls.Server or the options of tls.createServer()', options)
  validate.object('options', options)
  let server = servers.get(options)
  if (server === undefined) {
    // Each of the two options is read once, so that Node receives the value that has been checked.
    const { enableTrace, handshakeTimeout }: tls.TlsOptions = options
    validate.optionalBoolean('options.enableTrace', enableTrace ?? undefined)
    // Without this value, Node's default timeout of 120 s would end a handshake for which the caller has set no
    // timeout.
    const own = { ...options, enableTrace, handshakeTimeout: handshakeTimeout || longestTimer }
    // net.Server reads only own properties of the options, while tls.Server also reads inherited ones. `both` has both.
    const both: tls.TlsOptions = Object.create(options, Object.getOwnPropertyDescriptors(own))
    server = checked(tls.createServer(both) as Server)
    servers.set(options, server)
  }
  return server
}

// Node checks ALPNCallback only when a client connects. Then it is too late: the Connection no longer owns the fd.
function checked(server: Server): Server {
  const { ALPNCallback } = server
  if (ALPNCallback && typeof ALPNCallback !== 'function') {
    throw invalidArgType('options.ALPNCallback', 'of type function', ALPNCallback)
  }
  return server
}

// The options that net.Server sets on its accepted sockets. If the server does not enable an option, the socket keeps
// the listener's setting.
function socketOptionsOf(server: Server): InheritedOptions {
  const { noDelay, keepAlive, keepAliveInitialDelay } = server
  return {
    ...(noDelay && { noDelay }),
    ...(keepAlive && { keepAlive, keepAliveInitialDelay: keepAliveInitialDelay * 1000 }),
  }
}

type ConnectionHandler = (this: tls.Server, socket: net.Socket) => void

let nodesHandler: ConnectionHandler | undefined

// Node's handler of 'connection', which is one function for all servers. It is taken from a new server, because the
// application's server may have other handlers, which must not run.
function connectionHandler(): ConnectionHandler {
  nodesHandler ??= tls.createServer().listeners('connection')[0] as ConnectionHandler
  return nodesHandler
}

/**
 * @internal
 * Performs a handshake on a socket through a `tls.Server`, so that all features of tls.Server work. The server need not
 * listen. Calls `claim` once the arguments are validated. From then on this function owns the socket: it destroys the
 * socket if the promise rejects. The stacks of errors lead to `site`, except those of callbacks of the application.
 */
export function upgrade(
  claim: (options: InheritedOptions) => net.Socket,
  options: tls.TlsOptions | tls.Server,
  upgradeOptions: UpgradeOptions,
  site: CallSite,
): Promise<tls.TLSSocket> {
  validate.options('upgradeOptions', upgradeOptions, upgradeNames)
  const { timeout = defaultTimeout, signal }: UpgradeOptions = upgradeOptions
  const ms = validate.timeout('upgradeOptions.timeout', timeout)
  validate.optionalSignal('upgradeOptions.signal', signal)
  const server = serverFor(options)
  let aborted = signal?.aborted === true
  let failAborted: (() => void) | undefined
  // onAbort is called before `claim`, because it throws if the signal is of an application class that throws.
  const stopWatching =
    signal &&
    onAbort(signal, () => {
      aborted = true
      failAborted?.()
    })
  let socket: net.Socket
  try {
    socket = claim(socketOptionsOf(server))
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

    // Node reports the end of a handshake only to the server, by one event: 'secureConnection' or 'tlsClientError'. A
    // server of the application must not receive this connection. So Node's handler gets a facade of the server, which
    // intercepts these two events.
    const emit = (event: string, ...args: unknown[]): boolean => {
      if (event === 'secureConnection') {
        const [secure] = args as [TLSSocket]
        settle()
        secure.server = server
        // allowHalfOpen is set only now: if a client ends its side during the handshake, it has disconnected and the
        // socket must end, too.
        secure.allowHalfOpen = server.allowHalfOpen
        resolve(secure)
        return true
      }
      if (event === 'tlsClientError') {
        const [error, secure] = args as [Error, TLSSocket]
        settle()
        // Closes the fd. Later errors of the socket go to Node's own 'error' handler.
        secure.destroy()
        const cause = causeOf(error, secure)
        reject(isFromNode(cause) ? leadTo(site, cause) : cause)
        return true
      }
      return server.emit(event, ...args)
    }
    const facade: tls.Server = Object.create(server, { emit: { value: emit } })

    // Emits an error on the raw socket, which Node turns into 'tlsClientError'. Destroying the raw socket would be
    // unsafe: if a callback that OpenSSL has called then destroys the TLSSocket, Node frees memory that OpenSSL still
    // uses.
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
    if (signal) failAborted = () => fail(leadTo(site, plainAbortError(signal)))
    if (aborted) failAborted?.()
    let received = 0
    const wait = (time: number) => {
      const due = performance.now() + time
      stopTimer = deadlineAfterPoll(time, () => {
        const late = performance.now() - due
        const { bytesRead } = socket
        if (late < blockedLoop || bytesRead === received) {
          const error = withoutStacks(() => new Error(`TLS handshake timeout: ${ms} ms`))
          fail(withCode(error, 'ERR_TLS_HANDSHAKE_TIMEOUT'))
          return
        }
        received = bytesRead
        wait(Math.max(late, roundTrip))
      })
    }
    if (ms > 0) wait(ms)
  })
}

// If the server has rejected the client's certificate, Node reports 'socket hang up'. The reason is in
// authorizationError.
function causeOf(error: Error, { authorizationError }: TLSSocket): Error {
  if (!authorizationError) return error
  const code = String(authorizationError)
  const rejection = withoutStacks(() => new Error(`The client certificate was rejected: ${code}`))
  return withCode(rejection, code)
}
