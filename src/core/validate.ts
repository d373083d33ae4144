import type net from 'node:net'
import type tls from 'node:tls'
import { invalidArg, invalidArgType, invalidArgValue, outOfRange, withCode } from './errors.js'

export function object(name: string, value: unknown): asserts value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidArgType(name, 'an object', value)
  }
}

/** The known names of an options object. TypeScript reports a name that is missing here. */
export type Names<Options> = { readonly [Name in keyof Options]-?: true }

/**
 * Checks that a value is an object all of whose names are known. Names are own and inherited enumerable strings, as
 * options may be inherited. Names in `Object.prototype` do not count. A name counts even if its value is undefined,
 * and no value is read.
 */
export function options<Options extends object>(
  name: string,
  value: Options,
  known: Names<Options>,
  what = 'option',
): asserts value is Options & Record<string, unknown> {
  object(name, value)
  for (const key in value) {
    if (Object.hasOwn(known, key) || isInRootPrototype(value, key)) continue
    throw unknownName(name, what, key, Object.keys(known))
  }
}

// Object.prototype may be that of another realm, so it is recognised by its place: it has no prototype itself.
function isInRootPrototype(value: object, key: string): boolean {
  let owner: object | null = value
  while (owner !== null && !Object.hasOwn(owner, key)) owner = Object.getPrototypeOf(owner)
  return owner !== null && owner !== value && Object.getPrototypeOf(owner) === null
}

function unknownName(name: string, what: string, key: string, known: readonly string[]): Error {
  const nearest = nearestName(key, known)
  const quoted = known.map((each) => `'${each}'`).join(', ')
  const hint = nearest === undefined ? `the known ones are: ${quoted}` : `did you mean '${nearest}'?`
  return invalidArg(name, `has an unknown ${what} '${key}'; ${hint}`)
}

/** Returns the known name that differs from `wrong` in the fewest characters; undefined if none is similar. */
function nearestName(wrong: string, known: readonly string[]): string | undefined {
  // The distance is at least the difference of the lengths, so a very long name is not compared.
  let best = Math.max(1, Math.floor(Math.min(wrong.length, 64) / 3)) + 1
  let nearest: string | undefined
  for (const name of known) {
    if (Math.abs(name.length - wrong.length) >= best) continue
    const found = distance(wrong.toLowerCase(), name.toLowerCase())
    if (found < best) {
      best = found
      nearest = name
    }
  }
  return nearest
}

// The number of characters to insert, delete, replace or exchange with their neighbour.
function distance(a: string, b: string): number {
  let before: number[] = []
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      let least = Math.min(replaced, (previous[j] as number) + 1, (row[j - 1] as number) + 1)
      const exchanged = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (exchanged) least = Math.min(least, (before[j - 2] as number) + 1)
      row.push(least)
    }
    before = previous
    previous = row
  }
  return previous[b.length] as number
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
  const expected = `one of: ${allowed.map((each) => `'${each}'`).join(', ')}`
  if (typeof value !== 'string') throw invalidArgType(name, expected, value)
  if (!allowed.includes(value)) throw invalidArgValue(name, `must be ${expected}`, value)
}

/** Checks a maximum number, which may be `Infinity`. */
export function limit(name: string, value: unknown): void {
  if (value !== Number.POSITIVE_INFINITY) integer(name, value, 0, Number.MAX_SAFE_INTEGER)
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
