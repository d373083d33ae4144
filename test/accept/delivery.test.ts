import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import fc from 'fast-check'
import { Delivery, type Requester } from '../../src/accept/delivery.js'
import { type CodedError, withCode } from '../../src/core/errors.js'
import { type AcceptRef, type Connection, type Listener, serve } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { captureExceptions, cleanUp, connect, listen, runNode, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const ways = ['event', 'accept', 'accept with a signal', 'iteration'] as const
// 'wrapped accept' takes more continuations than the other ways. They may overtake it, except for events.
type Way = (typeof ways)[number] | 'wrapped accept'

/** Makes one request. Calls `note` when the application sees the end of the request. */
function ask(listener: Listener, way: Way, note: (connection: Connection | undefined) => void, timeout = -1): void {
  const { signal } = new AbortController()
  const failed = () => note(undefined)
  switch (way) {
    case 'event': {
      const ref = listener.asyncAccept(timeout)
      listener.on('accept', (result) => {
        if (result.ref === ref) note(result.connection)
      })
      break
    }
    case 'accept':
      listener.accept({ timeout }).then(note, failed)
      break
    case 'wrapped accept': {
      const wrapped = async () => listener.accept({ timeout })
      const wrappedTwice = async () => await wrapped()
      wrappedTwice().then(note, failed)
      break
    }
    case 'accept with a signal':
      listener.accept({ timeout, signal }).then(note, failed)
      break
    case 'iteration': {
      const iterate = async () => {
        for await (const connection of listener) return note(connection)
        note(undefined)
      }
      iterate().catch(failed)
    }
  }
}

describe('The results of one batch', () => {
  leaveNoFds()

  /**
   * Makes the requests in one event loop turn, while as many clients wait. Returns the indices of the requests in the
   * order of their ends.
   */
  async function orderOf(asked: readonly Way[]): Promise<number[]> {
    const listener = await listen({ host: '127.0.0.1' })
    listener.setMaxListeners(0)
    await fillBacklog(listener, asked.length)
    const order: number[] = []
    for (const [index, way] of asked.entries()) {
      ask(listener, way, (connection) => {
        order.push(index)
        connection?.close()
      })
    }
    await until(() => order.length === asked.length)
    assert.equal(listener.stats.accepted, asked.length)
    await listener.close()
    return order
  }

  it('arrive in the order of the requests, for every way to make them', async () => {
    const sequences = fc.array(fc.constantFrom(...ways), { minLength: 2, maxLength: 12 })
    await fc.assert(
      fc.asyncProperty(sequences, async (asked) => {
        assert.deepEqual(await orderOf(asked), [...asked.keys()])
      }),
      { numRuns: 30 },
    )
  })

  it('arrive in the order of the requests when a promise passes through several functions', async () => {
    const asked: Way[] = ['wrapped accept', 'event', 'wrapped accept', 'wrapped accept', 'event', 'event']
    assert.deepEqual(await orderOf(asked), [...asked.keys()])
  })

  it('arrive in the order of the requests when these time out', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const order: number[] = []
    const asked: Way[] = ['accept', 'event', 'wrapped accept', 'event', 'event', 'accept with a signal', 'event']
    for (const [index, way] of asked.entries()) ask(listener, way, () => order.push(index), 0)
    await until(() => order.length === asked.length)
    assert.deepEqual(order, [...asked.keys()])
  })

  it('arrive before the rejections of a close, and these before the close event', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    await fillBacklog(listener, 4)
    const order: string[] = []
    const asked: Way[] = ['accept', 'event', 'accept', 'event', 'accept', 'event']
    for (const [index, way] of asked.entries()) {
      ask(listener, way, (connection) => {
        order.push(`${index} ${connection ? 'accepted' : 'rejected'}`)
        connection?.close()
        if (index === 0) void listener.close().then(() => order.push('promise of close'))
      })
    }
    listener.on('close', () => order.push('close'))
    await until(() => order.includes('promise of close'))
    const results = asked.map((_, index) => `${index} ${index < 4 ? 'accepted' : 'rejected'}`)
    assert.deepEqual(order, [...results, 'close', 'promise of close'])
  })

  it('arrive after an earlier handler has closed the listener and asked it again', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    await fillBacklog(listener, 3)
    const order: AcceptRef[] = []
    const refs = [listener.asyncAccept(), listener.asyncAccept(), listener.asyncAccept(), listener.asyncAccept()]
    listener.on('accept', ({ ref, connection }) => {
      order.push(ref)
      connection?.close()
      void listener.close()
      assert.throws(() => listener.asyncAccept(), { code: 'ERR_LISTENER_CLOSED' })
    })
    await until(() => order.length === refs.length)
    assert.deepEqual(order, refs)
  })

  it('reach the handlers although a subscriber of the diagnostics channel throws', async () => {
    const captured = captureExceptions()
    const fail = () => {
      throw new Error('from the subscriber')
    }
    subscribe('async-accept.connection', fail)
    cleanUp(() => unsubscribe('async-accept.connection', fail))
    assert.deepEqual(await orderOf(['event', 'accept', 'event', 'iteration']), [0, 1, 2, 3])
    await until(() => captured.length === 4)
  })

  it('stop when a handler exits the process', async () => {
    const { code, stdout } = await runNode('exit-in-handler.mjs')
    assert.equal(stdout, 'result 1\nresult 2\n')
    assert.equal(code, 3)
  })
})

