import assert from 'node:assert/strict'
import { needsStrace } from '../needs.js'
import { CommandedListener, outcomes } from './commanded-listener.js'

// strace makes accept4 fail without calling it.
const failing = (error: string, when: string) =>
  `strace -f -qq --seccomp-bpf -o /dev/null -e trace=accept4 -e inject=accept4:error=${error}:when=${when}`.split(' ')

describe('Listener when accept4 fails', () => {
  before(function () {
    needsStrace(this)
  })

  for (const error of ['ENFILE', 'ENOBUFS', 'ENOMEM']) {
    it(`pauses on ${error}, and keeps every request`, async () => {
      const listener = await CommandedListener.start({}, failing(error, '1..3'))
      const refs = await listener.ask(2)
      const clients = await listener.connectMany(2)
      assert.deepEqual(await outcomes(clients), refs.map(String))
      assert.deepEqual(
        listener.all('pause').map(({ code, delay, pending }) => [code, delay, pending]),
        [10, 20, 40].map((delay) => [error, delay, 2]),
      )
      await listener.end()
    })
  }

  const retried = ['ECONNABORTED', 'EINTR', 'EPROTO', 'EPERM', 'ENETDOWN', 'ENOPROTOOPT', 'EHOSTDOWN', 'ENONET']
  for (const error of [...retried, 'EHOSTUNREACH', 'EOPNOTSUPP', 'ENETUNREACH', 'ETIMEDOUT']) {
    it(`retries at once on ${error}, and keeps every request`, async () => {
      const listener = await CommandedListener.start({}, failing(error, '1..2'))
      const refs = await listener.ask(2)
      assert.deepEqual(await outcomes(await listener.connectMany(2)), refs.map(String))
      const { stats } = await listener.look()
      assert.deepEqual([stats.accepted, stats.retried, stats.capacityPauses], [2, 2, 0])
      assert.deepEqual(listener.all('failed'), [])
      await listener.end()
    })
  }

  it('pauses instead of spinning when a transient error persists', async () => {
    const listener = await CommandedListener.start({}, failing('EPERM', '1..768'))
    const [ref] = await listener.ask(1)
    const client = await listener.connect()
    assert.equal(await client.outcome, String(ref))
    assert.deepEqual(
      listener.all('pause').map(({ code, delay }) => [code, delay]),
      [10, 20, 40].map((delay) => ['EPERM', delay]),
    )
    await listener.end()
  })

  it('rejects every request, in order, on a fatal error', async () => {
    const listener = await CommandedListener.start({}, failing('ENOTSOCK', '1'))
    const refs = await listener.ask(3)
    const client = await listener.connect()
    assert.deepEqual(
      await listener.has(3, 'failed'),
      refs.map((ref) => ({ event: 'failed', ref, code: 'ENOTSOCK', syscall: 'accept4' })),
    )
    const { stats, backlog } = await listener.look()
    assert.deepEqual([stats.accepted, stats.rejected, backlog.queued], [0, 3, 1])
    // The next request makes a new attempt.
    const [next] = await listener.ask(1)
    assert.equal(await client.outcome, String(next))
    await listener.end()
  })
})
