import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { text } from 'node:stream/consumers'
import { type AcceptRef, type AcceptResult, type Connection, Listener } from '../../src/index.js'
import { answer, fillBacklog } from '../backlog.js'
import {
  captureExceptions,
  cleanUp,
  codeOf,
  collect,
  connect,
  gone,
  listen,
  refsOf,
  runNode,
  until,
  whileReadingDirectory,
} from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const outcomes = (results: readonly AcceptResult[]) => results.map(({ error }) => codeOf(error) ?? 'connection')

describe("A handler of 'accept'", () => {
  leaveNoFds()

  it('may make another request, whose result arrives after the handler returns', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const clients = await fillBacklog(listener, 20)
    let inside = false
    const refs: AcceptRef[] = []
    const got: AcceptRef[] = []
    listener.on('accept', ({ ref, connection }) => {
      assert.equal(inside, false)
      inside = true
      got.push(ref)
      answer(connection as Connection, `${got.length}`)
      if (refs.length < clients.length) refs.push(listener.asyncAccept())
      inside = false
    })
    refs.push(listener.asyncAccept())
    assert.deepEqual(
      await Promise.all(clients.map(text)),
      clients.map((_, index) => `${index + 1}`),
    )
    assert.deepEqual(got, refs)
    assert.equal(listener.pending, 0)
  })

  it('runs in the async context in which its listener was created, even after a garbage collection', async () => {
    const context = new AsyncLocalStorage<string>()
    const listener = await context.run('of the listener', () => listen({ host: '127.0.0.1' }))
    const seen: unknown[] = []
    listener.on('accept', ({ connection }) => {
      seen.push(context.getStore())
      connection?.close()
    })
    for (const wanted of [1, 2]) {
      context.run('of the request', () => listener.asyncAccept())
      globalThis.gc?.()
      await connect(listener)
      await until(() => seen.length === wanted)
    }
    assert.deepEqual(seen, ['of the listener', 'of the listener'])
  })

  it('may make more requests than it received connections', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    await fillBacklog(listener, 31)
    listener.on('accept', ({ connection }) => {
      if (!connection) return
      listener.asyncAccept()
      listener.asyncAccept()
    })
    listener.asyncAccept()
    await until(() => results.length === 31)
    assert.equal(listener.pending, 32)
    assert.deepEqual(
      refsOf(results),
      refsOf(results).sort((a, b) => a - b),
    )
  })

  it('may make another request each time one times out, throughout one batch', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    let left = 1000
    listener.on('accept', () => {
      if (left-- > 0) listener.asyncAccept(0)
    })
    // More than the binding delivers at once.
    for (let i = 0; i < 600; i++) listener.asyncAccept(0)
    await until(() => listener.pending === 0)
    assert.equal(results.length, 1600)
    assert.equal(new Set(refsOf(results)).size, 1600)
  })

  it('may close the listener: accepted connections still arrive, pending requests are rejected', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    await fillBacklog(listener, 3)
    const refs = Array.from({ length: 5 }, () => listener.asyncAccept())
    let seenAtClose = -1
    listener.once('accept', () => {
      void listener.close()
      seenAtClose = results.length
    })
    await until(() => results.length === refs.length)
    assert.equal(seenAtClose, 1)
    assert.deepEqual(refsOf(results), refs)
    const closed = 'ERR_LISTENER_CLOSED'
    assert.deepEqual(outcomes(results), ['connection', 'connection', 'connection', closed, closed])
    await listener.close()
    assert.equal(results.length, refs.length)
  })

  it('may close the listener while clients wait for the next batch', async () => {
    const listener = await listen({ host: '127.0.0.1', maxBatch: 2 })
    const results = collect(listener)
    const clients = await fillBacklog(listener, 4)
    for (let i = 0; i < 4; i++) listener.asyncAccept()
    listener.once('accept', () => listener.close())
    await until(() => results.length === 4)
    const closed = 'ERR_LISTENER_CLOSED'
    assert.deepEqual(outcomes(results), ['connection', 'connection', closed, closed])
    await Promise.all(clients.map(gone))
  })

  it('may close the listener while requests time out; each gets one result', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    const refs = Array.from({ length: 1000 }, () => listener.asyncAccept(1))
    listener.once('accept', () => listener.close())
    await until(() => results.length === refs.length)
    await listener.close()
    assert.deepEqual(refsOf(results), refs)
    assert.equal(codeOf(results[0]?.error), 'ERR_ACCEPT_TIMEOUT')
    assert.equal(codeOf(results.at(-1)?.error), 'ERR_LISTENER_CLOSED')
    const { timedOut, rejected } = listener.stats
    assert.equal(timedOut + rejected, refs.length)
  })

  it('may detach the listener', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    await fillBacklog(listener, 2)
    for (let i = 0; i < 3; i++) listener.asyncAccept()
    const taken = new Promise<number>((resolve) => listener.once('accept', () => resolve(listener.detach())))
    const heir = Listener.fromFd(await taken)
    cleanUp(() => heir.close())
    await until(() => results.length === 3)
    assert.deepEqual(outcomes(results), ['connection', 'connection', 'ERR_LISTENER_CLOSED'])
    const [connection] = await Promise.all([heir.accept(), connect(heir)])
    connection.close()
  })

  it('may throw: each throw is an uncaught exception, and no other result is lost', async () => {
    const captured = captureExceptions()
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    const clients = await fillBacklog(listener, 6)
    const refs: AcceptRef[] = []
    const failures = [0, 1, 2].map((index) => new Error(`from the handler ${index}`))
    listener.on('accept', ({ ref }) => {
      const failure = failures[refs.indexOf(ref)]
      if (failure) throw failure
    })
    refs.push(listener.asyncAccept(), listener.asyncAccept(), listener.asyncAccept())
    const promise = listener.accept()
    const iterated = listener[Symbol.asyncIterator]().next()
    refs.push(listener.asyncAccept())
    ;(await promise).close()
    ;(await iterated).value.close()
    await until(() => captured.length === failures.length && results.length === refs.length)
    assert.deepEqual(captured, failures)
    assert.deepEqual(refsOf(results), refs)
    await Promise.all(clients.map(gone))

    // The listener still accepts.
    const later = listener.asyncAccept()
    await connect(listener)
    await until(() => results.length === 5)
    assert.equal(results[4]?.ref, later)
  })

  it('may throw when its request times out and when the listener closes', async () => {
    const captured = captureExceptions()
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    listener.on('accept', () => {
      throw new Error('from the handler')
    })
    for (let i = 0; i < 300; i++) listener.asyncAccept(0)
    await until(() => results.length === 300 && captured.length === 300)
    for (let i = 0; i < 3; i++) listener.asyncAccept()
    await listener.close()
    await until(() => captured.length === 303)
    assert.equal(results.length, 303)
  })

  it('may throw while Node reads a directory, during which Node loses exceptions of a tick', async () => {
    const captured = captureExceptions()
    const listener = await listen({ host: '127.0.0.1' })
    const thrown = new Error('from the handler')
    listener.on('close', () => {
      throw thrown
    })
    await whileReadingDirectory(() => void listener.close())
    await until(() => captured.length === 1)
    assert.equal(captured[0], thrown)
  })

  it('may close the listener and throw', async () => {
    const captured = captureExceptions()
    const listener = await listen({ host: '127.0.0.1' })
    const results = collect(listener)
    await fillBacklog(listener, 2)
    for (let i = 0; i < 3; i++) listener.asyncAccept()
    listener.once('accept', () => {
      void listener.close()
      throw new Error('from the handler')
    })
    await until(() => results.length === 3 && captured.length === 1)
    assert.deepEqual(outcomes(results), ['connection', 'connection', 'ERR_LISTENER_CLOSED'])
  })

  it('terminates the process with an uncaught exception', async () => {
    const { code, stdout, stderr } = await runNode('throwing-handler.mjs')
    assert.equal(code, 1)
    assert.match(stderr, /Error: from the handler/)
    assert.match(stderr, /throwing-handler\.mjs/)
    assert.deepEqual(stdout.trim().split('\n'), ['result 1', 'result 2'])
  })
})

