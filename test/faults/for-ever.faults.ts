import assert from 'node:assert/strict'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { binding } from '../../src/core/binding.js'
import type { CapacityPause, Connection } from '../../src/index.js'
import { codeOf, connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { calls } from './errnos.js'
import { faults, plan } from './faults.js'

const sets = {
  retry:
    'EINTR ECONNABORTED EPROTO EPERM ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP ENETUNREACH ETIMEDOUT ' +
    'ESOCKTNOSUPPORT EPROTONOSUPPORT',
  capacity: 'EMFILE ENFILE ENOBUFS ENOMEM ENOSR',
  fatal: 'EBADF EFAULT EINVAL ENOTSOCK',
}
const namesOf = (set: keyof typeof sets) => sets[set].split(' ')

describe('When every accept4 fails', () => {
  leaveNoFds()
  afterEach(() => faults.clear())

  async function failing(errno: string, onFdLimit: 'hold' | 'reset' = 'hold') {
    const listener = await listen({ host: '127.0.0.1', onFdLimit })
    const pauses: CapacityPause[] = []
    listener.on('capacityPause', (pause) => pauses.push(pause))
    const requests = [listener.accept(), listener.accept()]
    for (const request of requests) request.catch(() => {}) // handled later
    plan({ call: 'accept4', errno, number: 1 }, -1)
    const clients = [await connect(listener), await connect(listener)]
    return { listener, pauses, requests, clients }
  }

  async function allServed(requests: Promise<Connection>[]) {
    faults.clear()
    for (const request of requests) (await request).close()
  }

  for (const [set, most] of [
    ['capacity', 1],
    ['retry', binding.maxBatch],
  ] as const) {
    for (const errno of namesOf(set)) {
      for (const onFdLimit of ['hold', 'reset'] as const) {
        it(`retries rarely on ${errno}, and keeps every request (${onFdLimit})`, async () => {
          const { listener, pauses, requests } = await failing(errno, onFdLimit)
          await Promise.race([until(() => pauses.length >= 3), ...requests])
          const { accept4 } = faults.made()
          // One more call per pause for the spare fd.
          assert.ok((accept4 as number) <= pauses.length * (most + 1), `${accept4} calls, ${pauses.length} pauses`)
          assert.equal(listener.pending, 2)
          await allServed(requests)
        })
      }
    }
  }

  for (const errno of namesOf('fatal')) {
    it(`rejects every request with ${errno}, and waits for the next one`, async () => {
      const { listener, requests } = await failing(errno)
      for (const request of requests) assert.equal(await request.catch(codeOf), errno)
      for (let turn = 0; turn < 100; turn++) await nextTurn()
      assert.equal(faults.made().accept4, 1)
      faults.clear()
      await allServed([listener.accept(), listener.accept()])
    })
  }

  it('tries once per event on EAGAIN', async () => {
    const { requests } = await failing('EAGAIN')
    const before = faults.made().accept4 as number
    const turns = 100
    for (let turn = 0; turn < turns; turn++) await nextTurn()
    assert.ok((faults.made().accept4 as number) - before <= turns + 1)
    await allServed(requests)
  })

  it('every errno of accept4 is tested', () => {
    const all = ['EAGAIN', ...namesOf('retry'), ...namesOf('capacity'), ...namesOf('fatal')]
    assert.deepEqual(calls.accept4?.errnos.split(' ').sort(), all.sort())
  })
})
