// Shared by several examples: reads their arguments, opens their port, and drains them on a signal.
import { basename } from 'node:path'
import { Listener } from 'async-accept'
import { fail, wholeNumber } from '../http2-machines/command-line.mjs'

export { fail, wholeNumber }

export const portNumber = wholeNumber(0, 65535)

/** An IPv4 address or a name with a port. */
export const hostAndPort = {
  expected: 'an address with a port, such as 127.0.0.1:22',
  read(text) {
    const [, host, digits] = /^([^\s:]+):(\d{1,5})$/.exec(text) ?? []
    const port = wholeNumber(1, 65535).read(digits)
    return port && { host, port }
  },
}

/**
 * Returns the arguments of the command line by name. `kinds` has `[default, kind]` for each argument, in their order.
 * An invalid argument ends the process with exit code 2.
 */
export function readArguments(kinds) {
  const given = process.argv.slice(2)
  const names = Object.keys(kinds)
  const usage = `usage: node ${basename(process.argv[1])} ${names.map((name) => `[${name}]`).join(' ')}`
  if (given.length > names.length) fail(2, `unexpected argument '${given[names.length]}'; ${usage}`)
  const entries = names.map((name, index) => {
    const [initial, { expected, read }] = kinds[name]
    const text = given[index] ?? String(initial)
    const value = read(text)
    if (value === undefined) fail(2, `${name} must be ${expected}, not '${text}'; ${usage}`)
    return [name, value]
  })
  return Object.fromEntries(entries)
}

/** Opens a listener. If that fails, ends the process with exit code 1. */
export function listen(options) {
  return Listener.listen(options).catch((error) => {
    fail(1, error.code === 'EADDRINUSE' ? `port ${options.port} is in use` : `cannot listen: ${error.message}`)
  })
}

/** Calls `drain` at the first SIGINT or SIGTERM. A second signal of the same kind ends the process. */
export function onTermination(drain) {
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, drain)
}
