import type tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import { binding } from '../core/binding.js'
import { codedError } from '../core/errors.js'
import { inspect } from '../core/inspect.js'
import { type Handle, type HandleClass, handleClassFor } from '../core/node-internals.js'
import type { Admission, Deliver } from './admission.js'
import type { ConnectionHandler, SecureHandler } from './options.js'
import type { ServerHandle } from './server-handle.js'

/** The option `tls`: undefined if the target gets connections without TLS, or makes the handshakes itself. */
type Tls = tls.TlsOptions | tls.Server | undefined

/** Returns a function that passes connections to a server. */
export function toServer(server: ServerHandle, options: Tls, admission: Admission): Deliver {
  // The server may have been closed since the accept. It drops the connection then, as the kernel drops those in the
  // accept queue of a closed listener.
  if (options === undefined) {
    return (connection, served) => {
      served.markSettled()
      if (server.listening) server.passClient(toHandle(connection, served.handleClass as HandleClass))
      else connection.reset()
    }
  }
  return afterHandshake(admission, options, (socket, served) => {
    served.markSettled()
    if (server.listening) server.adopt(socket)
    else socket.destroy()
  })
}

/** Returns a function that passes connections to a handler. `onError` gets the exceptions and rejections of it. */
export function toFunction(
  handler: ConnectionHandler | SecureHandler,
  options: Tls,
  admission: Admission,
  onError: (error: Error) => void,
): Deliver {
  const call: Deliver<never> = (argument, served) => {
    served.markSettled()
    const fail = (error: Error) => {
      // drain() has destroyed the connection, and the error is a consequence.
      if (served.destroyed) return
      served.destroy()
      queueMicrotask(() => onError(error))
    }
    try {
      // The handler may return any class of promise, and its `then` may throw.
      Promise.resolve(handler(argument)).catch(fail)
    } catch (error) {
      fail(error as Error)
    }
  }
  return options === undefined ? (call as Deliver) : afterHandshake(admission, options, call as Deliver<tls.TLSSocket>)
}

/**
 * Returns the class of the handles that a net.Server gets for the connections of a listening socket, or for a connected
 * socket. Throws `ERR_SOCKET_TYPE` for a seqpacket socket.
 */
export function handleClassOfSocket(fd: number): HandleClass {
  const { domain, type } = inspect(fd)
  if (type !== binding.constants.SOCK_STREAM)
    throw codedError('ERR_SOCKET_TYPE', 'a net.Server can be served on stream sockets only')
  return handleClassFor(domain as number)
}

function afterHandshake(
  admission: Admission,
  options: tls.TlsOptions | tls.Server,
  deliver: Deliver<tls.TLSSocket>,
): Deliver {
  return admission.withTls(options, (socket, served) => {
    served.secure = socket
    deliver(socket, served)
  })
}

function toHandle(connection: Connection, HandleClass: HandleClass): Handle {
  try {
    return Connection.toHandle(connection, HandleClass)
  } catch (error) {
    connection.reset()
    throw error
  }
}
