import assert from 'node:assert/strict'
import { readdirSync, writeFileSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { SystemError } from '../../src/index.js'
import { namedFds } from '../fd-room.js'
import { flagsOf, runCleanups } from '../helpers.js'
import { calls } from './errnos.js'
import { allocation, type Fault, faults, numberOf, plan } from './faults.js'

/** A use of the addon. Throws the errors of failed calls, and leaves all cleanup to `cleanUp`. */
export interface Scenario {
  name: string
  run(): Promise<void>
  /** Codes other than that of the errno that a fault may cause, by call. */
  instead?: Record<string, string[]>
  /** Errnos that a kernel cannot return here, by call: EAGAIN without an event that follows. */
  impossible?: Record<string, string[]>
}

// Errnos of accept(2) that never make a request fail.
const survived =
  'EAGAIN EINTR ECONNABORTED EPROTO EPERM ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP ENETUNREACH ' +
  'ETIMEDOUT ESOCKTNOSUPPORT EPROTONOSUPPORT EMFILE ENFILE ENOBUFS ENOMEM ENOSR'

let current: { scenario: Scenario; fault?: Fault } | undefined

/** Throws unless the error is the result of this run's fault. */
export function blame(error: unknown): void {
  const fault = current?.fault
  if (fault === undefined || error instanceof assert.AssertionError) throw error
  assert.ok(faults.failed() > 0, `no call failed, but the result is: ${error}`)
  const { code, errno, syscall } = error as SystemError
  const row = calls[fault.call]
  const instead = [...(row?.instead ?? []), ...(current?.scenario.instead?.[fault.call] ?? [])]
  if (instead.includes(code)) return
  if (fault.call === 'accept4') assert.ok(!survived.split(' ').includes(fault.errno), `a request was lost: ${error}`)
  const within = row?.within ?? [fault.call]
  const right = errno === -numberOf(fault.errno) && (fault.call === allocation || within.includes(syscall))
  if (!right) throw new Error(`not the error of ${fault.call}: ${(error as Error).stack} ${JSON.stringify(error)}`)
  assert.match(code, /^E[A-Z]|^E65$/) // ENOPKG, which Node does not know
}

/** Returns `take(fd)`. Asserts that the caller still owns the fd when it throws. */
export function takenBy<Owner>(fd: number, take: (fd: number) => Owner): Owner {
  try {
    return take(fd)
  } catch (error) {
    assert.notEqual(flagsOf(fd), undefined, 'the caller must keep the fd on failure')
    throw error
  }
}

// Long enough for any run. A run that hangs is then reported by name.
const patience = 10_000

/** Runs a scenario once, with a fault or without. Returns the number of calls of each name. */
export async function attempt(scenario: Scenario, fault?: Fault, times = 1): Promise<Record<string, number>> {
  const name = nameOf(scenario, fault)
  const before = countFds()
  current = { scenario, fault }
  note(name)
  let hung: NodeJS.Timeout | undefined
  try {
    if (fault === undefined) faults.clear()
    else plan(fault, times)
    const hangs = new Promise<never>((_, reject) => {
      hung = setTimeout(() => reject(new assert.AssertionError({ message: 'the scenario hangs' })), patience)
    })
    await Promise.race([scenario.run(), hangs]).catch(blame)
    await Promise.race([runCleanups(), hangs])
    const made = faults.made()
    await Promise.race([hangs, settled(before)])
    return made
  } catch (error) {
    throw new Error(`with ${name}: ${(error as Error).message}`, { cause: error })
  } finally {
    clearTimeout(hung)
    faults.clear()
    current = undefined
    await runCleanups()
  }
}

// Cheaper than their names, which only a failure reports.
const countFds = () => readdirSync('/proc/self/fd').length

// Other threads also close fds, possibly later.
async function settled(before: number): Promise<void> {
  const deadline = performance.now() + patience / 2
  while (countFds() > before) {
    if (performance.now() > deadline) assert.fail(`left open: ${namedFds()}`)
    await nextTurn()
  }
}

const nameOf = (scenario: Scenario, fault?: Fault) =>
  fault === undefined ? scenario.name : `${scenario.name}/${fault.call}/${fault.errno}/${fault.number}`

/** Writes the current run to a file, where the parent process finds it if this process crashes. */
function note(name: string): void {
  const file = process.env.FAULTS_NOTE
  if (file !== undefined) writeFileSync(file, name)
}

/**
 * Runs the scenario with each fault, or only with the fault in the environment variable FAULT, whose format is that of
 * failure messages. Asserts that a fault at most doubles the number of calls, plus 50.
 */
export async function attemptEach(scenario: Scenario, usual: Record<string, number>, faults: Fault[], times = 1) {
  const wrong: string[] = []
  for (const fault of faults) {
    if (process.env.FAULT !== undefined && process.env.FAULT !== nameOf(scenario, fault)) continue
    try {
      const made = await attempt(scenario, fault, times)
      assert.ok(total(made) <= 2 * total(usual) + 50, `${total(made)} calls where ${total(usual)} are usual`)
    } catch (error) {
      // Ten failures describe the problem. Thousands would not describe it better.
      if (wrong.push((error as Error).message) === 10) break
    }
  }
  assert.ok(wrong.length === 0, wrong.join('\n'))
}

const total = (made: Record<string, number>): number => Object.values(made).reduce((sum, each) => sum + each, 0)
