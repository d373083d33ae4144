import { lookedBefore } from '../looked-before.js'
import { allocation } from './faults.js'
import { fdScenarios, withServiceManager } from './fd-scenarios.js'
import { listenerScenarios } from './listener-scenarios.js'
import { attempt, attemptEach } from './runs.js'

describe('When memory runs out at each allocation', () => {
  lookedBefore()
  withServiceManager()

  for (const scenario of [...listenerScenarios, ...fdScenarios]) {
    it(`${scenario.name}: nothing is lost, after one failure or permanent failure`, async function () {
      this.timeout(600_000)
      const usual = await attempt(scenario)
      const faults = Array.from({ length: usual[allocation] ?? 0 }, (_, i) => {
        return { call: allocation, errno: 'ENOMEM', number: i + 1 }
      })
      await attemptEach(scenario, usual, faults)
      await attemptEach(scenario, usual, faults, -1)
    })
  }
})
