import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import http from 'node:http'
import { type DrainReport, type Serving, type ServingStateMessage, serve } from '../../src/index.js'
import { captureExceptions, cleanUp, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const channel = 'async-accept.serving-state'

function subscribe(handle: (message: ServingStateMessage) => void): void {
  const onMessage = (message: unknown) => handle(message as ServingStateMessage)
  diagnostics.subscribe(channel, onMessage)
  cleanUp(() => diagnostics.unsubscribe(channel, onMessage))
}

describe(`The diagnostics channel ${channel}`, () => {
  leaveNoFds()

  for (const [name, end, states] of [
    ['close()', (serving: Serving) => serving.close(), ['serving', 'closing', 'closed']],
    ['drain()', (serving: Serving) => serving.drain(), ['serving', 'draining', 'closing', 'closed']],
    [
      'listener.close()',
      async (serving: Serving) => {
        await serving.listener.close()
        await until(() => serving.state === 'closed')
      },
      ['serving', 'closing', 'closed'],
    ],
  ] as const) {
    it(`reports each state in order: ${name}`, async () => {
      const messages: ServingStateMessage[] = []
      subscribe((message) => {
        assert.equal(message.serving.state, message.state)
        messages.push(message)
      })
      const serving = serve(await listen({ host: '127.0.0.1' }), http.createServer())
      await end(serving)
      assert.ok(messages.every((message) => message.serving === serving))
      assert.deepEqual(
        messages.map(({ before, state }) => [before, state]),
        states.map((state, i) => [states[i - 1], state]),
      )
    })
  }

  it('may have a subscriber that closes the Serving', async () => {
    const states: string[] = []
    subscribe(({ serving, state }) => {
      states.push(state)
      void serving.close({ closeListener: true })
    })
    const listener = await listen({ host: '127.0.0.1' })
    await serve(listener, () => {}).close()
    assert.deepEqual(states, ['serving', 'closing', 'closed'])
    assert.equal(listener.address(), null)
  })

  for (const [which, closeListener] of [
    ['closes', true],
    ['leaves open', false],
  ] as const) {
    it(`may have a subscriber that closes the Serving, and a drain still ${which} the listener`, async () => {
      subscribe(({ serving, state }) => {
        if (state === 'draining') void serving.close({ closeListener: !closeListener })
      })
      const listener = await listen({ host: '127.0.0.1' })
      // While it is paused, no accept request delays the next states.
      const serving = serve(listener, () => {}).pause()
      await serving.drain({ closeListener })
      assert.equal(listener.address() === null, closeListener)
    })
  }

  it('may have a subscriber that drains the Serving, which drains once', async () => {
    const drains: Promise<DrainReport>[] = []
    subscribe(({ serving, state }) => {
      if (state === 'draining') drains.push(serving.drain())
    })
    const serving = serve(await listen({ host: '127.0.0.1' }), http.createServer())
    let events = 0
    serving.on('drain', () => events++)
    const drained = serving.drain()
    await drained
    assert.deepEqual([drains[0] === drained, drains.length, events], [true, 1, 1])
  })

  it('may have a subscriber that throws, or that enters a store, without an effect on the caller', async () => {
    const exceptions = captureExceptions()
    const storage = new AsyncLocalStorage<string>()
    subscribe(() => {
      storage.enterWith('of the subscriber')
      throw new Error('from a subscriber')
    })
    const serving = serve(await listen({ host: '127.0.0.1' }), () => {})
    assert.equal(storage.getStore(), undefined)
    await serving.close()
    await until(() => exceptions.length === 3)
  })
})
