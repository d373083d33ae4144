import type net from 'node:net'
import type tls from 'node:tls'
import { invalidArgType, invalidArgValue, outOfRange, withCode } from './errors.js'

export function object(name: string, value: unknown): asserts value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidArgType(name, 'an object', value)
  }
}

export function optionalBoolean(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'boolean') throw invalidArgType(name, 'of type boolean', value)
}

export function optionalString(name: string, value: unknown): asserts value is string | undefined {
  if (value === undefined) return
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (value === '') throw invalidArgValue(name, 'must not be empty', value)
}

export function integer(name: string, value: unknown, min: number, max: number): void {
  if (typeof value !== 'number') throw invalidArgType(name, 'of type number', value)
  if (!Number.isInteger(value)) throw outOfRange(name, 'an integer', value)
  if (value < min || value > max) throw outOfRange(name, `>= ${min} && <= ${max}`, value)
}

export function optionalInteger(name: string, value: unknown, min: number, max: number): void {
  if (value !== undefined) integer(name, value, min, max)
}

export function optionalOneOf(name: string, value: unknown, allowed: readonly string[]): void {
  if (value === undefined) return
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (!allowed.includes(value)) {
    throw invalidArgValue(name, `must be one of: ${allowed.map((each) => `'${each}'`).join(', ')}`, value)
  }
}

export function fd(name: string, value: unknown): asserts value is number {
  integer(name, value, 0, 2 ** 31 - 1)
}

export function port(name: string, value: unknown): asserts value is number {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof number !== 'number') throw invalidArgType(name, 'of type number', value)
  if (!Number.isInteger(number) || number < 0 || number > 65535) {
    throw withCode(
      new RangeError(`${name} should be >= 0 and < 65536. Received ${String(value)}.`),
      'ERR_SOCKET_BAD_PORT',
    )
  }
}

export function optionalSignal(name: string, value: unknown): asserts value is AbortSignal | undefined {
  if (value === undefined) return
  // Signals come from other realms too, so it is not asked what they are but what they have; Node asks for `aborted`
  // alone. Without the methods it would fail when the request is made already.
  const { addEventListener, removeEventListener } = (value ?? {}) as Partial<AbortSignal>
  const listens = typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  if (typeof value !== 'object' || value === null || !('aborted' in value) || !listens) {
    throw invalidArgType(name, 'an instance of AbortSignal', value)
  }
}

const has = (value: unknown, methods: readonly string[]): boolean =>
  typeof value === 'object' &&
  value !== null &&
  methods.every((name) => typeof (value as Record<string, unknown>)[name] === 'function')

/**
 * Whether it has the methods of a `net.Server`. Not asked by `instanceof`: a tracer may have put a class of its own in the
 * place of `net.Server`, of which the servers of `node:http` are no instances.
 */
export function isServer(value: unknown): value is net.Server {
  return has(value, ['on', 'listen', 'close', 'address', 'getConnections'])
}

/** The same for a `tls.Server`, as those of `node:https` and the secure one of `node:http2` are. */
export function isTlsServer(value: unknown): value is tls.Server {
  return isServer(value) && has(value, ['addContext', 'setSecureContext'])
}

/** The same for a `net.BlockList`. */
export function isBlockList(value: unknown): value is net.BlockList {
  return has(value, ['check', 'addAddress', 'addSubnet'])
}

/** What systemd takes for the name of an fd: fdname_is_valid of its sources. */
export function fdName(name: string, value: unknown): asserts value is string {
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (!/^[ -9;-~]{1,255}$/.test(value)) {
    throw invalidArgValue(name, "must be 1 to 255 printable ASCII characters, without ':'", value)
  }
}

/** A timeout in ms, for the native layer: a whole number, negative for none. */
export function timeout(name: string, value: unknown): number {
  if (typeof value !== 'number') throw invalidArgType(name, 'of type number', value)
  if (Number.isNaN(value)) throw outOfRange(name, 'a number of milliseconds', value)
  if (value < 0 || value === Number.POSITIVE_INFINITY) return -1
  if (value > Number.MAX_SAFE_INTEGER) throw outOfRange(name, `<= ${Number.MAX_SAFE_INTEGER}`, value)
  return Math.ceil(value)
}
