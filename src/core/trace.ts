import { debuglog } from 'node:util'

const log = debuglog('async-accept')

/**
 * Writes a line to stderr if `NODE_DEBUG` contains `async-accept`; otherwise undefined. The variable is read once, so
 * that `trace?.()` costs nothing. Does not throw.
 */
export const trace = log.enabled ? writeLine : undefined

function writeLine(format: string, ...values: readonly unknown[]): void {
  try {
    log(format, ...values)
  } catch {
    // process.stderr.write of the application has thrown. An exception here would lose a connection.
  }
}
