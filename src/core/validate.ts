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

export function optionalFunction(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'function') throw invalidArgType(name, 'of type function', value)
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
  // A signal may come from another realm, so its members are checked rather than its class. Node checks only `aborted`.
  // Without this check, a missing method would cause a failure after the request has been made.
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
 * Returns whether a value has the methods of a `net.Server`. `instanceof` would fail if a tracer has replaced
 * `net.Server` with its own class: servers of `node:http` are not instances of that class.
 */
export function isServer(value: unknown): value is net.Server {
  return has(value, ['on', 'listen', 'close', 'address', 'getConnections'])
}

/** Returns whether a value has the methods of a `tls.Server`. `https.Server` and `Http2SecureServer` have them. */
export function isTlsServer(value: unknown): value is tls.Server {
  return isServer(value) && has(value, ['addContext', 'setSecureContext'])
}

/** Returns whether a value has the methods of a `net.BlockList`. */
export function isBlockList(value: unknown): value is net.BlockList {
  return has(value, ['check', 'addAddress', 'addSubnet'])
}

/** Checks the name of an fd by systemd's rules (`fdname_is_valid` in its sources). */
export function fdName(name: string, value: unknown): asserts value is string {
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (!/^[ -9;-~]{1,255}$/.test(value)) {
    throw invalidArgValue(name, "must be 1 to 255 printable ASCII characters, without ':'", value)
  }
}

/** Returns a timeout in ms for the native layer: a whole number, or -1 for no timeout. */
export function timeout(name: string, value: unknown): number {
  if (typeof value !== 'number') throw invalidArgType(name, 'of type number', value)
  if (Number.isNaN(value)) throw outOfRange(name, 'a number of milliseconds', value)
  if (value < 0 || value === Number.POSITIVE_INFINITY) return -1
  if (value > Number.MAX_SAFE_INTEGER) throw outOfRange(name, `<= ${Number.MAX_SAFE_INTEGER}`, value)
  return Math.ceil(value)
}
