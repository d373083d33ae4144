import assert from 'node:assert/strict'
import type { InheritedSocket, InheritedSockets } from '../../src/inherit/inherited-sockets.js'
import { UnservedSockets } from '../../src/inherit/unserved-sockets.js'
import { cleanUp } from '../helpers.js'

/** The timers that were started, without waiting for them. */
function holdTimers(): { run: () => void; delay: number; cleared: boolean }[] {
  const { setTimeout, clearTimeout } = globalThis
  const timers: { run: () => void; delay: number; cleared: boolean }[] = []
  const held = (run: () => void, delay: number) => {
    const timer = { run, delay, cleared: false, unref: () => timer }
    timers.push(timer)
    return timer
  }
  Object.assign(globalThis, {
    setTimeout: held,
    clearTimeout: (timer: { cleared: boolean }) => {
      timer.cleared = true
    },
  })
  cleanUp(() => Object.assign(globalThis, { setTimeout, clearTimeout }))
  return timers
}

/** Warnings that are emitted by the current test. */
function holdWarnings(): (Error & { code?: string })[] {
  const { emitWarning } = process
  const warnings: Error[] = []
  process.emitWarning = (warning: unknown) => void warnings.push(warning as Error)
  cleanUp(() => {
    process.emitWarning = emitWarning
  })
  return warnings
}

const web = { name: 'web', passedFd: 3, address: { address: '::', port: 80, family: 'IPv6' } }
const admin = { name: 'admin', passedFd: 4, address: '\0admin' }
const notPassed = { port: 3000, address: null, ipv6Only: false }

function unservedOf(...all: object[]): { unserved: UnservedSockets; sockets: { unserved: InheritedSocket[] } } {
  const sockets = { unserved: all as InheritedSocket[] }
  const unserved = new UnservedSockets(sockets as unknown as InheritedSockets)
  // It also looks when this process exits.
  cleanUp(() => {
    sockets.unserved = []
  })
  return { unserved, sockets }
}

describe('The warning about unserved sockets', () => {
  it('names the sockets, what was asked for, and a map', () => {
    const [timers, warnings] = [holdTimers(), holdWarnings()]
    const { unserved } = unservedOf(web, admin)
    for (const asked of [{ ...notPassed, port: 0 }, notPassed, { ...notPassed, address: '::1' }, { path: '\0x' }]) {
      unserved.note(asked)
    }
    timers.at(-1)?.run()
    assert.deepEqual(
      warnings.map(({ code, name, message }) => [code, name, message]),
      [
        [
          'ASYNC_ACCEPT_UNTAKEN_FD',
          'AsyncAcceptWarning',
          "No listen() has taken these inherited sockets: 'web' (fd 3, :: port 80), 'admin' (fd 4, @admin). " +
            'The program has listened on: any free port, port 3000, port 3000 of ::1, path @x. Listen on the address ' +
            "of the socket, or map a port to its name: ASYNC_ACCEPT_INHERIT='3000=web'",
        ],
      ],
    )
  })

  it('waits for 10 s after the start, and again after listen() on another address', () => {
    const timers = holdTimers()
    const { unserved } = unservedOf(web)
    unserved.note(notPassed)
    unserved.note({ ...notPassed })
    assert.deepEqual(
      timers.map(({ delay, cleared }) => [delay, cleared]),
      [
        [10_000, true],
        [10_000, false],
      ],
    )
  })

  it('names the first ten addresses of a program that listens again and again', () => {
    const [timers, warnings] = [holdTimers(), holdWarnings()]
    const { unserved } = unservedOf(web)
    for (let round = 0; round < 1000; round++) unserved.note({ path: `/run/${round}` })
    assert.equal(timers.length, 11)
    timers.at(-1)?.run()
    assert.match(warnings[0]?.message ?? '', /path \/run\/0, .*path \/run\/9\. /)
  })

  it('is emitted once, and only if a socket is unserved', () => {
    const [timers, warnings] = [holdTimers(), holdWarnings()]
    const { unserved, sockets } = unservedOf()
    timers[0]?.run()
    assert.equal(warnings.length, 0)
    sockets.unserved = [web as InheritedSocket]
    for (let time = 0; time < 2; time++) {
      unserved.note(notPassed)
      timers.at(-1)?.run()
    }
    assert.equal(warnings.length, 1)
  })
})
