import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import type { FdChannel, FdMessage } from '../../src/index.js'
import { channels, copiesOf, inode, inodesOf, next, nextText, openFiles, socketTypes } from '../channels.js'
import { codeOf, openFds, runNode, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

const waiting = 20

/** Sends until messages must wait. On a stream, the first of them is sent in part. Returns their outcomes. */
const fill = (channel: FdChannel) =>
  Array.from({ length: waiting }, () => channel.send(Buffer.alloc(60_000)).then(() => 'sent', codeOf))

/** Fills the socket with whole messages, so that the next message is not sent in part. */
async function fillWhole(channel: FdChannel): Promise<void> {
  for (;;) {
    const sent = channel.send(Buffer.alloc(1000), [], { timeout: 0 }).then(() => true, codeOf)
    const outcome = await sent
    if (outcome === 'ERR_CHANNEL_TIMEOUT') return
    assert.equal(outcome, true)
  }
}

/** Receives messages until one has this text. */
async function received(channel: FdChannel, text: string): Promise<FdMessage> {
  for (;;) {
    const message = await next(channel)
    assert.ok(message, `no message ${text}`)
    if (String(message.data) === text) return message
  }
}

for (const type of socketTypes) {
  describe(`FdChannel.send to a peer that does not read, ${type}`, () => {
    lookedBefore()
    leaveNoFds()

    it('withdraws a message at its timeout, closes the copies of its fds, and sends the later messages', async () => {
      const [a, b] = channels(type)
      const [file, other] = openFiles(2) as [number, number]
      const filled = fill(a)
      const before = openFds().length
      const sent = a.send('withdrawn', [file, file, file], { timeout: 20 })
      assert.equal(copiesOf(file), 3)
      await assert.rejects(sent, { code: 'ERR_CHANNEL_TIMEOUT' })
      await until(() => openFds().length === before)
      assert.equal(copiesOf(file), 0)
      const last = a.send('last', [other])
      for (let i = 0; i < waiting; i++) assert.equal((await next(b))?.data.length, 60_000)
      const message = (await next(b)) as FdMessage
      assert.equal(String(message.data), 'last')
      assert.deepEqual(inodesOf(message), [inode(other)])
      await last
      assert.deepEqual([...new Set(await Promise.all(filled))], ['sent'])
    })

    it('withdraws a message on abort', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      const filled = fill(a)
      const controller = new AbortController()
      const { signal } = controller
      const sends = [a.send('x', [file], { signal }), a.send('y', [file, file], { signal, timeout: 60_000 })]
      const last = a.send('last')
      assert.equal(copiesOf(file), 3)
      const reason = new Error('enough')
      controller.abort(reason)
      for (const sent of sends) {
        await assert.rejects(sent, { name: 'AbortError', code: 'ABORT_ERR', cause: reason })
      }
      await until(() => copiesOf(file) === 0)
      for (let i = 0; i < waiting; i++) await next(b)
      assert.equal(await nextText(b), 'last')
      await Promise.all([...filled, last])
    })

    it('fails at once with a signal that is aborted already, and sends nothing', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      await assert.rejects(a.send('x', [file], { signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
      await a.send('y')
      assert.equal(await nextText(b), 'y')
    })

    it('with a timeout of 0 sends only if there is room', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      await a.send('room', [file], { timeout: 0 })
      await fillWhole(a)
      await assert.rejects(a.send('no room', [file], { timeout: 0 }), { code: 'ERR_CHANNEL_TIMEOUT' })
      const first = (await next(b)) as FdMessage
      assert.equal(String(first.data), 'room')
      for (const fd of first.fds) fd.close()
      const last = a.send('last')
      const { fds } = await received(b, 'last')
      assert.equal(fds.length, 0)
      await last
      await until(() => copiesOf(file) === 0)
    })

    it('sends a message in time when the peer reads before the timeout', async () => {
      const [a, b] = channels(type)
      const filled = fill(a)
      const [file] = openFiles(1) as [number]
      const sent = a.send('in time', [file], { timeout: 60_000, signal: new AbortController().signal })
      assert.deepEqual(inodesOf(await received(b, 'in time')), [inode(file)])
      await Promise.all([...filled, sent])
    })

    it('leaves no listener on the signal of a message that is sent or given up', async () => {
      const [a, b] = channels(type)
      const { signal } = new AbortController()
      const listeners = () => getEventListeners(signal, 'abort').length
      await a.send('at once', [], { signal })
      assert.equal(listeners(), 0)
      const filled = fill(a)
      const sent = a.send('sent', [], { signal })
      const timedOut = a.send('never', [], { signal, timeout: 1 })
      assert.equal(listeners(), 1)
      await assert.rejects(timedOut, { code: 'ERR_CHANNEL_TIMEOUT' })
      await received(b, 'sent')
      await Promise.all([...filled, sent])
      assert.equal(listeners(), 0)
    })

    it('does not keep the process alive for a message that is sent or given up', async () => {
      const { code, stdout, stderr } = await runNode('send-given-up.mjs', [type])
      assert.deepEqual([code, stdout, stderr], [0, 'ERR_CHANNEL_TIMEOUT\nfull\n', ''])
    })
  })
}

describe('FdChannel.send of a message that is sent in part', () => {
  lookedBefore()
  leaveNoFds()

  /** Leaves a message with an fd half sent. */
  function halfSent(channel: FdChannel, file: number, options: { timeout?: number; signal?: AbortSignal }) {
    const sends = Array.from({ length: waiting }, () => channel.send(Buffer.alloc(60_000), [file], options))
    return Promise.allSettled(sends)
  }

  const codesOf = (outcomes: PromiseSettledResult<void>[]) => [
    ...new Set(outcomes.map((each) => (each.status === 'rejected' ? codeOf(each.reason) : 'sent'))),
  ]

  for (const [how, code, end] of [
    ['times out', 'ERR_CHANNEL_TIMEOUT', { timeout: 20 }],
    ['is aborted', 'ABORT_ERR', undefined],
  ] as const) {
    it(`ends sending when it ${how}: the peer gets no later message`, async () => {
      const [a, b] = channels('stream')
      const [file] = openFiles(1) as [number]
      const controller = new AbortController()
      const before = openFds().length
      const sending = halfSent(a, file, end ?? { signal: controller.signal })
      const queued = a.send('behind it', [file]).catch((error) => error)
      assert.notEqual(copiesOf(file), 0)
      controller.abort()
      const outcomes = await sending
      assert.deepEqual(codesOf(outcomes), ['sent', code, 'ERR_CHANNEL_MESSAGE'])
      const partial = outcomes.find(({ status }) => status === 'rejected') as PromiseRejectedResult
      assert.equal(codeOf(partial.reason), code)
      for (const error of [await queued, await a.send('later', [file]).catch((error) => error)]) {
        assert.equal(codeOf(error), 'ERR_CHANNEL_MESSAGE')
        assert.equal(error.cause, partial.reason)
      }
      await until(() => openFds().length === before)
      assert.equal(copiesOf(file), 0)

      // The other direction still works.
      await b.send('from the peer')
      assert.equal(await nextText(a), 'from the peer')
      const whole = outcomes.filter(({ status }) => status === 'fulfilled').length
      for (let i = 0; i < whole; i++) inodesOf(await next(b))
      const last = next(b)
      a.close()
      await assert.rejects(last, { code: 'ERR_CHANNEL_MESSAGE', message: /is incomplete/ })
    })
  }

  it('does not keep the process alive after its rest was sent at the timeout', async () => {
    const { code, stdout, stderr } = await runNode('sent-at-timeout.mjs')
    assert.deepEqual([code, stdout, stderr], [0, 'sent\n', ''])
  })

  it('says in the error of the timeout that a part was sent', async () => {
    const [a, b] = channels('stream')
    const large = Array.from({ length: waiting }, () => a.send(Buffer.alloc(60_000), [], { timeout: 20 }))
    const outcomes = await Promise.allSettled(large)
    const first = outcomes.find(({ status }) => status === 'rejected') as PromiseRejectedResult
    assert.match(first.reason.message, /a part of it was sent/)
    b.close()
  })
})
