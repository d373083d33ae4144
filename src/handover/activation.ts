import { readlinkSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { constants } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import { Connection } from '../accept/connection.js'
import { Listener } from '../accept/listener.js'
import { type FromFdOptions, fromFdNames } from '../accept/options.js'
import { binding, type InspectedFd } from '../core/binding.js'
import { check, codedError, systemError } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { UntakenFds } from './untaken-fds.js'

/**
 * A file descriptor passed in by the service manager, inetd(8) or a parent process. It is close-on-exec and has no
 * owner until a Listener, a Connection or the caller takes ownership.
 */
export interface Activated {
  /**
   * `FileDescriptorName=` of the socket unit. Its default is the name of the socket unit, or 'connection' with
   * `Accept=yes`. For an fd from the fd store: the name given to `storeFds`. 'unknown' if `LISTEN_FDNAMES` is not set.
   */
  name: string
  fd: number
  /** 'connection': a stream or seqpacket socket that does not listen. 'fifo': also a pipe. 'file': a regular file. */
  kind: 'listener' | 'connection' | 'datagram' | 'fifo' | 'file' | 'other'
  /** The address family of a socket. */
  domain?: 'IPv4' | 'IPv6' | 'unix' | 'other'
  /** The type of a socket. */
  type?: 'stream' | 'seqpacket' | 'datagram' | 'other'
  /**
   * The local address of a socket, in the format of `net.Server.address()`: an object for IP, a path for a unix socket.
   */
  address?: AddressInfo | string
}

export interface ActivationOptions {
  /** Keep the `LISTEN_*` variables in `process.env`, so that child processes inherit them. Default: false. */
  keepEnvironment?: boolean
  /** Include fd 0, named 'stdin', if it is a stream or seqpacket socket, as passed by inetd(8). Default: false. */
  inetd?: boolean
}

// SD_LISTEN_FDS_START, sd_listen_fds(3).
const firstFd = 3

/** @internal The environment variables of sd_listen_fds(3). */
export const activationVariables = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const

let passedFds: readonly Activated[] | undefined

/**
 * Returns the sockets and other fds passed by the service manager, as sd_listen_fds_with_names(3) does; with `inetd`,
 * fd 0 too. Sets close-on-exec on them and removes the variables from `process.env`. The caller takes ownership of the
 * fds: it passes them to `Listener.fromFd`, `Connection.fromFd` or `dgram`, or closes them. Later calls return the fds
 * of the first call again.
 *
 * Returns `[]` when no fds were passed, or they were passed to another process.
 *
 * Errors: `ERR_ACTIVATION` (the variables are malformed or contradict the open fds), `ERR_ACTIVATION_THREAD` (called in
 * a worker thread). These two leave every fd and variable unchanged.
 */
export function activation(options: ActivationOptions = {}): readonly Activated[] {
  const passed = loadActivation(options)
  untakenFds?.markAllTaken()
  listTaken = true
  return passed
}

let listTaken = false

/**
 * @internal Returns the passed fds to a caller that takes copies of them and emits its own warnings. The program may
 * still take the fds.
 */
export function inheritedFds(): readonly Activated[] {
  const passed = loadActivation({})
  untakenFds?.markAllTaken()
  return passed
}

/** @internal Whether the program itself has taken a passed fd, or has the whole list. */
export const isTakenByProgram = (fd: number): boolean => listTaken || listeners.has(fd)

let untakenFds: UntakenFds | undefined

const activationNames: validate.Names<ActivationOptions> = { keepEnvironment: true, inetd: true }
const activatedListenersNames: validate.Names<ActivationOptions & FromFdOptions> = {
  ...activationNames,
  ...fromFdNames,
}

function loadActivation(options: ActivationOptions): readonly Activated[] {
  validate.options('options', options, activationNames)
  const { keepEnvironment, inetd }: ActivationOptions = options
  validate.optionalBoolean('options.keepEnvironment', keepEnvironment)
  validate.optionalBoolean('options.inetd', inetd)
  if (!isMainThread) throw codedError('ERR_ACTIVATION_THREAD')
  if (passedFds === undefined) {
    const passed = readEnvironment(process.env)
    for (const { fd } of passed) check(binding.setCloexec(fd), 'fcntl')
    if (!keepEnvironment) for (const name of activationVariables) delete process.env[name]
    passedFds = passed
    untakenFds = new UntakenFds(passed)
  }
  untakenFds?.restartTimer()
  const stdin = inetd ? describe(0, 'stdin') : undefined
  return stdin?.kind === 'listener' || stdin?.kind === 'connection' ? [stdin, ...passedFds] : passedFds
}

const listeners = new Map<number, Listener>()

/**
 * Returns the listening sockets of {@link activation} as Listeners: those named `name`, or all. Several sockets may
 * have the same name. Returns `[]` if none matches. Each Listener takes ownership of its fd. Later calls return the
 * same objects.
 *
 * Emits the process warning `ASYNC_ACCEPT_UNTAKEN_FD` if no listening socket has the name and others have not been
 * taken. Also emits it if passed fds have not been taken 1 s after the last call. A call of `activation()` suppresses
 * the warning, because the caller then has the whole list.
 *
 * Errors: those of `activation` and `Listener.fromFd`.
 *
 * @example
 * ```js
 * const listener = activatedListeners('http')[0] ?? (await Listener.listen({ port: 3000 }))
 * ```
 */
export function activatedListeners(name?: string, options: ActivationOptions & FromFdOptions = {}): Listener[] {
  validate.optionalString('name', name)
  validate.options('options', options, activatedListenersNames)
  // Copy the options first: the V8 of Node 20 reads a property twice when a rest pattern follows.
  const own: ActivationOptions & FromFdOptions = { ...options }
  const { keepEnvironment, inetd, ...listenerOptions } = own
  const all = loadActivation({ keepEnvironment, inetd }).filter((each) => each.kind === 'listener')
  const matching = all.filter((each) => name === undefined || each.name === name)
  if (name !== undefined) untakenFds?.noteRequest(name, matching.length > 0)
  return matching.map(({ fd }) => {
    const listener = listeners.get(fd) ?? Listener.fromFd(fd, listenerOptions)
    listeners.set(fd, listener)
    untakenFds?.markTaken(fd)
    return listener
  })
}

/**
 * Returns the connection for which the process was started: by a unit with `Accept=yes`, or by inetd(8) with `nowait`.
 * The Connection takes ownership of the fd. Returns undefined if there is none, and on every later call. If
 * `REMOTE_ADDR` and `REMOTE_PORT` are set (systemd.exec(5)), the peer address of the socket must match them.
 *
 * Errors: those of `activation` and `Connection.fromFd`; `ERR_ACTIVATION` if the peer address does not match.
 */
export function activatedConnection(options: ActivationOptions = {}): Connection | undefined {
  const passed = loadActivation(options).find((each) => each.kind === 'connection')
  if (passed === undefined || connectionTaken) return undefined
  checkRemote(passed.fd)
  connectionTaken = true
  untakenFds?.markTaken(passed.fd)
  return Connection.fromFd(passed.fd)
}

let connectionTaken = false

// Checks REMOTE_ADDR and REMOTE_PORT, systemd.exec(5). The address of a peer that has disconnected is unknown.
function checkRemote(fd: number): void {
  const { REMOTE_ADDR, REMOTE_PORT } = process.env
  const peer = binding.peerAddress(fd)
  if (REMOTE_ADDR === undefined || typeof peer === 'number' || peer.port === undefined) return
  const plain = (address: string) => address.replace(/^::ffff:(?=\d+\.)/, '').replace(/%.*/, '')
  if (plain(peer.address) !== plain(REMOTE_ADDR)) throw mismatch('REMOTE_ADDR', REMOTE_ADDR, peer.address)
  if (REMOTE_PORT !== undefined && String(peer.port) !== REMOTE_PORT) {
    throw mismatch('REMOTE_PORT', REMOTE_PORT, String(peer.port))
  }
}

const mismatch = (name: string, value: string, actual: string) =>
  codedError('ERR_ACTIVATION', `${name} is ${JSON.stringify(value)}, but the peer of the socket has ${actual}`)

/** @internal Reads the variables of sd_listen_fds(3) and inspects the fds. Changes neither. */
export function readEnvironment(env: NodeJS.ProcessEnv): Activated[] {
  const { LISTEN_PID, LISTEN_PIDFDID, LISTEN_FDS, LISTEN_FDNAMES } = env
  if (LISTEN_PID === undefined || LISTEN_FDS === undefined) return []
  if (decimal('LISTEN_PID', LISTEN_PID) !== process.pid) return []
  // A pid can be reused by another process; the inode number of a pidfd cannot.
  if (LISTEN_PIDFDID !== undefined && !isOwnPidfd(LISTEN_PIDFDID)) return []
  const count = decimal('LISTEN_FDS', LISTEN_FDS)
  const names = LISTEN_FDNAMES === undefined ? undefined : LISTEN_FDNAMES.split(':')
  if (count === 0) return []
  if (names !== undefined && names.length !== count) {
    throw codedError('ERR_ACTIVATION', `LISTEN_FDNAMES has ${names.length} names, but LISTEN_FDS is ${count}`)
  }
  const passed: Activated[] = []
  for (let i = 0; i < count; i++) {
    const each = describe(firstFd + i, names?.[i] ?? 'unknown')
    if (each === undefined || belongsToNode(each)) {
      throw codedError('ERR_ACTIVATION', `LISTEN_FDS is ${count}, but fd ${firstFd + i} was not passed`)
    }
    passed.push(each)
  }
  return passed
}

// Node opens its own fds after the passed ones, and the first fd that it opens is an epoll instance.
function belongsToNode({ fd, kind }: Activated): boolean {
  if (kind !== 'other') return false
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventpoll]'
  } catch {
    return false
  }
}

