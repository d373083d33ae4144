import assert from 'node:assert/strict'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { binding } from '../../src/core/binding.js'
import { notify, notifyBarrier } from '../../src/index.js'
import { standStill } from '../descriptors.js'
import { cleanUp } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { path, serviceManager } from './notified.js'

/** Counts the barriers made from now on that are answered, including those not yet seen by the event loop. */
function countAnswered(): () => number {
  const pipes: number[] = []
  const { pipe } = binding
  binding.pipe = () => {
    const fds = pipe()
    if (typeof fds !== 'number') pipes.push(fds[0])
    return fds
  }
  cleanUp(() => Object.assign(binding, { pipe }))
  return () => pipes.filter((fd) => binding.poll(fd) !== 0).length
}

describe('notifyBarrier', () => {
  lookedBefore()
  leaveNoFds()

  it('resolves when all earlier notifications have been read', async () => {
    const manager = await serviceManager(path())
    for (let i = 0; i < 5; i++) notify({ status: `step ${i}` })
    assert.equal(await notifyBarrier({ timeout: -1 }), true)
    const texts = (await manager.got(6)).map(({ text }) => text)
    assert.deepEqual(texts, [...[0, 1, 2, 3, 4].map((i) => `STATUS=step ${i}`), 'BARRIER=1'])
    assert.match(manager.received()[5]?.fds[0] as string, /^pipe:/)
  })

  it('rejects when the service manager keeps the fd', async () => {
    await serviceManager(path(), 'keep')
    await assert.rejects(notifyBarrier({ timeout: 0 }), { code: 'ERR_NOTIFY_TIMEOUT' })
  })

  for (const count of [1, 65]) {
    it(`resolves ${count} barriers that are answered in time while the event loop is blocked`, async () => {
      await serviceManager(path())
      const barriers: Promise<boolean>[] = []
      const answered = countAnswered()
      for (let i = 0; i < count; i++) {
        barriers.push(notifyBarrier({ timeout: 1 }))
        // The kernel queues only about ten datagrams (net.unix.max_dgram_qlen).
        while (answered() <= i);
      }
      standStill(5)
      assert.deepEqual([...new Set(await Promise.all(barriers))], [true])
    })
  }

  it('resolves when the answer has already arrived, even with timeout 0', async () => {
    await serviceManager(path())
    const answered = countAnswered()
    const barrier = notifyBarrier({ timeout: 0 })
    while (answered() < 1);
    assert.equal(await barrier, true)
  })

  it('does not resolve on a spurious readiness event', async () => {
    const manager = await serviceManager(path(), 'mute')
    const before = new Set(binding.watchers?.keys())
    const barrier = notifyBarrier({ timeout: -1 })
    let passed = false
    barrier.then(() => {
      passed = true
    })
    for (const [fd, run] of binding.watchers ?? []) {
      // An event as for an earlier fd with the same number.
      if (!before.has(fd)) run(true, false)
    }
    await nextTurn()
    assert.equal(passed, false)
    manager.child.kill('SIGKILL')
    assert.equal(await barrier, true)
  })

  it('resolves when the service manager exits before it reads the barrier', async () => {
    const { child } = await serviceManager(path(), 'mute')
    const barrier = notifyBarrier({ timeout: Number.MAX_SAFE_INTEGER })
    child.kill('SIGKILL')
    assert.equal(await barrier, true)
  })

  it('supports several concurrent barriers', async () => {
    const manager = await serviceManager(path())
    const barriers = Array.from({ length: 5 }, () => notifyBarrier({ timeout: -1 }))
    assert.deepEqual(await Promise.all(barriers), Array(5).fill(true))
    assert.equal((await manager.got(5)).length, 5)
  })

  it('rejects invalid options', async () => {
    for (const options of [null, { timeout: 'soon' }] as never[]) {
      await assert.rejects(notifyBarrier(options), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })
})
