import type net from 'node:net'
import { invalidArg, invalidArgType } from '../core/errors.js'
import * as validate from '../core/validate.js'
import type { ConnectionHandler, SecureHandler } from './options.js'

/** An object that is neither a server nor a handler, but from which a server can be made. */
interface Mistake {
  what: string
  /** Whether the value has this kind. Its members are checked, because the package does not depend on frameworks. */
  matches(value: unknown): boolean
  /** The line to write instead. */
  instead: string
}

const has = (value: unknown, ...methods: string[]) =>
  methods.every((name) => typeof (value as Record<string, unknown>)[name] === 'function')

const isFunction = (value: unknown): value is (...args: never[]) => unknown => typeof value === 'function'

// In this order: some frameworks also have the members by which a later entry is recognised.
const mistakes: readonly Mistake[] = [
  {
    what: 'is a Fastify application',
    matches: (value) => has(value, 'ready', 'inject', 'listen') && 'server' in (value as object),
    instead: 'await app.ready(); serve(listener, app.server)',
  },
  {
    what: 'is a Koa application',
    matches: (value) => has(value, 'callback', 'use', 'listen'),
    instead: 'serve(listener, http.createServer(app.callback()))',
  },
  {
    what: 'is an application of Express or a similar framework',
    matches: (value) => isFunction(value) && has(value, 'listen'),
    instead: 'serve(listener, http.createServer(app))',
  },
  {
    what: 'is a Hono application, or another object with a fetch method',
    matches: (value) => !isFunction(value) && has(value, 'fetch'),
    instead:
      'serve(listener, createAdaptorServer({ fetch: app.fetch })), with createAdaptorServer of @hono/node-server',
  },
  {
    // A served function is called with one argument, so a second parameter would always be undefined.
    what: 'has more than one parameter, as a (request, response) handler has, but is called with a connection only',
    matches: (value) => isFunction(value) && value.length > 1,
    instead: 'serve(listener, http.createServer(handler))',
  },
]

/**
 * @internal
 * Throws if a value cannot be served. For an application of a framework, the message contains the line to write.
 */
export function checkTarget(target: unknown): asserts target is net.Server | ConnectionHandler | SecureHandler {
  if (target === null || (typeof target !== 'object' && !isFunction(target)) || Array.isArray(target)) {
    throw invalidArgType('target', 'a net.Server or a function', target)
  }
  if (validate.isServer(target)) return
  const mistake = mistakes.find(({ matches }) => matches(target))
  if (mistake !== undefined) {
    throw invalidArg('target', `${mistake.what}. Write: ${mistake.instead}`)
  }
  if (!isFunction(target)) throw invalidArgType('target', 'a net.Server or a function', target)
}
