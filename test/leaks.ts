import assert from 'node:assert/strict'
import { readlinkSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { cleanUp, openFds } from './helpers.js'

// Closing takes several event loop turns. Without a limit, a leak would block the test run.
const patience = 5000

/** Asserts after each test of the suite, and after its cleanup, that no more fds are open than before it. */
export function leaveNoFds(): void {
  beforeEach(() => {
    const before = openFds()
    // Registered first, so it runs last.
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
