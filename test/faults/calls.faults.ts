import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { lookedBefore } from '../looked-before.js'
import { calls } from './errnos.js'
import type { Fault } from './faults.js'
import { fdScenarios, withServiceManager } from './fd-scenarios.js'
import { listenerScenarios } from './listener-scenarios.js'
import { attempt, attemptEach, type Scenario } from './runs.js'

// After this many calls of one name in a scenario, further calls cover nothing new.
const most = 24

function faultsOf(scenario: Scenario, usual: Record<string, number>): Fault[] {
  return Object.entries(calls).flatMap(([call, { errnos }]) => {
    const possible = errnos.split(' ').filter((errno) => !scenario.impossible?.[call]?.includes(errno))
    const numbers = Array.from({ length: Math.min(usual[call] ?? 0, most) }, (_, i) => i + 1)
    return possible.flatMap((errno) => numbers.map((number) => ({ call, errno, number })))
  })
}

describe('When each system call fails with each of its errnos', () => {
  lookedBefore()
  withServiceManager()

  // The epoll instance is created only once, and threads end some time after their last use: environment.faults.ts
  // covers both. fstat is called only after statx has failed.
  const reached = new Set(['epoll_create1', 'fstat', 'uv_thread_create'])

  for (const scenario of [...listenerScenarios, ...fdScenarios]) {
    it(`${scenario.name}: nothing is lost`, async function () {
      this.timeout(600_000)
      const usual = await attempt(scenario)
      for (const [call, times] of Object.entries(usual)) if (times > 0) reached.add(call)
      await attemptEach(scenario, usual, faultsOf(scenario, usual))
    })
  }

  it('the released addon contains no fault injection', () => {
    const has = (file: string) => readFileSync(file).includes('__wrap_')
    assert.equal(has(process.env.ASYNC_ACCEPT_ADDON as string), true)
    assert.equal(has('build/Release/async_accept.node'), false)
  })

  it('every call of sys.cc is tested', () => {
    const sources = ['sys.cc', 'sys_fstat.cc'].map((name) => new URL(`../../native/${name}`, import.meta.url))
    const source = sources.map((url) => readFileSync(url, 'utf8')).join('')
    const made = [...source.matchAll(/[\s(]::(?:syscall\(SYS_)?(\w+?)(?:64)?\b/g)].map(([, call]) => call as string)
    const names = made.filter((call) => call !== 'getpid')
    assert.ok(names.length > 20)
    assert.deepEqual(
      [...new Set(names)].filter((call) => !(call in calls)),
      [],
      'calls without a row in errnos.ts',
    )
    assert.deepEqual(
      Object.keys(calls).filter((call) => !reached.has(call)),
      [],
      'calls that no scenario makes, or that binding.gyp does not wrap',
    )
  })
})
