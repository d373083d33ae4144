import assert from 'node:assert/strict'
import { once } from 'node:events'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import { Worker } from 'node:worker_threads'
import type { Connection, Listener } from '../../src/index.js'
import { queued } from '../backlog.js'
import { cleanUp, connect, gone, listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

/** A thread with a fixture, which is terminated when the current test ends. */
function start(fixture: string, workerData: object): Worker {
  // Without this process' own arguments, which would let it compile TypeScript.
  const worker = new Worker(new URL(`../fixtures/${fixture}`, import.meta.url), { workerData, execArgv: [] })
  cleanUp(() => worker.terminate())
  return worker
}

/** When it has said so. */
async function says(worker: Worker, expected: string): Promise<void> {
  assert.deepEqual(await once(worker, 'message'), [expected])
}

/** A client that has said something, and what it will have been answered in the end. */
async function ask(listener: Listener, request: string) {
  const client = await connect(listener)
  client.write(request)
  // It has to end its side, too: only then has the other end room again.
  const answer = text(client).finally(() => client.destroy())
  return { client, answer: answer.catch(() => 'reset') }
}

describe('Threads that pull from one listening socket', () => {
  leaveNoFds()

  const host = '127.0.0.1'

  async function pulling(fd: number, name: string, room: number): Promise<Worker> {
    const worker = start('thread-that-pulls.mjs', { fd, name, room })
    await says(worker, 'ready')
    return worker
  }

  it('leave clients in the backlog when none of them has room, for the next that has', async () => {
    const listener = await listen({ host })
    const full = await pulling(listener.fd, 'full', 2)
    for (let i = 0; i < 2; i++) {
      const stays = says(full, 'stay')
      await ask(listener, 'stay')
      await stays
    }
    const waiting = await Promise.all(Array.from({ length: 10 }, () => ask(listener, 'answer')))
    await queued(listener, 10)
    await pulling(listener.fd, 'free', 1)
    assert.deepEqual(await Promise.all(waiting.map(({ answer }) => answer)), Array(10).fill('free'))
  })

  it('answer all clients while one of them is blocked, although that one has asked too', async () => {
    const listener = await listen({ host })
    const blocked = await pulling(listener.fd, 'blocked', 5)
    const blocks = says(blocked, 'block')
    await ask(listener, 'block')
    await blocks
    await pulling(listener.fd, 'free', 1)
    const clients = await Promise.all(Array.from({ length: 20 }, () => ask(listener, 'answer')))
    assert.deepEqual(await Promise.all(clients.map(({ answer }) => answer)), Array(20).fill('free'))
  })

  it('take none along but those that they hold when they die', async () => {
    const listener = await listen({ host })
    const mortal = await pulling(listener.fd, 'mortal', 3)
    const held: net.Socket[] = []
    for (const request of ['stay', 'stay', 'block']) {
      const holds = says(mortal, request)
      held.push((await ask(listener, request)).client)
      await holds
    }
    const waiting = await Promise.all(Array.from({ length: 10 }, () => ask(listener, 'answer')))
    await mortal.terminate()
    for (const client of held) await gone(client)
    await pulling(listener.fd, 'next', 1)
    assert.deepEqual(await Promise.all(waiting.map(({ answer }) => answer)), Array(10).fill('next'))
  })

  it('end when they have closed their own listeners, and the socket goes on', async () => {
    const listener = await listen({ host })
    const worker = await pulling(listener.fd, 'early', 2)
    worker.postMessage('close')
    assert.deepEqual(await once(worker, 'exit'), [0])
    const { answer } = await ask(listener, 'answer')
    await pulling(listener.fd, 'late', 1)
    assert.equal(await answer, 'late')
  })
})

describe('A thread that is offered connections', () => {
  lookedBefore()
  leaveNoFds()

  const clients = 10

  /** How the first thread ends: when it has taken some, and has copied some more without saying so. */
  interface FirstThread {
    take: number
    copy: number
    end: 'exit' | 'throw' | 'terminate'
  }

  /** Offers connections to a thread, and what that has not taken when it ends to another. What each client got. */
  async function offerToTwo(first: FirstThread): Promise<string[]> {
    const listener = await listen({ host: '127.0.0.1' })
    const offered = new Map<number, Connection>()
    const answers: Promise<string>[] = []
    for (let i = 0; i < clients; i++) {
      answers.push((await ask(listener, `client ${i}`)).answer)
      const connection = await listener.accept()
      cleanUp(() => connection.close())
      assert.equal(String(await connection.peek(8)), `client ${i}`)
      offered.set(connection.fd, connection)
    }
    const offerTo = (workerData: object) => {
      const worker = start('thread-that-takes.mjs', workerData)
      worker.on('error', () => {})
      worker.on('message', (message) => {
        if (message === 'terminate') return worker.terminate()
        offered.get(message)?.close()
        return offered.delete(message)
      })
      for (const fd of offered.keys()) worker.postMessage(fd)
      return worker
    }
    const worker = offerTo({ ...first, name: 'first' })
    await new Promise((resolve) => worker.once('exit', resolve))
    assert.equal(offered.size, clients - first.take)
    offerTo({ name: 'second' })
    const got = await Promise.all(answers)
    assert.equal(offered.size, 0)
    return got
  }

  const answeredBySecond = (from: number) =>
    Array.from({ length: clients - from }, (_, i) => `client ${from + i}, says second`)

  const ends: Record<string, FirstThread> = {
    'is terminated before it hears of any': { take: 0, copy: 0, end: 'terminate' },
    'is terminated with copies that it has not told of': { take: 0, copy: 5, end: 'terminate' },
    'exits with one copy': { take: 0, copy: 1, end: 'exit' },
    'throws with a copy of each': { take: 0, copy: clients, end: 'throw' },
  }
  for (const [how, first] of Object.entries(ends)) {
    it(`loses none when it ${how}`, async () => {
      assert.deepEqual(await offerToTwo(first), answeredBySecond(0))
    })
  }

  for (const end of ['exit', 'throw', 'terminate'] as const) {
    it(`takes along what it has taken, and no more, when it ends by ${end}`, async () => {
      const got = await offerToTwo({ take: 3, copy: 3, end })
      // Closed with something unread in them, as by the end of a process.
      assert.deepEqual(got.slice(0, 3), Array(3).fill('reset'))
      assert.deepEqual(got.slice(3), answeredBySecond(3))
    })
  }
})
