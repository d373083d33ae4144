import { lookup } from 'node:dns/promises'
import { chmodSync, lstatSync, type Stats, unlinkSync } from 'node:fs'
import { isIP, isIPv6 } from 'node:net'
import os from 'node:os'
import { resolve } from 'node:path'
import { binding } from '../core/binding.js'
import { check, invalidArgValue, systemError } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { warn, warningOf } from '../core/warning.js'
import { readSocketOptions, type SocketOptions, setSocketOptions, socketNames } from './sockopt.js'

/** The address to listen on, and the options of the socket. */
export interface OpenOptions extends SocketOptions {
  /** The TCP port; 0: any free port. Default: 0. */
  port?: number
  /** An IP address, or a host name to resolve. Default: `'::'`, which includes IPv4, or `'0.0.0.0'` without IPv6. */
  host?: string
  /**
   * Multipath TCP (RFC 8684): accepts clients of MPTCP, which may use several network paths, and clients of TCP. If the
   * kernel has no MPTCP or it is disabled (`net.mptcp.enabled`), listens with TCP and emits a process warning with the
   * code `ASYNC_ACCEPT_NO_MPTCP`. No effect on a unix socket. Default: false.
   */
  mptcp?: boolean
  /**
   * Listens on a unix socket instead: a path of at most 107 bytes, or `'\0name'` in the abstract namespace (unix(7)),
   * where every byte is significant. `net` of Node 20 pads abstract names with `'\0'` to 108 bytes. To accept clients
   * of that `net`, pad the name in the same way.
   */
  path?: string
  /**
   * The maximum number of clients in the kernel's accept queue. The kernel caps it at `net.core.somaxconn`. Default:
   * 65535, in practice the cap: a client in the queue only waits, but a client that finds the queue full may fail.
   */
  backlog?: number
  /**
   * The permissions of `path`, from 0 to 0o777, set before the first client can connect. Default: as the umask
   * determines. Invalid in the abstract namespace, which has no permissions.
   */
  mode?: number
  /**
   * Replaces a socket that a crashed process has left at `path`. Only a socket is replaced, and only if a connection
   * attempt shows that no process listens on it. Default: false.
   */
  unlinkStale?: boolean
}

/** @internal */
export const openNames: validate.Names<OpenOptions> = {
  ...socketNames,
  port: true,
  host: true,
  path: true,
  backlog: true,
  mode: true,
  mptcp: true,
  unlinkStale: true,
}

// listen(2) takes an int, but older kernels use only 16 bits of it.
const largestBacklog = 65535

/**
 * @internal
 * Returns a validated copy of the options of {@link open}. Reads each option once, because a getter may return another
 * value the next time.
 */
export function readOpenOptions(options: OpenOptions): OpenOptions {
  const { port, path, host, backlog, mode, mptcp, unlinkStale }: OpenOptions = options
  if (port !== undefined) validate.port('options.port', port)
  validate.optionalString('options.host', host)
  validate.optionalString('options.path', path)
  if (path !== undefined && (port !== undefined || host !== undefined)) {
    throw invalidArgValue('options.path', 'cannot be combined with a port or a host', path)
  }
  if (path?.startsWith('\0') && mode !== undefined) {
    throw invalidArgValue('options.mode', 'has no effect in the abstract namespace, which has no permissions', mode)
  }
  if (path?.includes('\0', 1) && !path.startsWith('\0')) {
    throw invalidArgValue('options.path', "must not contain '\\0' except as the first byte", path)
  }
  validate.optionalInteger('options.backlog', backlog, 0, 2 ** 31 - 1)
  validate.optionalInteger('options.mode', mode, 0, 0o777)
  validate.optionalBoolean('options.mptcp', mptcp)
  validate.optionalBoolean('options.unlinkStale', unlinkStale)
  return { ...readSocketOptions(options), port, path, host, backlog, mode, mptcp, unlinkStale }
}

/**
 * @internal
 * Opens a listening socket with options from {@link readOpenOptions}. Returns an fd that the environment (the main
 * thread or a worker) owns. Closing the fd removes the path of a unix socket.
 */
export async function open(options: OpenOptions): Promise<number> {
  const { path, host, port } = options
  if (path !== undefined) return openPath(path, options)
  if (host !== undefined) {
    const address = isIP(host) ? host : (await lookup(host)).address
    return openIp(address, Number(port ?? 0), options)
  }
  try {
    return openIp('::', Number(port ?? 0), options)
  } catch (error) {
    // These errors occur if the kernel was built without IPv6, or if IPv6 is disabled.
    const { code } = error as { code?: string }
    if (options.ipv6Only || (code !== 'EAFNOSUPPORT' && code !== 'EADDRNOTAVAIL')) throw error
    return openIp('0.0.0.0', Number(port ?? 0), options)
  }
}

