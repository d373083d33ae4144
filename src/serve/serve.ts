import type net from 'node:net'
import type tls from 'node:tls'
import { Listener } from '../accept/listener.js'
import { codedError, invalidArgType } from '../core/errors.js'
import { type ConnectionHandler, readServeOptions, type SecureHandler, type ServeOptions } from './options.js'
import { Serving } from './serving.js'
import { checkTarget } from './target.js'

/**
 * Accepts the connections of `listener` and passes them to a server (`net`, `tls`, `http`, `https` or `http2`), or to a
 * function that takes a {@link Connection}. The server must not be listening yet. After this call, it behaves as if it
 * had called `listen()` itself: `listening` is true and `address()` returns the address. It applies its options to each
 * socket and counts it. `server.close()` ends serving and closes the listener.
 *
 * The caller still owns the listener. The server or the function takes ownership of each connection.
 *
 * Errors: `ERR_LISTENER_CLOSED`, `ERR_SERVER_ALREADY_LISTEN`, `ERR_SOCKET_TYPE` (a seqpacket listener, which only a
 * function can serve), `ERR_NODE_INTERNALS` (an unsupported version of Node), `ABORT_ERR` (`signal` is already
 * aborted), `EMFILE`, and Node's codes for an invalid argument.
 *
 * @example
 * ```js
 * const server = http.createServer((request, response) => response.end('hello'))
 * const serving = serve(listener, server, { maxConnections: 1000 })
 * ```
 */
export function serve(
  listener: Listener,
  handler: SecureHandler,
  options: ServeOptions & { tls: tls.TlsOptions | tls.Server },
): Serving
export function serve(listener: Listener, target: net.Server | ConnectionHandler, options?: ServeOptions): Serving
export function serve(
  listener: Listener,
  target: net.Server | ConnectionHandler | SecureHandler,
  options: ServeOptions = {},
): Serving {
  if (!Listener.isListener(listener)) throw invalidArgType('listener', 'a Listener', listener)
  checkTarget(target)
  const checkedOptions = readServeOptions(options, target)
  if (listener.address() === null) throw codedError('ERR_LISTENER_CLOSED')
  return Serving.start(listener, target, checkedOptions)
}
