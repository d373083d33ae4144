import assert from 'node:assert/strict'
import { readlinkSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { cleanUp, openFds } from './helpers.js'

// Closing takes a few turns of the loop. Without a bound a leak would keep the run from ending at all.
const patience = 5000

/** In a suite: when one of its tests was cleaned up, no more fds are open than before it. */
export function leaveNoFds(): void {
  beforeEach(() => {
    const before = openFds()
    // What is registered first runs last.
    cleanUp(async () => {
      for (let turn = 0; openFds().length > before.length && turn < patience; turn++) await nextTurn()
      const now = openFds()
      if (now.length > before.length) {
        assert.fail(`left open: ${now.filter((fd) => !before.includes(fd)).map((fd) => `${fd} ${nameOf(fd)}`)}`)
      }
    })
  })
}

function nameOf(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return '(closed)'
  }
}
