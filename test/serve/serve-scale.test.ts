// Counts operations instead of measuring time: the work for one connection or one listener must not depend on the
// number of other listeners.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Connection, Listener, type ServeOptions, serve } from '../../src/index.js'
import { cleanUp, connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'

/** Opens listeners and counts how often a Serving reads their fds, as it does before each look at a listener. */
async function countedListeners(count: number) {
  const listeners: Listener[] = []
  const looks = { count: 0 }
  const { get } = Object.getOwnPropertyDescriptor(Listener.prototype, 'fd') as Required<PropertyDescriptor>
  for (let i = 0; i < count; i++) {
    const listener = await listen({ host })
    Object.defineProperty(listener, 'fd', {
      get() {
        looks.count++
        return get.call(listener)
      },
    })
    listeners.push(listener)
  }
  return { listeners, looks }
}

function served(listeners: readonly Listener[], options?: ServeOptions) {
  const open: Connection[] = []
  const serving = serve(listeners, (connection) => void open.push(connection), options)
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { serving, open }
}

describe('serve with 200 listeners', () => {
  leaveNoFds()
  const count = 200

  for (const maxConnections of [Number.POSITIVE_INFINITY, 10 * count, 10 * count + 5, count + 20]) {
    it(`looks at a constant number of listeners for each connection with maxConnections ${maxConnections}`, async () => {
      const { listeners, looks } = await countedListeners(count)
      const { serving, open } = served(listeners, { maxConnections })
      const last = listeners.at(-1) as Listener
      const requests = () => listeners.reduce((sum, { pending }) => sum + pending, 0)
      const expected = () => Math.min(64 * count, maxConnections - serving.connections)
      assert.equal(requests(), expected())
      const before = looks.count
      for (let i = 1; i <= 12; i++) {
        await connect(last)
        await until(() => open.length === i)
        assert.equal(requests(), expected())
        const [least, most] = [Math.min, Math.max].map((of) => of(...listeners.map(({ pending }) => pending)))
        assert.ok((most as number) - (least as number) <= 1)
      }
      for (const connection of open) connection.close()
      await until(() => serving.connections === 0)
      await nextTurn()
      assert.equal(requests(), expected())
      assert.ok(looks.count - before <= count, `${looks.count - before} looks`)
    })
  }

  it('looks at each listener a constant number of times when all are closed', async () => {
    const { listeners, looks } = await countedListeners(count)
    const { serving } = served(listeners)
    const before = looks.count
    const ended = once(serving, 'close')
    for (const each of listeners) each.close()
    await ended
    assert.ok(looks.count - before <= 100 * count, `${looks.count - before} looks`)
  })

  it('reports the end of a listener once under a limit, for all of its requests', async () => {
    const { listeners, looks } = await countedListeners(count)
    served(listeners, { maxConnections: 10 * count })
    const before = looks.count
    await listeners[0]?.close()
    await nextTurn()
    assert.equal(listeners[1]?.pending, 11)
    assert.ok(looks.count - before <= count, `${looks.count - before} looks`)
  })
})
