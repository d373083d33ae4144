import { binding } from '../core/binding.js'
import { check, invalidArgValue } from '../core/errors.js'
import * as validate from '../core/validate.js'

/**
 * Socket options that accepted sockets inherit from the listening socket, without a system call per connection. An
 * option that is not given stays unchanged.
 */
export interface InheritedOptions {
  /** `TCP_NODELAY` (tcp(7)). Default: unchanged; off on a new socket. */
  noDelay?: boolean
  /** `SO_KEEPALIVE` (socket(7)). Default: unchanged; off on a new socket. */
  keepAlive?: boolean
  /**
   * `TCP_KEEPIDLE` (tcp(7)): the idle time in ms before the first probe. A listener rounds it up to seconds; `toSocket`
   * rounds it down, as Node does. Default: 0, unchanged; on a new socket, the system's time.
   */
  keepAliveInitialDelay?: number
}

/** @internal */
export const inheritedNames: validate.Names<InheritedOptions> = {
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: true,
}

/** Options of a listening TCP socket. They have no effect on a unix socket. */
export interface SocketOptions extends InheritedOptions {
  /** `IPV6_V6ONLY` (ipv6(7)): an IPv6 socket accepts no IPv4 clients. Default: false. */
  ipv6Only?: boolean
  /**
   * `SO_REUSEPORT` (socket(7)): several sockets can listen on the same port. For each client the kernel selects one of
   * them by a hash. Default: false.
   */
  reusePort?: boolean
  /**
   * `TCP_DEFER_ACCEPT` (tcp(7)): the kernel delivers a client only after the client has sent data, or after this time
   * in seconds. The kernel rounds the time up to one of its retransmission times. Default: 0, off.
   */
  deferAccept?: number
  /**
   * `TCP_FASTOPEN` (RFC 7413): the maximum number of pending clients that sent data with their SYN. Default: 0, off.
   */
  fastOpen?: number
  /**
   * `IP_TRANSPARENT` (ip(7)): allows binding to an address of another host. Requires `CAP_NET_ADMIN`. Default: false.
   */
  transparent?: boolean
  /** `IP_FREEBIND` (ip(7)): allows binding to an address that this host does not have yet. Default: false. */
  freeBind?: boolean
  /** `SO_BINDTODEVICE` (socket(7)): accepts only clients that arrive through this network interface. */
  bindToDevice?: string
}

type Check = (name: string, value: unknown) => void

const seconds: Check = (name, value) => validate.optionalInteger(name, value, 0, 32767)
const count: Check = (name, value) => validate.optionalInteger(name, value, 0, 2 ** 31 - 1)
const milliseconds: Check = (name, value) => validate.optionalInteger(name, value, 0, 32767 * 1000)
// The kernel truncates a longer name, and the truncated name may be that of another interface.
const interfaceName: Check = (name, value) => {
  validate.optionalString(name, value)
  if (value === undefined || (Buffer.byteLength(value) <= 15 && !value.includes('\0'))) return
  throw invalidArgValue(name, 'must be an interface name of at most 15 bytes', value)
}

interface Row {
  option: keyof SocketOptions
  check: Check
  level: string
  name: string
  /** The level and name for an IPv6 socket, if they differ. */
  ipv6?: { level: string; name: string }
  value?: (value: number) => number
}

// The options are set in this order. An option that is not given stays unchanged.
const table: readonly Row[] = [
  { option: 'ipv6Only', check: validate.optionalBoolean, level: 'IPPROTO_IPV6', name: 'IPV6_V6ONLY' },
  { option: 'reusePort', check: validate.optionalBoolean, level: 'SOL_SOCKET', name: 'SO_REUSEPORT' },
  {
    option: 'transparent',
    check: validate.optionalBoolean,
    level: 'IPPROTO_IP',
    name: 'IP_TRANSPARENT',
    ipv6: { level: 'IPPROTO_IPV6', name: 'IPV6_TRANSPARENT' },
  },
  {
    option: 'freeBind',
    check: validate.optionalBoolean,
    level: 'IPPROTO_IP',
    name: 'IP_FREEBIND',
    ipv6: { level: 'IPPROTO_IPV6', name: 'IPV6_FREEBIND' },
  },
  { option: 'bindToDevice', check: interfaceName, level: 'SOL_SOCKET', name: 'SO_BINDTODEVICE' },
  { option: 'noDelay', check: validate.optionalBoolean, level: 'IPPROTO_TCP', name: 'TCP_NODELAY' },
  { option: 'keepAlive', check: validate.optionalBoolean, level: 'SOL_SOCKET', name: 'SO_KEEPALIVE' },
  {
    option: 'keepAliveInitialDelay',
    check: milliseconds,
    level: 'IPPROTO_TCP',
    name: 'TCP_KEEPIDLE',
    value: (ms) => Math.ceil(ms / 1000),
  },
  { option: 'deferAccept', check: seconds, level: 'IPPROTO_TCP', name: 'TCP_DEFER_ACCEPT' },
  { option: 'fastOpen', check: count, level: 'IPPROTO_TCP', name: 'TCP_FASTOPEN' },
]

/** @internal */
export const socketNames = Object.fromEntries(
  table.map(({ option }) => [option, true]),
) as validate.Names<SocketOptions>

/**
 * @internal Returns a validated copy. Reads each option once, because a getter may return another value the next time.
 */
export function readSocketOptions(options: SocketOptions): SocketOptions {
  const read: Record<string, unknown> = Object.create(null)
  for (const { option, check } of table) {
    const value = options[option]
    check(`options.${option}`, value)
    if (value !== undefined) read[option] = value
  }
  return read
}

/** @internal Sets the given options on a TCP socket. An error names the option that failed. Borrows the fd. */
export function setSocketOptions(fd: number, options: SocketOptions, ipv6: boolean): void {
  const { constants } = binding
  for (const row of table) {
    const value = options[row.option]
    if (value === undefined || value === 0 || (row.option === 'ipv6Only' && !ipv6)) continue
    const { level, name } = (ipv6 && row.ipv6) || row
    const plain = typeof value === 'string' ? value : (row.value?.(Number(value)) ?? Number(value))
    const error = binding.setOption(fd, constants[level] as number, constants[name] as number, plain)
    check(error, 'setsockopt', { option: name })
  }
}