function isOwnPidfd(pidfdId: string): boolean {
  if (!/^\d+$/.test(pidfdId)) throw codedError('ERR_ACTIVATION', `LISTEN_PIDFDID is ${JSON.stringify(pidfdId)}`)
  const own = binding.pidfdInode()
  return typeof own === 'number' || own === pidfdId
}

function decimal(name: string, value: string): number {
  const number = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN
  if (!(number <= 2 ** 31 - 1)) throw codedError('ERR_ACTIVATION', `${name} is ${JSON.stringify(value.slice(0, 64))}`)
  return number
}

/** Describes an fd; undefined if it is not open. */
function describe(fd: number, name: string): Activated | undefined {
  const inspected = binding.inspect(fd)
  if (inspected === -constants.errno.EBADF) return undefined
  if (typeof inspected === 'number') throw systemError('statx', inspected)
  if (inspected.kind !== 'socket') return { name, fd, kind: inspected.kind }
  const type = typeName(inspected)
  const activated: Activated = { name, fd, kind: kindOf(inspected, type), domain: domainName(inspected), type }
  const local = binding.localAddress(fd)
  // The addresses of vsock, netlink and other families are not parsed.
  if (typeof local !== 'number' && activated.domain !== 'other') {
    const { address, port, family } = local
    activated.address = port === undefined ? address : ({ address, port, family } as AddressInfo)
  }
  return activated
}

function kindOf({ listening }: InspectedFd, type: Activated['type']): Activated['kind'] {
  if (type === 'datagram') return 'datagram'
  if (type === 'other') return 'other'
  return listening ? 'listener' : 'connection'
}

function typeName({ type }: InspectedFd): 'stream' | 'seqpacket' | 'datagram' | 'other' {
  const { SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM } = binding.constants
  if (type === SOCK_STREAM) return 'stream'
  if (type === SOCK_SEQPACKET) return 'seqpacket'
  return type === SOCK_DGRAM ? 'datagram' : 'other'
}

function domainName({ domain }: InspectedFd): 'IPv4' | 'IPv6' | 'unix' | 'other' {
  const { AF_INET, AF_INET6, AF_UNIX } = binding.constants
  if (domain === AF_INET) return 'IPv4'
  if (domain === AF_INET6) return 'IPv6'
  return domain === AF_UNIX ? 'unix' : 'other'
}
