// Text for the terminal and for URLs.
import { isIPv6 } from 'node:net'

/** The host and the port of a URL. */
export function authority(host, port) {
  const plain = host.replace(/^::ffff:(?=.*\.)/, '') // an IPv4 client of a dual-stack socket
  return isIPv6(plain) ? `[${plain}]:${port}` : `${plain}:${port}`
}

/** Removes control characters, with which a client could control the terminal. */
export function printable(text) {
  const short = text.length > 100 ? `${text.slice(0, 100)}...` : text
  return short.replace(/[^\x20-\x7e]/g, '?')
}
