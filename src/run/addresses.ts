import { unlinkSync } from 'node:fs'
import { basename } from 'node:path'
import { textOf } from '../accept/bound-address.js'
import { Listener } from '../accept/listener.js'
import type { ListenOptions } from '../accept/options.js'
import { activatedListeners, activation } from '../handover/activation.js'
import type { Named } from '../handover/spawn-activated.js'
import type { SocketStatus } from './control-protocol.js'

/** An address to listen on, from the option `-l`. */
export interface Address {
  name: string
  options: ListenOptions
}

// systemd allows every printable ASCII character but ':' in names (fdname_is_valid).
const named = /^(?:(?<name>[ -9;-<>-~]{1,255})=)?(?<address>.+)$/
const ipAddress = /^(?:(?:\[(?<ipv6>[^\]]+)\]|(?<host>[^:]+)):)?(?<port>\d{1,5})$/

/** Reads `[name=]address`: a port, `host:port`, `[ipv6]:port`, a path or `@abstract-name`. */
export function parseAddress(text: string): { value: Address } | { expected: string } {
  const expected = '[name=]address: 3000, 127.0.0.1:3000, [::1]:3000, /run/app.sock or @name'
  const { name, address = '' } = named.exec(text)?.groups ?? {}
  if (/^[./@]./.test(address)) {
    const path = address.replace(/^@/, '\0')
    return { value: { name: name ?? (basename(address).replaceAll(/[^ -9;-~]/g, '-') || 'path'), options: { path } } }
  }
  const { ipv6, host = ipv6, port } = ipAddress.exec(address)?.groups ?? {}
  if (port === undefined || Number(port) > 65535) return { expected }
  return { value: { name: name ?? String(Number(port)), options: { host, port: Number(port) } } }
}

/** The listening sockets of the supervisor and their names, in order. They stay open until it ends. */
export class Sockets {
  readonly named: Named
  /** Those that this process has bound. */
  readonly bound: Named
  readonly #addresses: readonly string[]
  /** Whether `close` leaves the paths: the service manager has stored the sockets. */
  keepPaths = false

  /**
   * Takes the sockets that the service manager has passed, and binds the others. A passed socket wins over an address of
   * the same name. Errors: those of `activation` and `Listener.listen`.
   */
  static async open(addresses: readonly Address[]): Promise<Sockets> {
    const names = new Set(activation().flatMap(({ kind, name }) => (kind === 'listener' ? [name] : [])))
    const passed = [...names].flatMap((name) => activatedListeners(name).map((each) => [name, each] as const))
    const bound: [string, Listener][] = []
    for (const { name, options } of addresses) {
      if (names.has(name)) continue
      const listener = await Listener.listen({ ...options, unlinkStale: isFile(options.path) || undefined })
      bound.push([name, listener])
    }
    return new Sockets(passed, bound)
  }

  private constructor(passed: Named, bound: Named) {
    this.named = [...passed, ...bound]
    this.bound = bound
    this.#addresses = this.named.map(([, listener]) => textOf(listener.address() as never))
  }

  /** The name and the address of each socket, as text, and the number of clients in its accept queue. */
  get all(): SocketStatus[] {
    return this.named.map(([name, listener], i) => ({
      name,
      address: this.#addresses[i] as string,
      queued: queuedAt(listener),
    }))
  }

  /** Closes the sockets, and removes the paths of those that this process has bound. */
  close(): void {
    if (!this.keepPaths) for (const [, listener] of this.bound) removePath(listener.address() as string)
    for (const [, listener] of this.named) listener.close()
  }
}

// For a unix socket, a kernel without CONFIG_UNIX_DIAG does not tell. A closed listener has no queue.
function queuedAt(listener: Listener): number | undefined {
  try {
    return listener.backlog().queued
  } catch {
    return undefined
  }
}

const isFile = (path: unknown) => typeof path === 'string' && !path.startsWith('\0')

// The path belongs to the workers, too, so that close() does not remove it.
function removePath(path: unknown): void {
  if (!isFile(path)) return
  try {
    unlinkSync(path as string)
  } catch {
    // It was removed already.
  }
}
