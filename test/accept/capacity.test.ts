import assert from 'node:assert/strict'
import { constants } from 'node:os'
import { CommandedListener, outcomes, type Said } from './commanded-listener.js'

// Node itself needs some 20 fds.
const fewFds = ['prlimit', '--nofile=64']

const delays = (said: readonly Said[]) => said.map(({ delay }) => delay)
const passed = (said: readonly Said[], of: 'cpu' | 'wall' | 'turns') =>
  (said.at(-1)?.[of] as number) - (said[0]?.[of] as number)

describe('Listener at the fd limit', () => {
  describe("onFdLimit: 'hold'", () => {
    it('leaves the clients that there is no fd for in the backlog, and serves them as fds come free', async () => {
      const listener = await CommandedListener.start({}, fewFds)
      listener.tell('hold')
      const refs = await listener.ask(100)
      const clients = await listener.connectMany(100)
      const [pause] = await listener.has(1, 'pause')
      const { backlog, pending, stats } = await listener.look()
      // Not more by now; one less when Node has just closed a file of its own.
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

    it('pauses for longer each time, up to a second, says so, does not spin, and goes on by itself', async () => {
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
      // From the third pause to the seventh: long enough to tell waiting from spinning, which would give 1.
      const measured = pauses.slice(2, 7)
      const cpu = passed(measured, 'cpu') / passed(measured, 'wall')
      assert.ok(cpu < 0.5, `${cpu} of a core used`)
      // On a machine that is short of CPU a spinning process gets little of it too, but its loop turns all the same.
      const turns = passed(measured, 'turns')
      assert.ok(turns < 100, `the event loop has turned ${turns} times`)

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

    it('begins with a short pause again once an accept has succeeded', async () => {
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

    it('uses one freed fd for one client, the oldest', async () => {
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

    it('lets requests run out during a pause', async () => {
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

    it('lets no request run out during a pause when there are fds again and a client waits', async () => {
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

    it('cancels during a pause: the client goes to the next request', async () => {
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

    it('stops trying when the last request is cancelled, and the client stays in the backlog', async () => {
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

    it('rejects what is pending, in order, when it is closed during a pause', async () => {
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
      // No pause is left that could keep it alive or that it would speak of.
      await listener.end()
      assert.equal(listener.said.length, before)
    })
  })

  describe("onFdLimit: 'reset'", () => {
    it('resets clients at once, keeps the requests, and goes on by itself', async () => {
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

    it('says once that the limit is reached, and again when it is reached again', async () => {
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

    it('leaves clients in the backlog while nobody asks, as ever', async () => {
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

    it('lets requests run out, cancels and closes at the limit', async () => {
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
