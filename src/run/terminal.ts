import { closeSync, openSync } from 'node:fs'

/**
 * Returns a function that tells whether the controlling terminal of this process has gone away. The kernel then sends
 * SIGHUP, and a terminal that is gone cannot be opened any more. A process without a terminal never loses one, so every
 * SIGHUP that it gets was sent on purpose.
 */
export function watchTerminal(): () => boolean {
  const had = hasTerminal()
  return () => had && !hasTerminal()
}

function hasTerminal(): boolean {
  try {
    closeSync(openSync('/dev/tty', 'r'))
    return true
  } catch {
    return false
  }
}