describe('The continuation of a promise', () => {
  leaveNoFds()

  it('runs before the next event of the event loop', async () => {
    const order: string[] = []
    const names = ['a', 'b']
    const listeners = await Promise.all(names.map(() => listen({ host: '127.0.0.1' })))
    for (const listener of listeners) await fillBacklog(listener, 2)
    // Both are readable when both are asked, so one epoll_wait(2) reports both, in either order.
    const asked = listeners.map(async (listener, index) => {
      const name = names[index]
      listener.on('accept', ({ connection }) => {
        order.push(`${name} handler`)
        connection?.close()
        setImmediate(() => order.push('check phase'))
        process.nextTick(() => order.push(`${name} tick`))
      })
      listener.asyncAccept()
      const connection = await listener.accept()
      order.push(`${name} continuation`)
      connection.close()
    })
    await Promise.all(asked)
    await until(() => order.length === 8)
    const of = (name: string) => ['handler', 'tick', 'continuation'].map((step) => `${name} ${step}`)
    const [first, second] = order[0] === 'a handler' ? ['a', 'b'] : ['b', 'a']
    assert.deepEqual(order, [...of(first as string), ...of(second as string), 'check phase', 'check phase'])
  })

  it('makes the next request with nothing else in the event loop, and so accepts every waiting client', async () => {
    const { code, stdout } = await runNode('continuations.mjs')
    assert.equal(code, 0)
    assert.equal(stdout, '3 ran out\n20 of 20\n')
  })
})
