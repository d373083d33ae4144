import { binding } from '../core/binding.js'
import { check, invalidArgValue } from '../core/errors.js'
import * as validate from '../core/validate.js'

/** Set on the listening socket; accepted sockets inherit what applies to them, so it costs nothing per connection. */
export interface InheritedOptions {
  /** `TCP_NODELAY` (tcp(7)) on every connection. Default: false. */
  noDelay?: boolean
  /** `SO_KEEPALIVE` (socket(7)) on every connection. Default: false. */
  keepAlive?: boolean
  /** `TCP_KEEPIDLE`: ms of silence before the first probe, rounded up to seconds. Default: 0, the system's own. */
  keepAliveInitialDelay?: number
}

export interface SocketOptions extends InheritedOptions {
  /** `IPV6_V6ONLY` (ipv6(7)): an IPv6 socket takes no IPv4 clients. Default: false. */
  ipv6Only?: boolean
  /** `SO_REUSEPORT` (socket(7)): several sockets on one port, clients spread by a hash. Default: false. */
  reusePort?: boolean
  /**
   * `TCP_DEFER_ACCEPT` (tcp(7)): seconds for which a client that has sent nothing is not given out. Default: 0, off.
   * The kernel rounds up to its retransmission times.
   */
  deferAccept?: number
  /** `TCP_FASTOPEN` (RFC 7413): how many half-open clients may send data with their SYN. Default: 0, off. */
  fastOpen?: number
  /** `IP_TRANSPARENT` (ip(7)): addresses that are not this host's. Needs `CAP_NET_ADMIN`. Default: false. */
  transparent?: boolean
  /** `IP_FREEBIND` (ip(7)): an address that this host does not have yet. Default: false. */
  freeBind?: boolean
  /** `SO_BINDTODEVICE` (socket(7)): clients that come through this interface only. */
  bindToDevice?: string
}

type Check = (name: string, value: unknown) => void

const seconds: Check = (name, value) => validate.optionalInteger(name, value, 0, 32767)
const count: Check = (name, value) => validate.optionalInteger(name, value, 0, 2 ** 31 - 1)
const milliseconds: Check = (name, value) => validate.optionalInteger(name, value, 0, 32767 * 1000)
// The kernel cuts a longer name off, and then it may be another interface's.
const interfaceName: Check = (name, value) => {
  validate.optionalString(name, value)
  if (value === undefined || (Buffer.byteLength(value) <= 15 && !value.includes('\0'))) return
  throw invalidArgValue(name, 'must be the name of an interface, of at most 15 bytes', value)
}

interface Row {
  option: keyof SocketOptions
  check: Check
  level: string
  name: string
  /** The same for an IPv6 socket, where it differs. */
  ipv6?: { level: string; name: string }
  value?: (value: number) => number
}

// In the order in which they are set. Only what is given is set; everything else stays as the kernel made it.
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

/** A copy of what `options` has of the table's. Each is read once: a getter may answer otherwise the next time. */
export function readSocketOptions(options: SocketOptions): SocketOptions {
  const read: Record<string, unknown> = Object.create(null)
  for (const { option, check } of table) {
    const value = options[option]
    check(`options.${option}`, value)
    if (value !== undefined) read[option] = value
  }
  return read
}

/** Sets what `options` has on a TCP socket; a failure says which option it was. Borrows the fd. */
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
