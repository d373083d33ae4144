import net from 'node:net'
import { longestTimer } from '../core/deadline.js'

/** The settings of the preload, from environment variables. An empty variable counts as not set. */
export interface Settings {
  /** The names of inherited sockets, by the port or path that the program listens on (`ASYNC_ACCEPT_INHERIT`). */
  map: ReadonlyMap<string, string>
  /** The maximum number of open connections of each server. */
  maxConnections: number | undefined
  proxyProtocol: 'require' | 'optional' | undefined
  trust: readonly string[] | undefined
  /** ms */
  drainTimeout: number
  /** ms */
  idleTimeout: number | undefined
  /** Whether READY=1, STOPPING=1 and WATCHDOG=1 are sent. */
  notify: boolean
}

const defaultDrainTimeout = 30_000

/** Throws an error whose message is one line for the operator. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  const proxyProtocol = read(env, 'ASYNC_ACCEPT_PROXY_PROTOCOL', oneOf('require', 'optional'))
  const trust = read(env, 'ASYNC_ACCEPT_TRUST', networkList)
  if (proxyProtocol !== undefined && trust === undefined) {
    throw new Error('ASYNC_ACCEPT_PROXY_PROTOCOL needs ASYNC_ACCEPT_TRUST, the addresses of the trusted proxies')
  }
  return {
    map: read(env, 'ASYNC_ACCEPT_INHERIT', nameMap) ?? new Map(),
    maxConnections: read(env, 'ASYNC_ACCEPT_MAX_CONNECTIONS', positiveInteger),
    proxyProtocol,
    trust,
    drainTimeout: read(env, 'ASYNC_ACCEPT_DRAIN_TIMEOUT', seconds(0)) ?? defaultDrainTimeout,
    idleTimeout: read(env, 'ASYNC_ACCEPT_IDLE_TIMEOUT', seconds(1)),
    notify: read(env, 'ASYNC_ACCEPT_NOTIFY', oneOf('on', 'off')) !== 'off',
  }
}

/** Returns the value that a text stands for, or what the text must be. */
export type Parse<T> = (text: string) => { value: T } | { expected: string }

function read<T>(env: NodeJS.ProcessEnv, name: string, parse: Parse<T>): T | undefined {
  const text = env[name]
  if (text === undefined || text === '') return undefined
  const parsed = parse(text)
  if ('value' in parsed) return parsed.value
  throw new Error(`${name} is ${JSON.stringify(text.slice(0, 128))}, but must be ${parsed.expected}`)
}

const oneOf =
  <const Name extends string>(...names: Name[]): Parse<Name> =>
  (text) => {
    const value = names.find((name) => name === text)
    return value === undefined ? { expected: names.join(' or ') } : { value }
  }

export const positiveInteger: Parse<number> = (text) =>
  /^[1-9]\d{0,14}$/.test(text) ? { value: Number(text) } : { expected: 'an integer of at least 1' }

/** A number of seconds that is at least `least` ms. The value is in ms. */
export const seconds =
  (least: number): Parse<number> =>
  (text) => {
    const value = Math.round(Number(text) * 1000)
    return /^\d{1,10}(\.\d{1,9})?$/.test(text) && value >= least && value <= longestTimer
      ? { value }
      : { expected: `a number of seconds from ${least / 1000} to ${Math.floor(longestTimer / 1000)}` }
  }

const networkList: Parse<readonly string[]> = (text) => {
  const value = text.split(',').map((each) => each.trim())
  return value.every(isNetwork)
    ? { value }
    : { expected: 'IP addresses and networks such as 10.0.0.0/8, separated by commas' }
}

function isNetwork(text: string): boolean {
  const [, address = '', prefix = '0'] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const version = net.isIP(address)
  return version !== 0 && Number(prefix) <= (version === 4 ? 32 : 128)
}

// A port, or a path, and the name of the sockets. systemd allows '=' in names, but not ':' (fdname_is_valid).
const mapEntry = /^(?:(?<port>\d{1,5})|(?<path>[/@.][^=]*))=(?<name>[ -9;-~]{1,255})$/

const nameMap: Parse<ReadonlyMap<string, string>> = (text) => {
  const value = new Map<string, string>()
  for (const entry of text.split(',')) {
    const { port, path, name } = mapEntry.exec(entry.trim())?.groups ?? {}
    const key = port === undefined ? path : String(Number(port))
    const isPort = port === undefined || (Number(port) > 0 && Number(port) < 65536)
    if (key === undefined || name === undefined || !isPort || value.has(key)) {
      return {
        expected: 'a list such as 3000=web,/run/app.sock=admin: each port or path once, and the name of its sockets',
      }
    }
    value.set(key, name)
  }
  return { value }
}