describe('A requester that is not a promise', () => {
  leaveNoFds()

  const store = new AsyncLocalStorage<string>()
  const noErrors: CodedError[] = []

  it('is called in the order of the requests, in a separate async context, and may throw', async () => {
    const captured = captureExceptions()
    const listener = await listen({ host: '127.0.0.1' })
    const order: string[] = []
    const waiting = new Map<AcceptRef, Requester>()
    const delivery = store.run('of the listener', () => new Delivery(listener, waiting))
    const failures = [1, 2, 3, 4, 5].map((ref) => withCode(new Error(`of request ${ref}`), 'ERR_TEST'))
    for (const ref of [1, 2, 4]) {
      const fail = (error: Error) => {
        assert.equal(error, failures[ref - 1])
        order.push(`requester ${ref} ${store.getStore()}`)
        store.enterWith('of a requester')
        throw error
      }
      waiting.set(ref, { fail, fulfil: () => assert.fail('there is no connection'), kind: 'handler' })
    }
    const promise = new Promise<Connection>((fulfil, fail) => waiting.set(3, { fulfil, fail, kind: 'promise' }))
    promise.catch(() => order.push('promise 3'))
    listener.on('accept', ({ ref }) => order.push(`event ${ref} ${store.getStore()}`))
    const last = () => order.push(`last ${store.getStore()}`)
    // The addon enters JavaScript in this context.
    store.run('of the listener', () => {
      delivery.add({ refs: [1, 2, 3, 4, 5], connections: [], errors: failures, last }, true)
    })
    await until(() => order.length === 6 && captured.length === 3)
    const own = 'of the listener'
    const events = [`requester 4 ${own}`, `event 5 ${own}`, `last ${own}`]
    assert.deepEqual(order, [`requester 1 ${own}`, `requester 2 ${own}`, 'promise 3', ...events])
    assert.deepEqual(captured, [failures[0], failures[1], failures[3]])
    assert.equal(waiting.size, 0)
  })

  it('delays the next batch until the continuations of its promises have run', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const order: string[] = []
    const waiting = new Map<AcceptRef, Requester>()
    const delivery = new Delivery(listener, waiting)
    const promise = new Promise<Connection>((fulfil, fail) => waiting.set(1, { fulfil, fail, kind: 'promise' }))
    promise.catch(async () => {
      await undefined
      order.push('promise')
    })
    delivery.add(
      {
        refs: [1],
        connections: [],
        errors: [withCode(new Error('of the request'), 'ERR_TEST')],
        last: () => order.push('last'),
      },
      true,
    )
    delivery.add({ refs: [], connections: [], errors: noErrors, last: () => order.push('last of the next') }, false)
    await until(() => order.length === 3)
    assert.deepEqual(order, ['promise', 'last', 'last of the next'])
  })

  it('may run a turn of the event loop, whose results arrive in order', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const order: AcceptRef[] = []
    const delivery = new Delivery(listener, new Map())
    const failure = withCode(new Error('of the request'), 'ERR_TEST')
    const batch = (...refs: AcceptRef[]) => ({ refs, connections: [], errors: refs.map(() => failure) })
    listener.on('accept', ({ ref }) => {
      order.push(ref)
      // The batch of an event loop turn inside this handler.
      if (ref === 1) delivery.add(batch(4, 5), true)
    })
    delivery.add(batch(1, 2, 3), true)
    assert.deepEqual(order, [1, 2, 3, 4, 5])
  })
})

