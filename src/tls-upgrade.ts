import type net from 'node:net'
import tls from 'node:tls'
import { abortError, withCode } from './errors.js'
import * as validate from './validate.js'

export interface UpgradeOptions {
  /** ms for the whole handshake, from the call. 0 or negative: no deadline. Default: 10,000. */
  timeout?: number
  /** Ends the handshake when aborted. */
  signal?: AbortSignal
}

const defaultTimeout = 10_000

// A context costs a thousand times a handshake's look-up of it; one for each options object, for as long as that lives.
const servers = new WeakMap<object, tls.Server>()

function serverFor(options: tls.TlsOptions | tls.Server): tls.Server {
  if (options instanceof tls.Server) return options
  validate.object('options', options)
  let server = servers.get(options)
  if (server === undefined) {
    server = tls.createServer(options as tls.TlsOptions)
    servers.set(options, server)
  }
  return server
}

/**
 * Makes a handshake on a socket through a `tls.Server` that never listens, so that everything that a tls.Server can do
 * works as it does there. `claim` is called when the arguments have proved right; from then on the socket is ours, and
 * is destroyed when the promise rejects.
 */
export function upgrade(
  claim: () => net.Socket,
  options: tls.TlsOptions | tls.Server,
  { timeout = defaultTimeout, signal }: UpgradeOptions,
): Promise<tls.TLSSocket> {
  const ms = validate.timeout('upgradeOptions.timeout', timeout)
  validate.optionalSignal('upgradeOptions.signal', signal)
  const server = serverFor(options)
  const socket = claim()
  return new Promise((resolve, reject) => {
    let deadline: NodeJS.Timeout | undefined
    const settled = () => {
      clearTimeout(deadline)
      signal?.removeEventListener('abort', aborted)
      socket.off('error', failed)
    }
    const failed = (error: Error) => {
      settled()
      // What still comes of the destroyed socket has been said.
      socket.on('error', () => {})
      socket.destroy()
      reject(error)
    }
    const aborted = () => failed(abortError(signal as AbortSignal))

    // What tls.Server's own handler of 'connection' sees as its server: ours in all but the two events that end a
    // handshake. They say whose handshake it was to nobody but the server they are emitted on, and a server that was
    // lent to us must not treat the connection as its own.
    const facade: tls.Server = Object.create(server, {
      emit: {
        value: (event: string, ...args: unknown[]) => {
          if (event === 'secureConnection') {
            settled()
            resolve(args[0] as tls.TLSSocket)
            return true
          }
          if (event === 'tlsClientError') {
            const [error, secure] = args as [Error, tls.TLSSocket]
            secure.on('error', () => {})
            secure.destroy()
            failed(error)
            return true
          }
          return server.emit(event, ...args)
        },
      },
    })

    socket.on('error', failed)
    if (signal?.aborted) return aborted()
    signal?.addEventListener('abort', aborted, { once: true })
    if (ms > 0) {
      deadline = setTimeout(() => {
        failed(withCode(new Error('TLS handshake timeout'), 'ERR_TLS_HANDSHAKE_TIMEOUT'))
      }, ms)
    }
    for (const handler of server.listeners('connection')) Reflect.apply(handler, facade, [socket])
  })
}