function openIp(address: string, port: number, options: OpenOptions): number {
  const { AF_INET, AF_INET6, SOL_SOCKET, SO_REUSEADDR } = binding.constants
  const ipv6 = isIPv6(address)
  const domain = (ipv6 ? AF_INET6 : AF_INET) as number
  const { socket, missing } = options.mptcp ? mptcpSocket(domain) : { socket: streamSocket(domain) }
  const fd = opening(socket, (fd) => {
    // With SO_REUSEADDR, which other servers set, too, bind(2) succeeds although old connections of the port are in
    // TIME_WAIT. The listening socket needs the option, too: its connections inherit it.
    const reuseAddress = () =>
      check(binding.setOption(fd, SOL_SOCKET as number, SO_REUSEADDR as number, 1), 'setsockopt')
    // For a socket with this option, the kernel looks for a free port in only a quarter of the range first, one port
    // after another. After about 7,000 listeners, each bind(2) to port 0 would take a millisecond.
    if (port !== 0) reuseAddress()
    setSocketOptions(fd, { ipv6Only: false, ...options }, ipv6)
    check(binding.bindIp(fd, address, port), 'bind', { address, port })
    if (port === 0) reuseAddress()
    check(binding.listen(fd, options.backlog ?? largestBacklog), 'listen', { address, port })
  })
  if (missing !== undefined) {
    const message = `Listening with TCP, because the system has no MPTCP: ${missing.message}`
    warn(warningOf('ASYNC_ACCEPT_NO_MPTCP', message))
  }
  return fd
}

/** Returns an fd or a negative errno. */
const streamSocket = (domain: number, protocol?: number) =>
  binding.socket(domain, binding.constants.SOCK_STREAM as number, protocol)

/**
 * Creates a socket of MPTCP, or of TCP if the system has no MPTCP; `missing` is then the error of socket(2). `socket`
 * is an fd or a negative errno.
 */
function mptcpSocket(domain: number): { socket: number; missing?: Error } {
  const socket = streamSocket(domain, binding.constants.IPPROTO_MPTCP)
  if (!withoutMptcp.has(-socket)) return { socket }
  return { socket: streamSocket(domain), missing: systemError('socket', socket) }
}

function openPath(path: string, options: OpenOptions): number {
  // The addon removes the path later, when the working directory may have changed. So it needs the absolute path.
  const absolute = path.startsWith('\0') ? undefined : resolve(path)
  // Node's permission model does not restrict the addon, but it restricts lstatSync, which throws if the process may
  // not read the path.
  if (process.permission !== undefined && absolute !== undefined) lstatSync(absolute, { throwIfNoEntry: false })
  return opening(streamSocket(binding.constants.AF_UNIX as number), (fd) => {
    let error = binding.bindPath(fd, path, absolute)
    if (error === -EADDRINUSE && options.unlinkStale && absolute !== undefined) {
      unlinkStale(absolute)
      error = binding.bindPath(fd, path, absolute)
    }
    check(error, 'bind', { path })
    if (absolute !== undefined && options.mode !== undefined) chmodSync(absolute, options.mode)
    check(binding.listen(fd, options.backlog ?? largestBacklog), 'listen', { path })
  })
}

const { EADDRINUSE, ECONNREFUSED, EINVAL, ENOPROTOOPT, EPROTONOSUPPORT } = os.constants.errno

// EPROTONOSUPPORT: the kernel has no MPTCP. ENOPROTOOPT: net.mptcp.enabled is 0. EINVAL: the kernel knows no protocol
// with this number.
const withoutMptcp = new Set([EPROTONOSUPPORT, ENOPROTOOPT, EINVAL])

function unlinkStale(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false })
  // The files are compared after the attempt: by then another process may have replaced the stale socket and may listen
  // on the path.
  if (found?.isSocket() && tryConnect(path) === -ECONNREFUSED && isSameFile(path, found)) unlinkSync(path)
}

/** Returns 0 if a process listens on the path, otherwise a negative errno. Closes the connection at once. */
function tryConnect(path: string): number {
  const fd = streamSocket(binding.constants.AF_UNIX as number)
  const error = fd < 0 ? fd : binding.connectPath(fd, path)
  if (fd >= 0) binding.close(fd)
  return error
}

function isSameFile(path: string, before: Stats): boolean {
  const now = lstatSync(path, { throwIfNoEntry: false })
  return now !== undefined && now.dev === before.dev && now.ino === before.ino
}

/** Prepares a new socket, and closes it if that fails. `fd` may be the negative errno of socket(2). */
function opening(fd: number, prepare: (fd: number) => void): number {
  if (fd < 0) throw systemError('socket', fd)
  try {
    prepare(fd)
  } catch (error) {
    binding.close(fd)
    throw error
  }
  return fd
}
