import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { cleanUp } from '../helpers.js'
import { calls } from './errnos.js'
import { allocation, type Fault, plan } from './faults.js'
import { attempt, attemptEach, blame, type Scenario } from './runs.js'

/** Runs a thread from start to end. Calls `last` before the end of the thread. */
const environment = (name: string, last?: () => void): Scenario => ({
  name,
  instead: { [allocation]: ['ERR_ADDON_LOAD'] },
  async run() {
    const worker = new Worker(new URL('environment.mjs', import.meta.url))
    // A thread in which a call failed may end before it is terminated.
    const exited = once(worker, 'exit')
    cleanUp(() => worker.terminate())
    const [{ failures, message, stack }] = await once(worker, 'message')
    for (const failure of failures) blame(failure)
    if (failures.length === 0) assert.equal(message, undefined, stack)
    last?.()
    worker.terminate()
    await exited
  },
})

describe('A thread', () => {
  for (const call of ['epoll_create1', 'uv_poll_init', 'uv_poll_start', 'uv_thread_create', allocation]) {
    it(`starts and ends with every error of ${call}`, async function () {
      this.timeout(600_000)
      const scenario = environment(`a thread`)
      const usual = await attempt(scenario)
      const errnos = call === allocation ? ['ENOMEM'] : (calls[call]?.errnos.split(' ') ?? [])
      const numbers = Array.from({ length: usual[call] as number }, (_, i) => i + 1)
      assert.ok(numbers.length > 0)
      const each: Fault[] = errnos.flatMap((errno) => numbers.map((number) => ({ call, errno, number })))
      await attemptEach(scenario, usual, each)
    })
  }

  for (const call of ['close', 'statx', 'epoll_ctl', 'uv_thread_create', allocation]) {
    it(`leaves no fd open when ${call} fails while it ends`, async function () {
      this.timeout(600_000)
      const errnos = call === allocation ? ['ENOMEM'] : (calls[call]?.errnos.split(' ') ?? [])
      for (const errno of errnos)
        await attempt(environment('a thread’s end', () => plan({ call, errno, number: 1 }, -1)))
    })
  }
})
