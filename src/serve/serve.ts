import type net from 'node:net'
import type tls from 'node:tls'
import { Listener } from '../accept/listener.js'
import { codedError, invalidArgType, invalidArgValue } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { type ConnectionHandler, readServeOptions, type SecureHandler, type ServeOptions } from './options.js'
import { Serving } from './serving.js'

/**
 * Drives a server that somebody else has made with the connections of `listener`: net, tls, http, https, http2, or a
 * function that takes a {@link Connection}. The server sees what it would see if it listened itself: it is `listening`,
 * has an `address()`, sets its options on each socket, counts them, and `server.close()` ends it, and the listener with
 * it. It must not listen yet.
 *
 * Errors: `ERR_LISTENER_CLOSED`, `ERR_SERVER_ALREADY_LISTEN`, `ERR_SOCKET_TYPE` (a seqpacket listener, which only a
 * function can serve), `ERR_NODE_INTERNALS`, and Node's own for a wrong option.
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
  if (typeof target !== 'function' && !validate.isServer(target)) {
    throw invalidArgType('target', 'a net.Server or a function', target)
  }
  if (typeof target === 'function' && 'listen' in target) {
    throw invalidArgValue('target', "is a framework's application; give the server that it is called by", target)
  }
  const wanted = readServeOptions(options, target)
  if (listener.address() === null) throw codedError('ERR_LISTENER_CLOSED')
  return new Serving(listener, target, wanted)
}