describe('The async context of a handler', () => {
  leaveNoFds()

  const store = new AsyncLocalStorage<string>()
  const own = 'of the listener'

  it('is not affected by enterWith() in a handler before it, in the same batch or an earlier one', async () => {
    const listener = await store.run(own, () => listen({ host: '127.0.0.1' }))
    const seen: unknown[] = []
    let ended = 0
    listener.on('accept', ({ ref, connection }) => {
      seen.push(store.getStore())
      store.enterWith(`of request ${ref}`)
      connection?.close()
      // Work that the handler starts keeps the handler's context.
      setImmediate(() => {
        assert.equal(store.getStore(), `of request ${ref}`)
        ended++
      })
    })
    for (const batch of [3, 2, 1, 1]) {
      await fillBacklog(listener, batch)
      const before = seen.length
      for (let i = 0; i < batch; i++) listener.asyncAccept()
      await until(() => seen.length === before + batch)
    }
    listener.asyncAccept(0)
    listener.asyncAccept(0)
    await until(() => ended === 9)
    assert.deepEqual(seen, Array(9).fill(own))
  })

  it('is that of its listener also after a promise, and a continuation has that of its request', async () => {
    const listener = await store.run(own, () => listen({ host: '127.0.0.1' }))
    const seen: unknown[] = []
    await fillBacklog(listener, 4)
    listener.on('accept', ({ connection }) => {
      seen.push(store.getStore())
      store.enterWith('of the handler')
      connection?.close()
    })
    const take = async (name: string) => {
      store.enterWith(name)
      const connection = await listener.accept()
      seen.push(store.getStore())
      store.enterWith('of the continuation')
      connection.close()
    }
    store.run('of the first', () => void take('of the first'))
    listener.asyncAccept()
    store.run('of the second', () => void take('of the second'))
    listener.asyncAccept()
    await until(() => seen.length === 4)
    assert.deepEqual(seen, ['of the first', own, 'of the second', own])
  })

  it('is that of its listener when another context closes it', async () => {
    const listener = await store.run(own, () => listen({ host: '127.0.0.1' }))
    const seen: unknown[] = []
    const note = () => {
      seen.push(store.getStore())
      store.enterWith('of a handler')
    }
    listener.on('accept', note).on('close', note)
    listener.asyncAccept()
    listener.asyncAccept()
    await store.run('of the caller', () => listener.close())
    assert.deepEqual(seen, [own, own, own])
  })

  it('starts with the one that a subscriber of the diagnostics channel enters', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const enter = (message: unknown) =>
      store.enterWith(`traced ${(message as { connection: Connection }).connection.ref}`)
    subscribe('async-accept.connection', enter)
    cleanUp(() => unsubscribe('async-accept.connection', enter))
    await fillBacklog(listener, 3)
    const seen: unknown[] = []
    listener.on('accept', ({ connection }) => {
      seen.push(store.getStore())
      connection?.close()
    })
    const refs = [listener.asyncAccept(), listener.asyncAccept()]
    const promise = listener.accept()
    ;(await promise).close()
    await until(() => seen.length === 2)
    assert.deepEqual(
      seen,
      refs.map((ref) => `traced ${ref}`),
    )
    assert.equal(store.getStore(), undefined)
  })

  it('is separate for each served connection', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    await fillBacklog(listener, 3)
    const seen: unknown[] = []
    const serving = store.run('of serve', () =>
      serve(listener, (connection) => {
        seen.push(store.getStore())
        store.enterWith('of a connection')
        connection.close()
      }),
    )
    await until(() => seen.length === 3)
    await connect(listener)
    await until(() => seen.length === 4)
    assert.deepEqual(seen, Array(4).fill('of serve'))
    await serving.close()
  })
})
