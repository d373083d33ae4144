import type net from 'node:net'
import { constants } from 'node:os'
import { type BoundAddress, textOf } from '../accept/bound-address.js'
import { Listener } from '../accept/listener.js'
import { binding } from '../core/binding.js'
import { check, systemError } from '../core/errors.js'
import { type Activated, inheritedFds, isTakenByProgram, readEnvironment } from '../handover/activation.js'
import type { ServeOptions } from '../serve/options.js'
import { serve } from '../serve/serve.js'
import type { Serving } from '../serve/serving.js'
import { type Asked, fileAt, isExactly, isWithin, mapKey, type SocketAddress } from './asked-address.js'
import type { Settings } from './settings.js'

/** An inherited listening socket that a net.Server can use. */
export interface InheritedSocket extends SocketAddress {
  readonly name: string
  /** The number of the passed fd. The program may close it or take it. */
  readonly passedFd: number
  /** A copy of the passed fd, which stays open. So a server can be closed and listen again. */
  readonly fd: number
  /** The file of a unix socket; undefined if this process does not see it, as in another mount namespace. */
  readonly file: string | undefined
  /** The last Serving on the socket. */
  serving: Serving | undefined
  /** Whether the program has listened on the passed fd by its number. */
  taken: boolean
}

/** Describes a socket in messages. */
export function describeSocket(socket: InheritedSocket): string {
  const { name, passedFd, address } = socket
  return `'${name}' (fd ${passedFd}, ${textOf(address)}${isRemoved(socket) ? ', which was removed' : ''})`
}

export class InheritedSockets {
  readonly all: readonly InheritedSocket[]
  readonly #map: ReadonlyMap<string, string>
  readonly #options: ServeOptions
  readonly #servings = new Set<Serving>()

  /**
   * Returns undefined, and changes nothing, if no listening socket was passed. Throws for an invalid map, and the errors
   * of activation().
   */
  static open(settings: Settings): InheritedSockets | undefined {
    const passed = readEnvironment(process.env).filter(isServable)
    for (const name of settings.map.values()) {
      if (!passed.some((each) => each.name === name)) throw unknownName(name, passed)
    }
    if (passed.length === 0) return undefined
    return new InheritedSockets(inheritedFds().filter(isServable), settings)
  }

  private constructor(passed: readonly Activated[], { map, maxConnections, proxyProtocol, trust }: Settings) {
    this.#map = map
    this.#options = { maxConnections, proxyProtocol, trust } as ServeOptions
    this.all = passed.map(({ name, fd, address, domain }) => ({
      name,
      passedFd: fd,
      fd: check(binding.duplicate(fd), 'fcntl', { fd }),
      address: address as BoundAddress,
      dualStack: domain === 'IPv6' && !isIpv6Only(fd),
      file: pathFile(address),
      serving: undefined,
      taken: false,
    }))
  }

  /** The servings whose connections have not all ended. */
  get servings(): readonly Serving[] {
    return [...this.#servings]
  }

  /** The sockets that no server has listened on, and that the program has not taken in another way. */
  get unserved(): readonly InheritedSocket[] {
    return this.all.filter((each) => each.serving === undefined && !isTaken(each))
  }

  /** Whether the program has taken a socket in another way. The connections on such a socket are unknown. */
  get someTaken(): boolean {
    return this.all.some(isTaken)
  }

  /** Notes that the program listens on a passed fd by its number. */
  markTaken(passedFd: number): void {
    for (const socket of this.all) if (socket.passedFd === passedFd) socket.taken = true
  }

  /**
   * Makes a server listen on the sockets that match. Returns undefined if none does, and the error `EADDRINUSE` if
   * another server listens on one of them. Does not throw.
   */
  serve(server: net.Server, asked: Asked): true | Error | undefined {
    const sockets = this.#matching(asked)
    if (sockets.length === 0) return undefined
    if (sockets.some(isInUse)) return systemError('listen', -constants.errno.EADDRINUSE)
    const listeners: Listener[] = []
    try {
      for (const { fd } of sockets) listeners.push(Listener.fromFd(fd, { dup: true }))
      const serving = serve(listeners, server, this.#options)
      this.#track(serving)
      for (const socket of sockets) socket.serving = serving
      return true
    } catch (error) {
      for (const listener of listeners) listener.close()
      return error as Error
    }
  }

  #matching(asked: Asked): InheritedSocket[] {
    const name = this.#map.get(mapKey(asked))
    if (name !== undefined) return this.all.filter((each) => each.name === name)
    const matching = this.all.filter((each) => isWithin(each, asked) && !isRemoved(each))
    // address() of the server is that of the first.
    return matching.sort((a, b) => Number(isExactly(b, asked)) - Number(isExactly(a, asked)))
  }

  #track(serving: Serving): void {
    this.#servings.add(serving)
    // Emitted if accept(2) fails permanently after the server was closed. net.Server emits nothing then.
    serving.on('error', () => {})
    serving.once('close', () => {
      this.#servings.delete(serving)
      // They are still open if the server was moved to a thread.
      for (const listener of serving.servedListeners) listener.close()
    })
  }
}

const isServable = ({ kind, type, address, domain }: Activated) =>
  kind === 'listener' && type === 'stream' && address !== undefined && domain !== 'other'

const isTaken = ({ taken, passedFd }: InheritedSocket) => taken || isTakenByProgram(passedFd)

// Many programs remove the path before they listen, because it may be that of an earlier process. Then no client can
// connect to the inherited socket.
const isRemoved = ({ file, address }: InheritedSocket) => file !== undefined && pathFile(address) !== file

const pathFile = (address: Activated['address']) => (typeof address === 'string' ? fileAt(address) : undefined)

// A server can listen again as soon as it was closed, while its connections are still open.
function isInUse({ serving }: InheritedSocket): boolean {
  return serving !== undefined && (serving.state === 'serving' || serving.state === 'draining')
}

function isIpv6Only(fd: number): boolean {
  const { IPPROTO_IPV6, IPV6_V6ONLY } = binding.constants
  return binding.getOption(fd, IPPROTO_IPV6 as number, IPV6_V6ONLY as number) === 1
}

function unknownName(name: string, passed: readonly Activated[]): Error {
  const names = [...new Set(passed.map((each) => `'${each.name}'`))].join(', ')
  const known = names === '' ? 'none was passed' : `the names of those that were passed: ${names}`
  return new Error(`ASYNC_ACCEPT_INHERIT names '${name}', but no listening stream socket has this name; ${known}`)
}
