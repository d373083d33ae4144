import type net from 'node:net'
import { longestTimer } from '../core/deadline.js'
import { networks } from '../peek/proxied.js'
import { pathKey } from './asked-address.js'

/** The settings of the preload, from environment variables. An empty variable counts as not set. */
export interface Settings {
  /** The names of inherited sockets, by the port or path that the program listens on (`ASYNC_ACCEPT_INHERIT`). */
  map: ReadonlyMap<string, string>
  /** The maximum number of open connections of each server. */
  maxConnections: number | undefined
  proxyProtocol: 'require' | 'optional' | undefined
  trust: net.BlockList | undefined
  /** ms */
  drainTimeout: number
  /** ms */
  idleTimeout: number | undefined
  /** Whether READY=1, STOPPING=1 and WATCHDOG=1 are sent. */
  notify: boolean
}

const defaultDrainTimeout = 30_000

const variables = [
  'ASYNC_ACCEPT_INHERIT',
  'ASYNC_ACCEPT_MAX_CONNECTIONS',
  'ASYNC_ACCEPT_PROXY_PROTOCOL',
  'ASYNC_ACCEPT_TRUST',
  'ASYNC_ACCEPT_DRAIN_TIMEOUT',
  'ASYNC_ACCEPT_IDLE_TIMEOUT',
  'ASYNC_ACCEPT_NOTIFY',
] as const

// They are read elsewhere: by load-addon.ts and by the commands of `async-accept`.
const variablesOfOthers = ['ASYNC_ACCEPT_ADDON', 'ASYNC_ACCEPT_RUN_DIRECTORY']

/** Throws an error whose message is one line for the operator. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  refuseUnknown(env)
  const proxyProtocol = read(env, 'ASYNC_ACCEPT_PROXY_PROTOCOL', proxyProtocolMode)
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

// A limit whose name is misspelled would not be applied.
function refuseUnknown(env: NodeJS.ProcessEnv): void {
  const known: readonly string[] = [...variables, ...variablesOfOthers]
  // NODE_OPTIONS may load this preload before that of `async-accept run`, which reads and removes ASYNC_ACCEPT_WORKER.
  const isOurs = (name: string) => name.startsWith('ASYNC_ACCEPT_') && name !== 'ASYNC_ACCEPT_WORKER'
  const isUnknown = (name: string) => isOurs(name) && env[name] !== '' && !known.includes(name)
  const unknown = Object.keys(env).find(isUnknown)
  if (unknown === undefined) return
  throw new Error(`unknown variable ${JSON.stringify(unknown.slice(0, 128))}; the settings are ${known.join(', ')}`)
}

/** Returns the value that a text stands for, or what the text must be. */
export type Parse<T> = (text: string) => { value: T } | { expected: string }

function read<T>(env: NodeJS.ProcessEnv, name: (typeof variables)[number], parse: Parse<T>): T | undefined {
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

export const proxyProtocolMode = oneOf('require', 'optional')

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

export const networkList: Parse<net.BlockList> = (text) => {
  const list = text.split(',').map((each) => each.trim())
  try {
    return { value: networks('ASYNC_ACCEPT_TRUST', list) }
  } catch {
    return { expected: 'IP addresses and networks such as 10.0.0.0/8, separated by commas' }
  }
}

// A port, or a path, and the name of the sockets. systemd allows '=' in names, but not ':' (fdname_is_valid).
const mapEntry = /^(?:(?<port>\d{1,5})|(?<path>[/@.][^=]*))=(?<name>[ -9;-~]{1,255})$/

const portKey = (port: number) => (port > 0 && port < 65536 ? String(port) : undefined)

const nameMap: Parse<ReadonlyMap<string, string>> = (text) => {
  const value = new Map<string, string>()
  for (const entry of text.split(',')) {
    const { port, path, name } = mapEntry.exec(entry.trim())?.groups ?? {}
    const key = path === undefined ? portKey(Number(port)) : pathKey(path)
    if (key === undefined || name === undefined || value.has(key)) {
      return {
        expected: 'a list such as 3000=web,/run/app.sock=admin: each port or path once, and the name of its sockets',
      }
    }
    value.set(key, name)
  }
  return { value }
}
