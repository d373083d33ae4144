import assert from 'node:assert/strict'
import { constants } from 'node:os'
import { CommandedListener, outcomes, type Said } from './commanded-listener.js'

// Node itself needs about 20 fds.
const fewFds = ['prlimit', '--nofile=64']

const delays = (said: readonly Said[]) => said.map(({ delay }) => delay)
const passed = (said: readonly Said[], of: 'cpu' | 'wall' | 'turns') =>
  (said.at(-1)?.[of] as number) - (said[0]?.[of] as number)

describe('Listener at the fd limit', () => {
  describe("onFdLimit: 'hold'", () => {
    it('leaves clients in the backlog while no fd is free, and serves them as fds become free', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      listener.tell('hold')
      const refs = await listener.ask(100)
      const clients = await listener.connectMany(100)
      const [pause] = await listener.has(1, 'pause')
      const { backlog, pending, stats } = await listener.look()
      // `pending` cannot have grown since. It is one less when Node has just closed one of its own fds.
      assert.ok((pause?.pending as number) >= pending)
      assert.ok(stats.accepted > 0 && stats.accepted < 64, `${stats.accepted} accepted`)
      assert.equal(stats.accepted + pending, 100)
      assert.equal(backlog.queued, pending)
      listener.tell('serve')
      assert.deepEqual(await outcomes(clients), refs.map(String))
      const after = await listener.look()
      assert.equal(after.stats.accepted, 100)
      assert.equal(after.stats.rejected + after.stats.timedOut + after.stats.cancelled, 0)
      await listener.end()
    })

    it('pauses longer each time, up to one second, emits each pause, does not spin, and resumes', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      const refs = await listener.ask(3)
      await listener.exhaust()
      const clients = await listener.connectMany(3)
      const pauses = (await listener.has(9, 'pause')).slice(0, 9)
      assert.deepEqual(delays(pauses), [10, 20, 40, 80, 160, 320, 640, 1000, 1000])
      for (const { code, errno, syscall, pending } of pauses) {
        const expected = { code: 'EMFILE', errno: -constants.errno.EMFILE, syscall: 'accept4', pending: 3 }
        assert.deepEqual({ code, errno, syscall, pending }, expected)
      }
      // From the third pause to the seventh: long enough to tell waiting from spinning, whose ratio is 1.
      const measured = pauses.slice(2, 7)
      const cpu = passed(measured, 'cpu') / passed(measured, 'wall')
      assert.ok(cpu < 0.5, `used ${cpu} of a core`)
      // On a machine that is short of CPU, a spinning process gets little CPU too, but its event loop still turns.
      const turns = passed(measured, 'turns')
      assert.ok(turns < 100, `the event loop turned ${turns} times`)

      const { backlog, pending, stats } = await listener.look()
      assert.equal(backlog.queued, 3)
      assert.equal(pending, 3)
      assert.equal(stats.accepted, 0)
      assert.ok(stats.capacityPauses >= 9)
      await listener.free()
      assert.deepEqual(await outcomes(clients), refs.map(String))
      assert.equal((await listener.look()).backlog.queued, 0)
      await listener.end()
    })

    it('publishes every pause on the diagnostics channel', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      await listener.ask(2)
      await listener.exhaust()
      const [client] = await listener.connectMany(1)
      await listener.has(4, 'pause')
      await listener.free()
      assert.equal(await client?.outcome, '1')
      const pauses = listener.all('pause')
      const published = listener.all('channel')
      assert.deepEqual(
        published,
        pauses.map(({ code, delay, pending }) => ({ event: 'channel', code, delay, pending, own: true })),
      )
      await listener.end()
    })

    it('starts with a short pause again after a successful accept', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      await listener.ask(2)
      await listener.exhaust()
      const first = await listener.connect()
      await listener.has(3, 'pause')
      await listener.free()
      assert.equal(await first.outcome, '1')
      const before = listener.all('pause').length
      await listener.exhaust()
      const second = await listener.connect()
      const again = (await listener.has(before + 2, 'pause')).slice(before, before + 2)
      assert.deepEqual(delays(again), [10, 20])
      await listener.free()
      assert.equal(await second.outcome, '2')
      await listener.end()
    })

    it('uses one freed fd for the oldest client', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      listener.tell('hold')
      await listener.ask(2)
      await listener.exhaust()
      const clients = await listener.connectMany(2)
      await listener.has(1, 'pause')
      await listener.free(1)
      await listener.has(1, 'accepted')
      const { stats, backlog } = await listener.look()
      assert.deepEqual([stats.accepted, backlog.queued], [1, 1])
      listener.tell('serve')
      assert.deepEqual(await outcomes(clients), ['1', '2'])
      await listener.end()
    })

    it('times out requests during a pause', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      await listener.exhaust()
      const [forever] = await listener.ask(1)
      const client = await listener.connect()
      await listener.has(3, 'pause')
      const brief = await listener.ask(2, 30)
      const none = await listener.ask(1, 0)
      const failed = await listener.has(3, 'failed')
      assert.deepEqual(
        failed.map(({ code }) => code),
        Array(3).fill('ERR_ACCEPT_TIMEOUT'),
      )
      assert.deepEqual(failed.map(({ ref }) => ref).sort(), [...brief, ...none])
      assert.equal((await listener.look()).pending, 1)
      await listener.free()
      assert.equal(await client.outcome, String(forever))
      await listener.end()
    })

    it('times out no request during a pause when fds are free again and a client waits', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      const [forever] = await listener.ask(1)
      await listener.exhaust()
      const clients = await listener.connectMany(2)
      // The next attempt is most of a second away.
      await listener.has(7, 'pause')
      await listener.free()
      const [none] = await listener.ask(1, 0)
      assert.deepEqual(await outcomes(clients), [String(forever), String(none)])
      assert.equal((await listener.look()).stats.timedOut, 0)
      await listener.end()
    })

    it('cancels during a pause, and the client goes to the next request', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      const [first, second, third] = (await listener.ask(3)) as [number, number, number]
      await listener.exhaust()
      const client = await listener.connect()
      await listener.has(1, 'pause')
      assert.deepEqual(await listener.cancel(first, second, first), [true, true, false])
      await listener.free()
      assert.equal(await client.outcome, String(third))
      assert.equal((await listener.look()).stats.cancelled, 2)
      await listener.end()
    })

    it('stops retrying when the last request is cancelled, and leaves the client in the backlog', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      const refs = await listener.ask(2)
      await listener.exhaust()
      const client = await listener.connect()
      await listener.has(1, 'pause')
      await listener.cancel(...refs)
      await listener.free()
      const { pending, backlog, stats } = await listener.look()
      assert.deepEqual([pending, backlog.queued, stats.accepted], [0, 1, 0])
      const [next] = await listener.ask(1)
      assert.equal(await client.outcome, String(next))
      await listener.end()
    })

    it('rejects pending requests, in order, when it closes during a pause', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      const refs = await listener.ask(3)
      await listener.exhaust()
      const client = await listener.connect()
      await listener.has(2, 'pause')
      listener.tell('close')
      await listener.has(1, 'closed')
      const before = listener.said.length
      assert.deepEqual(
        listener.all('failed').map(({ ref, code }) => ({ ref, code })),
        refs.map((ref) => ({ ref, code: 'ERR_LISTENER_CLOSED' })),
      )
      assert.equal(await client.outcome, 'ECONNRESET')
      // No pause remains that keeps the process alive or emits an event.
      await listener.end()
      assert.equal(listener.said.length, before)
    })
  })

  describe("onFdLimit: 'reset'", () => {
    it('resets clients at once, keeps the requests, and resumes', async () => {
      const listener = await CommandedListener.start({ onFdLimit: 'reset' }, fewFds)
      const refs = await listener.ask(5)
      await listener.exhaust()
      assert.deepEqual(await outcomes(await listener.connectMany(10)), Array(10).fill('ECONNRESET'))
      const { pending, stats, backlog } = await listener.look()
      assert.equal(pending, 5)
      assert.equal(backlog.queued, 0)
      assert.deepEqual([stats.accepted, stats.reset, stats.capacityPauses], [0, 10, 1])
      await listener.free()
      assert.deepEqual(await outcomes(await listener.connectMany(5)), refs.map(String))
      assert.equal((await listener.look()).stats.reset, 10)
      await listener.end()
    })

    it('emits one event each time the limit is reached', async () => {
      const listener = await CommandedListener.start({ onFdLimit: 'reset' }, fewFds)
      await listener.ask(2)
      await listener.exhaust()
      await outcomes(await listener.connectMany(3))
      const [pause] = await listener.has(1, 'pause')
      assert.deepEqual([pause?.code, pause?.delay, pause?.pending], ['EMFILE', 0, 2])
      await listener.free()
      assert.equal(await (await listener.connect()).outcome, '1')
      assert.equal(listener.all('pause').length, 1)
      await listener.exhaust()
      await outcomes(await listener.connectMany(3))
      assert.deepEqual(delays(await listener.has(2, 'pause')), [0, 0])
      assert.deepEqual(delays(listener.all('channel')), [0, 0])
      await listener.end()
    })

    it('leaves clients in the backlog while no request is outstanding', async () => {
      const listener = await CommandedListener.start({ onFdLimit: 'reset' }, fewFds)
      await listener.exhaust()
      const clients = await listener.connectMany(3)
      const { backlog, stats } = await listener.look()
      assert.deepEqual([backlog.queued, stats.reset], [3, 0])
      await listener.free()
      const refs = await listener.ask(3)
      assert.deepEqual(await outcomes(clients), refs.map(String))
      await listener.end()
    })

    it('times out, cancels and closes at the limit', async () => {
      const listener = await CommandedListener.start({ onFdLimit: 'reset' }, fewFds)
      await listener.exhaust()
      const [first, second] = (await listener.ask(2)) as [number, number]
      await outcomes(await listener.connectMany(2))
      const [brief] = await listener.ask(1, 20)
      assert.deepEqual((await listener.has(1, 'failed'))[0]?.ref, brief)
      assert.deepEqual(await listener.cancel(first), [true])
      listener.tell('close')
      await listener.has(1, 'closed')
      const { ref, code } = listener.all('failed')[1] as Said
      assert.deepEqual({ ref, code }, { ref: second, code: 'ERR_LISTENER_CLOSED' })
      await listener.end()
    })
  })
})
