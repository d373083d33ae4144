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

/** Starts a thread with a fixture. Terminates it when the current test ends. */
function start(fixture: string, workerData: object): Worker {
  // Without the execArgv of this process, which would compile TypeScript in the thread.
  const worker = new Worker(new URL(`../fixtures/${fixture}`, import.meta.url), { workerData, execArgv: [] })
  cleanUp(() => worker.terminate())
  return worker
}

/** Asserts that the next message of the thread is `expected`. */
async function says(worker: Worker, expected: string): Promise<void> {
  assert.deepEqual(await once(worker, 'message'), [expected])
}

/** Connects a client that sends `request`. Returns the client and its answer. */
async function ask(listener: Listener, request: string) {
  const client = await connect(listener)
  client.write(request)
  // The client closes its side too: otherwise the server's connection would stay open.
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

  it('leave clients in the backlog while all of them are full, until one has room', async () => {
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

  it('answer all clients while one thread with outstanding requests is blocked', async () => {
    const listener = await listen({ host })
    const blocked = await pulling(listener.fd, 'blocked', 5)
    const blocks = says(blocked, 'block')
    await ask(listener, 'block')
    await blocks
    await pulling(listener.fd, 'free', 1)
    const clients = await Promise.all(Array.from({ length: 20 }, () => ask(listener, 'answer')))
    assert.deepEqual(await Promise.all(clients.map(({ answer }) => answer)), Array(20).fill('free'))
  })

  it('lose only the connections that they hold when they are terminated', async () => {
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

  it('exit when they have closed their listeners, and the socket stays open', async () => {
    const listener = await listen({ host })
    const worker = await pulling(listener.fd, 'early', 2)
    worker.postMessage('close')
    assert.deepEqual(await once(worker, 'exit'), [0])
    const { answer } = await ask(listener, 'answer')
    await pulling(listener.fd, 'late', 1)
    assert.equal(await answer, 'late')
  })
})

describe('A thread to which connections are offered', () => {
  lookedBefore()
  leaveNoFds()

  const clients = 10

  /** How many connections the first thread takes, how many it duplicates without a message, and how it ends. */
  interface FirstThread {
    take: number
    copy: number
    end: 'exit' | 'throw' | 'terminate'
  }

  /** Offers connections to a thread, and the remaining ones to a second thread. Returns the answer to each client. */
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
    'is terminated before it receives any': { take: 0, copy: 0, end: 'terminate' },
    'is terminated with duplicates that it has not reported': { take: 0, copy: 5, end: 'terminate' },
    'exits with one duplicate': { take: 0, copy: 1, end: 'exit' },
    'throws with a duplicate of each': { take: 0, copy: clients, end: 'throw' },
  }
  for (const [how, first] of Object.entries(ends)) {
    it(`loses no client when it ${how}`, async () => {
      assert.deepEqual(await offerToTwo(first), answeredBySecond(0))
    })
  }

  for (const end of ['exit', 'throw', 'terminate'] as const) {
    it(`loses only the connections that it has taken when it ends by ${end}`, async () => {
      const got = await offerToTwo({ take: 3, copy: 3, end })
      // Closed with unread bytes, as at the end of a process, so the kernel sends a reset.
      assert.deepEqual(got.slice(0, 3), Array(3).fill('reset'))
      assert.deepEqual(got.slice(3), answeredBySecond(3))
    })
  }
})
