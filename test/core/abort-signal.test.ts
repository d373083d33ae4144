import assert from 'node:assert/strict'
import { once } from 'node:events'
import { serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { captureExceptions, cleanUp, connect, gone, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

type Run = (event: { type: string }) => void

/** An AbortSignal of another class, as in polyfills for old browsers. */
class OtherSignal {
  aborted = false
  reason: unknown
  readonly runs = new Set<Run>()

  addEventListener(_type: string, run: Run): void {
    this.runs.add(run)
  }

  removeEventListener(_type: string, run: Run): void {
    this.runs.delete(run)
  }

  abort(reason: unknown): void {
    this.aborted = true
    this.reason = reason
    for (const run of this.runs) run({ type: 'abort' })
  }
}

const asSignal = (signal: OtherSignal) => signal as unknown as AbortSignal

/** Every API that takes a signal: starts the operation, and returns a check that the abort has ended it. */
const takers: Record<string, (signal: AbortSignal) => Promise<() => Promise<unknown>>> = {
  'Listener.accept': async (signal) => {
    const listener = await listen({ host: '127.0.0.1' })
    const accepted = assert.rejects(listener.accept({ signal }), { code: 'ABORT_ERR' })
    return async () => {
      await accepted
      assert.equal(listener.pending, 0)
    }
  },
  'Connection.peek': async (signal) => {
    const { connection } = await accepted()
    const peeked = assert.rejects(connection.peek(1, { signal }), { code: 'ABORT_ERR' })
    return async () => {
      await peeked
    }
  },
  'Connection.toTLS': async (signal) => {
    const { connection, client } = await accepted()
    const { localhost } = await certificates()
    const upgraded = assert.rejects(connection.toTLS({ ...localhost }, { signal }), { code: 'ABORT_ERR' })
    return async () => {
      await upgraded
      await gone(client)
    }
  },
  'Connection.toSocket': async (signal) => {
    const { connection, client } = await accepted()
    const socket = connection.toSocket({ signal }).on('error', () => {})
    return async () => {
      await until(() => socket.closed)
      await gone(client)
    }
  },
  serve: async (signal) => {
    const listener = await listen({ host: '127.0.0.1' })
    const serving = serve(listener, (connection) => connection.close(), { signal })
    const closed = once(serving, 'close')
    return async () => {
      await closed
      assert.equal(listener.pending, 0)
    }
  },
}

async function accepted() {
  const listener = await listen({ host: '127.0.0.1' })
  const [connection, client] = await Promise.all([listener.accept(), connect(listener)])
  cleanUp(() => connection.close())
  return { connection, client }
}

for (const [name, take] of Object.entries(takers)) {
  describe(`The signal of ${name}`, () => {
    leaveNoFds()
    lookedBefore()
    lookedBefore()

    it("aborts although an earlier 'abort' listener stops the event", async () => {
      const controller = new AbortController()
      controller.signal.addEventListener('abort', (event) => event.stopImmediatePropagation())
      const ended = await take(controller.signal)
      controller.abort()
      await ended()
    })

    it('may be an instance of another class', async () => {
      const signal = new OtherSignal()
      const ended = await take(asSignal(signal))
      signal.abort('why')
      await ended()
    })
  })

  describe(`The signal of ${name} whose addEventListener throws`, () => {
    leaveNoFds()
    lookedBefore()
    lookedBefore()

    it('passes its error to the caller, and no fd stays open', async () => {
      const signal = new OtherSignal()
      const failure = new Error('from addEventListener')
      signal.addEventListener = () => {
        throw failure
      }
      // APIs that throw synchronously do so inside the async function.
      await assert.rejects(
        async () => (await take(asSignal(signal)))(),
        (error: Error) => {
          const expected = error === failure || (error as { actual?: unknown }).actual === failure
          assert.ok(expected, String(error))
          return true
        },
      )
    })
  })
}

describe('An AbortSignal', () => {
  leaveNoFds()
  lookedBefore()

  it('loses no connection when its removeEventListener throws', async () => {
    const captured = captureExceptions()
    const listener = await listen({ host: '127.0.0.1' })
    const signal = new OtherSignal()
    signal.removeEventListener = () => {
      throw new Error('from removeEventListener')
    }
    const [connection] = await Promise.all([listener.accept({ signal: asSignal(signal) }), connect(listener)])
    connection.close()
    await until(() => captured.length === 1)
  })

  it('aborts when its reason getter throws', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const signal = new OtherSignal()
    const asked = listener.accept({ signal: asSignal(signal) })
    const failure = new Error('from reason')
    Object.defineProperty(signal, 'reason', {
      get() {
        throw failure
      },
      set() {},
    })
    signal.abort('why')
    await assert.rejects(asked, { code: 'ABORT_ERR', cause: failure })
  })

  it('ends every operation that uses the signal, even when ending one of them throws', async () => {
    const captured = captureExceptions()
    const controller = new AbortController()
    const { signal } = controller
    const [listener, other] = [await listen({ host: '127.0.0.1' }), await listen({ host: '127.0.0.1' })]
    const serving = serve(listener, () => {}, { signal })
    const close = serving.close.bind(serving)
    serving.close = () => {
      void close()
      throw new Error('from close')
    }
    const asked = other.accept({ signal })
    controller.abort()
    await assert.rejects(asked, { name: 'AbortError', code: 'ABORT_ERR' })
    await until(() => captured.length === 1)
    await close()
  })
})
