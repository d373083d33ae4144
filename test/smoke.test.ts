import assert from 'node:assert/strict'
import { collect, connect, listen, openFds, refsOf, until } from './helpers.js'

describe('smoke', () => {
  it('accepts', async () => {
    const before = openFds()
    const listener = await listen()
    const results = collect(listener)
    const ref = listener.asyncAccept()
    const client = await connect(listener)
    await until(() => results.length === 1)
    assert.deepEqual(refsOf(results), [ref])
    client.destroy()
    await listener.close()
    await until(() => openFds().length === before.length)
  })
})
