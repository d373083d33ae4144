import { lookup } from 'node:dns/promises'
import { chmodSync, lstatSync, type Stats, unlinkSync } from 'node:fs'
import { isIP, isIPv6 } from 'node:net'
import os from 'node:os'
import { resolve } from 'node:path'
import { binding } from '../core/binding.js'
import { check, invalidArgValue, systemError } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { readSocketOptions, type SocketOptions, setSocketOptions } from './sockopt.js'

/** Where to listen, and with which options of the socket. */
export interface OpenOptions extends SocketOptions {
  /** A TCP port; 0 for any free one. Default: 0. */
  port?: number
  /** An address, or a name that is resolved. Default: `'::'` with IPv4, or `'0.0.0.0'` on a host without IPv6. */
  host?: string
  /**
   * A unix socket instead: a path of at most 107 bytes, or `'\0name'` for the abstract namespace (unix(7)), where every
   * byte counts. Node 20's own `net` pads abstract names with `'\0'` to 108 bytes; to meet it, do the same.
   */
  path?: string
  /**
   * How many clients may wait in the kernel until somebody asks for them; it caps the number at
   * `net.core.somaxconn`. Default: 65535, that is, as many as the system allows: what waits here is not lost.
   */
  backlog?: number
  /**
   * The permissions of `path`, in force before the first client can connect. Default: what the umask leaves. Not for
   * the abstract namespace, which has none.
   */
  mode?: number
  /**
   * Replace what a crashed process left at `path`: only a socket, and only when nobody listens on it. Finding out
   * takes a connection attempt. Default: false.
   */
  unlinkStale?: boolean
}

// listen(2) takes an int, but older kernels kept 16 bits of it.
const largestBacklog = 65535

/** A copy of what `options` has for {@link open}. Each is read once: a getter may answer otherwise the next time. */
export function readOpenOptions(options: OpenOptions): OpenOptions {
  validate.object('options', options)
  const { port, path, host, backlog, mode, unlinkStale }: OpenOptions = options
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
    throw invalidArgValue('options.path', "must not hold '\\0' but as its first byte", path)
  }
  validate.optionalInteger('options.backlog', backlog, 0, 2 ** 31 - 1)
  validate.optionalInteger('options.mode', mode, 0, 0o777)
  validate.optionalBoolean('options.unlinkStale', unlinkStale)
  return { ...readSocketOptions(options), port, path, host, backlog, mode, unlinkStale }
}

/** Opens what {@link readOpenOptions} has read: an owned fd that listens, whose end removes its path. */
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
    // How a host says that it has no IPv6: compiled out, or switched off.
    const { code } = error as { code?: string }
    if (options.ipv6Only || (code !== 'EAFNOSUPPORT' && code !== 'EADDRNOTAVAIL')) throw error
    return openIp('0.0.0.0', Number(port ?? 0), options)
  }
}

function openIp(address: string, port: number, options: OpenOptions): number {
  const { AF_INET, AF_INET6, SOL_SOCKET, SO_REUSEADDR } = binding.constants
  const ipv6 = isIPv6(address)
  return opening((ipv6 ? AF_INET6 : AF_INET) as number, (fd) => {
    // As every server does: a port in TIME_WAIT is free.
    check(binding.setOption(fd, SOL_SOCKET as number, SO_REUSEADDR as number, 1), 'setsockopt')
    setSocketOptions(fd, { ipv6Only: false, ...options }, ipv6)
    check(binding.bindIp(fd, address, port), 'bind', { address, port })
    check(binding.listen(fd, options.backlog ?? largestBacklog), 'listen', { address, port })
  })
}

function openPath(path: string, options: OpenOptions): number {
  // The working directory may change before the path is removed.
  const absolute = path.startsWith('\0') ? undefined : resolve(path)
  // Node's permission model does not hold for the addon: it would make a path that nobody here may look at.
  if (process.permission !== undefined && absolute !== undefined) lstatSync(absolute, { throwIfNoEntry: false })
  return opening(binding.constants.AF_UNIX as number, (fd) => {
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

const { EADDRINUSE, ECONNREFUSED } = os.constants.errno

function unlinkStale(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false })
  // Looked at again after the attempt: somebody who had the same idea may listen there by now.
  if (found?.isSocket() && knock(path) === -ECONNREFUSED && isStill(path, found)) unlinkSync(path)
}

/** 0 when somebody listens there; the connection is closed again at once. */
function knock(path: string): number {
  const fd = binding.socket(binding.constants.AF_UNIX as number, binding.constants.SOCK_STREAM as number)
  const error = fd < 0 ? fd : binding.connectPath(fd, path)
  if (fd >= 0) binding.close(fd)
  return error
}

function isStill(path: string, made: Stats): boolean {
  const now = lstatSync(path, { throwIfNoEntry: false })
  return now !== undefined && now.dev === made.dev && now.ino === made.ino
}

function opening(domain: number, prepare: (fd: number) => void): number {
  const fd = binding.socket(domain, binding.constants.SOCK_STREAM as number)
  if (fd < 0) throw systemError('socket', fd)
  try {
    prepare(fd)
  } catch (error) {
    binding.close(fd)
    throw error
  }
  return fd
}
