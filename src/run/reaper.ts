import { readdirSync, readFileSync } from 'node:fs'
import { binding } from '../core/binding.js'

/**
 * Releases the processes that were orphaned to this one, if it is PID 1. Otherwise they would stay zombies. `known`
 * returns the children that Node has started, which it releases itself.
 */
export function reapOrphans(known: () => ReadonlySet<number | undefined>): void {
  if (process.pid !== 1) return
  process.on('SIGCHLD', () => {
    const own = known()
    for (const pid of zombies()) if (!own.has(pid)) binding.reap(pid)
  })
}

/** The children of PID 1 that have ended, proc(5). */
function zombies(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        // The name of the program, in parentheses, may contain any character.
        return /^\d+ \(.*\) Z 1 /s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
      } catch {
        return false
      }
    })
}
