import type { AddressInfo } from 'node:net'
import type { About } from '../core/errors.js'

/** The address of a listening socket: for a unix socket, its path or abstract name. */
export type BoundAddress = AddressInfo | string

/** Returns the address as text, for messages. */
export function textOf(address: BoundAddress): string {
  // An abstract name begins with '\0', which would be unreadable in a log.
  return typeof address === 'string' ? address.replace('\0', '@') : `${address.address} port ${address.port}`
}

/** Returns the properties that Node's errors have for the address. */
export function propertiesOf(address: BoundAddress): About {
  return typeof address === 'string' ? { address, path: address } : { address: address.address, port: address.port }
}
