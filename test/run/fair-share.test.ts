import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { constants } from 'node:os'
import { join } from 'node:path'
import { binding } from '../../src/core/binding.js'
import { Listener, type Serving, serve } from '../../src/index.js'
import { FairShare } from '../../src/run/fair-share.js'
import { Scoreboard } from '../../src/run/scoreboard.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'

const otherSlot = 1

/** A worker in this process, beside another whose numbers the test sets. */
async function worker(limit: number) {
  const path = join(temporaryDirectory(), 'board')
  const supervisor = Scoreboard.create(path, limit)
  const share = new FairShare(Scoreboard.open(path), supervisor.claim(), true)
  supervisor.claim()
  const listener = await Listener.listen({ port: 0, host: '127.0.0.1' })
  const serving = serve(listener, (connection) =>
    connection
      .toSocket()
      .resume()
      .on('error', () => {}),
  )
  cleanUp(() => {
    share.stop(serving)
    return serving.drain({ timeout: 0, closeListener: true })
  })
  share.limit(serving)
  return { supervisor, other: Scoreboard.open(path), listener, serving }
}

async function connect({ listener }: Serving): Promise<net.Socket> {
  const client = net.connect((listener.address() as net.AddressInfo).port, '127.0.0.1')
  cleanUp(() => client.destroy())
  await once(client, 'connect')
  return client
}

describe('The share of a worker', () => {
  it('accepts no client with a place that it has given back', async () => {
    const { other, serving, listener } = await worker(5)
    other.set(otherSlot, 4, true)
    const clients: net.Socket[] = []
    for (const count of [1, 2, 3, 4]) {
      clients.push(await connect(serving))
      await until(() => serving.connections === count && listener.pending === 1)
    }
    other.set(otherSlot, 0, true)
    clients[0]?.destroy()
    await until(() => serving.connections === 3)
    // Now it stands back, so that the other worker gets both places.
    assert.deepEqual([other.take(otherSlot), other.take(otherSlot)], [true, true])
    assert.equal(listener.pending, 0)
  })

  it('accepts a client that arrives after a place has become free', async () => {
    const { other, serving } = await worker(2)
    assert.deepEqual([other.take(otherSlot), other.take(otherSlot)], [true, false])
    await connect(serving)
    await until(() => serving.connections === 1)
    other.giveBack()
    await connect(serving)
    await until(() => serving.connections === 2)
  })

  it('stands back also when no fd is free', async () => {
    const { other, serving } = await worker(0)
    const { duplicate } = binding
    cleanUp(() => {
      binding.duplicate = duplicate
    })
    binding.duplicate = () => -constants.errno.EMFILE
    other.set(otherSlot, 0, true)
    for (const count of [1, 2, 3, 4]) {
      await connect(serving)
      // The other worker accepts nothing, so it counts as blocked after some time.
      await until(() => serving.connections === count)
    }
  })
})
