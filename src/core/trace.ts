import { debuglog } from 'node:util'

const log = debuglog('async-accept')

/**
 * Writes a line to stderr if `NODE_DEBUG` contains `async-accept`; otherwise undefined. The variable is read once, so
 * that `trace?.()` costs nothing.
 */
export const trace = log.enabled ? log : undefined
