import type net from 'node:net'
import type tls from 'node:tls'
import { Listener } from '../accept/listener.js'
import { codedError, invalidArg, invalidArgType, invalidArgValue } from '../core/errors.js'
import { checkTarget } from './check-target.js'
import { type ConnectionHandler, readServeOptions, type SecureHandler, type ServeOptions } from './options.js'
import { Serving } from './serving.js'

/**
 * Accepts the connections of one or more listeners and passes them to a server (`net`, `tls`, `http`, `https` or
 * `http2`), or to a function that takes a {@link Connection}. The server must not be listening yet. After this call, it
 * behaves as if it had called `listen()` itself: `listening` is true and `address()` returns the address. It applies
 * its options to each socket and counts it. `server.close()` ends serving and closes the listener.
 *
 * With an array, the connections of all listeners go to one server, within one limit. When there is not room for a
 * connection of each, the listeners take turns. The server listens on the first: `address()` returns its address. If
 * one of them is closed or detached, serving continues on the others. If accept(2) fails permanently on one of them,
 * serving ends.
 *
 * The caller still owns the listeners. The server or the function takes ownership of each connection.
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
  listener: Listener | readonly Listener[],
  handler: SecureHandler,
  options: ServeOptions & { tls: tls.TlsOptions | tls.Server },
): Serving
export function serve(
  listener: Listener | readonly Listener[],
  target: net.Server | ConnectionHandler,
  options?: ServeOptions,
): Serving
export function serve(
  listener: Listener | readonly Listener[],
  target: net.Server | ConnectionHandler | SecureHandler,
  options: ServeOptions = {},
): Serving {
  const listeners = readListeners(listener)
  checkTarget(target)
  const checkedOptions = readServeOptions(options, target)
  if (listeners.some((each) => each.address() === null)) throw codedError('ERR_LISTENER_CLOSED')
  return Serving.start(listeners, target, checkedOptions)
}

function readListeners(listener: Listener | readonly Listener[]): readonly Listener[] {
  if (!Array.isArray(listener)) {
    if (!Listener.isListener(listener)) throw invalidArgType('listener', 'a Listener or an array of them', listener)
    return [listener]
  }
  const listeners: readonly Listener[] = [...listener]
  if (listeners.length === 0) throw invalidArgValue('listener', 'must not be empty', listener)
  for (const [index, each] of listeners.entries()) {
    if (!Listener.isListener(each)) throw invalidArgType(`listener[${index}]`, 'a Listener', each)
    if (listeners.indexOf(each) !== index)
      throw invalidArg(`listener[${index}]`, 'is also an earlier element of the array')
  }
  return listeners
}
