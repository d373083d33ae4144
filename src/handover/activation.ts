import { readlinkSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { constants } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import { Connection } from '../accept/connection.js'
import { Listener } from '../accept/listener.js'
import type { FromFdOptions } from '../accept/options.js'
import { binding, type InspectedFd } from '../core/binding.js'
import { check, codedError, systemError } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { UntakenFds } from './untaken-fds.js'

/** An fd that was open when the process began, and what it is. It is close-on-exec, and nobody's until it is taken. */
export interface Activated {
  /** `FileDescriptorName=` of the unit; that of the socket unit, or 'connection', if it has none. 'unknown' without names. */
  name: string
  fd: number
  /** A listening socket, a connected one, a datagram socket, a pipe or FIFO, a regular file, or anything else. */
  kind: 'listener' | 'connection' | 'datagram' | 'fifo' | 'file' | 'other'
  /** Of a socket: its address family. */
  domain?: 'IPv4' | 'IPv6' | 'unix' | 'other'
  /** Of a socket. */
  type?: 'stream' | 'seqpacket' | 'datagram' | 'other'
  /** Of a socket: where it is bound, as `net.Server` has it. */
  address?: AddressInfo | string
}

export interface ActivationOptions {
  /** Leave the variables in `process.env`, for children that are to find them. Default: false. */
  keepEnvironment?: boolean
  /** Take fd 0 for one too, by the name of 'stdin', if it is a socket: what inetd(8) does. Default: false. */
  inetd?: boolean
}

// SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstFd = 3

/** What sd_listen_fds(3) reads. */
export const activationVariables = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const

let found: readonly Activated[] | undefined

/**
 * The sockets, and other fds, that were here before us: the protocol of sd_listen_fds_with_names(3), and with `inetd` fd 0.
 * They become close-on-exec, and the variables are removed from `process.env`. The fds are the caller's, who takes them
 * with `Listener.fromFd` or `Connection.fromFd`, or for a datagram socket with `dgram`. Later calls give the same.
 *
 * `[]` when there are none, or they are for another process. Errors, after which every fd and variable is as before:
 * `ERR_ACTIVATION`, `ERR_ACTIVATION_THREAD`.
 */
export function activation(options: ActivationOptions = {}): readonly Activated[] {
  const passed = read(options)
  untaken?.listed()
  return passed
}

let untaken: UntakenFds | undefined

function read(options: ActivationOptions): readonly Activated[] {
  validate.object('options', options)
  const { keepEnvironment, inetd }: ActivationOptions = options
  validate.optionalBoolean('options.keepEnvironment', keepEnvironment)
  validate.optionalBoolean('options.inetd', inetd)
  if (!isMainThread) throw codedError('ERR_ACTIVATION_THREAD')
  if (found === undefined) {
    const passed = readEnvironment(process.env)
    for (const { fd } of passed) check(binding.setCloexec(fd), 'fcntl')
    if (!keepEnvironment) for (const name of activationVariables) delete process.env[name]
    found = passed
    untaken = new UntakenFds(passed)
  }
  untaken?.wait()
  const stdin = inetd ? describe(0, 'stdin') : undefined
  return stdin?.kind === 'listener' || stdin?.kind === 'connection' ? [stdin, ...found] : found
}

const listeners = new Map<number, Listener>()

/**
 * Those of {@link activation} that listen, of one name or all, as Listeners. One name may stand for several sockets.
 * Later calls give the same objects.
 *
 * A process warning, `ASYNC_ACCEPT_UNTAKEN_FD`, names what was passed when no socket has the name, and 1 s after the last
 * call what has not been taken. There is none after a call of `activation`, which gives the whole list.
 *
 * Errors: as of `activation` and `Listener.fromFd`.
 */
export function activatedListeners(name?: string, options: ActivationOptions & FromFdOptions = {}): Listener[] {
  validate.optionalString('name', name)
  validate.object('options', options)
  // A copy first: the V8 of Node 20 reads all of them again for the rest.
  const own: ActivationOptions & FromFdOptions = { ...options }
  const { keepEnvironment, inetd, ...listenerOptions } = own
  const all = read({ keepEnvironment, inetd }).filter((each) => each.kind === 'listener')
  const wanted = all.filter((each) => name === undefined || each.name === name)
  if (name !== undefined) untaken?.asked(name, wanted.length > 0)
  return wanted.map(({ fd }) => {
    const listener = listeners.get(fd) ?? Listener.fromFd(fd, listenerOptions)
    listeners.set(fd, listener)
    untaken?.took(fd)
    return listener
  })
}

/**
 * The connection of a unit with `Accept=yes`, or of inetd(8) with `nowait`; undefined when there is none. Gives it once. Where
 * the environment says who connected (`REMOTE_ADDR`, `REMOTE_PORT`), the socket must say the same.
 *
 * Errors: as of `activation` and `Connection.fromFd`; `ERR_ACTIVATION` when they disagree.
 */
export function activatedConnection(options: ActivationOptions = {}): Connection | undefined {
  const passed = read(options).find((each) => each.kind === 'connection')
  if (passed === undefined || connectionTaken) return undefined
  checkRemote(passed.fd)
  connectionTaken = true
  untaken?.took(passed.fd)
  return Connection.fromFd(passed.fd)
}

let connectionTaken = false

// REMOTE_ADDR and REMOTE_PORT of systemd.exec(5). A peer that has gone already says nothing any more.
function checkRemote(fd: number): void {
  const { REMOTE_ADDR, REMOTE_PORT } = process.env
  const peer = binding.peerAddress(fd)
  if (REMOTE_ADDR === undefined || typeof peer === 'number' || peer.port === undefined) return
  const plain = (address: string) => address.replace(/^::ffff:(?=\d+\.)/, '').replace(/%.*/, '')
  if (plain(peer.address) !== plain(REMOTE_ADDR)) throw malformed('REMOTE_ADDR', REMOTE_ADDR, peer.address)
  if (REMOTE_PORT !== undefined && String(peer.port) !== REMOTE_PORT) {
    throw malformed('REMOTE_PORT', REMOTE_PORT, String(peer.port))
  }
}

const malformed = (name: string, value: string, actual: string) =>
  codedError('ERR_ACTIVATION', `${name} is ${JSON.stringify(value)}, and the socket says ${actual}`)

/** Reads what a service manager has put into the environment; changes nothing. */
export function readEnvironment(env: NodeJS.ProcessEnv): Activated[] {
  const { LISTEN_PID, LISTEN_PIDFDID, LISTEN_FDS, LISTEN_FDNAMES } = env
  if (LISTEN_PID === undefined || LISTEN_FDS === undefined) return []
  if (decimal('LISTEN_PID', LISTEN_PID) !== process.pid) return []
  // A pid may be another process' by now, the inode of a pidfd never is.
  if (LISTEN_PIDFDID !== undefined && !isOurs(LISTEN_PIDFDID)) return []
  const count = decimal('LISTEN_FDS', LISTEN_FDS)
  const names = LISTEN_FDNAMES === undefined ? undefined : LISTEN_FDNAMES.split(':')
  if (count === 0) return []
  if (names !== undefined && names.length !== count) {
    throw codedError('ERR_ACTIVATION', `LISTEN_FDNAMES has ${names.length} names for ${count} fds`)
  }
  const passed: Activated[] = []
  for (let i = 0; i < count; i++) {
    const each = describe(firstFd + i, names?.[i] ?? 'unknown')
    if (each === undefined || isNodes(each)) {
      throw codedError('ERR_ACTIVATION', `LISTEN_FDS is ${count}, but fd ${firstFd + i} was not passed`)
    }
    passed.push(each)
  }
  return passed
}

// What Node opens for itself takes the numbers behind those that were passed, and begins with an epoll instance.
function isNodes({ fd, kind }: Activated): boolean {
  if (kind !== 'other') return false
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventpoll]'
  } catch {
    return false
  }
}

function isOurs(pidfdId: string): boolean {
  if (!/^\d+$/.test(pidfdId)) throw codedError('ERR_ACTIVATION', `LISTEN_PIDFDID is ${JSON.stringify(pidfdId)}`)
  const own = binding.pidfdInode()
  return typeof own === 'number' || own === pidfdId
}

function decimal(name: string, value: string): number {
  const number = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN
  if (!(number <= 2 ** 31 - 1)) throw codedError('ERR_ACTIVATION', `${name} is ${JSON.stringify(value.slice(0, 64))}`)
  return number
}

/** Undefined when it is not open. */
function describe(fd: number, name: string): Activated | undefined {
  const inspected = binding.inspect(fd)
  if (inspected === -constants.errno.EBADF) return undefined
  if (typeof inspected === 'number') throw systemError('statx', inspected)
  if (inspected.kind !== 'socket') return { name, fd, kind: inspected.kind }
  const type = typeName(inspected)
  const activated: Activated = { name, fd, kind: kindOf(inspected, type), domain: domainName(inspected), type }
  const local = binding.localAddress(fd)
  // Of vsock, netlink and others nothing is known but that they are there.
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
