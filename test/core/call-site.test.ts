import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type net from 'node:net'
import {
  type CodedError,
  type Connection,
  type ConnectionsOptions,
  codes,
  type FdChannel,
  type Listener,
} from '../../src/index.js'
import { certificates } from '../certificates.js'
import { channels } from '../channels.js'
import { pair } from '../descriptors.js'
import { cleanUp, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

/** Calls `operation`; its name in stacks is that of the caller. */
function theCaller<T>(operation: () => Promise<T>): Promise<T> {
  const promise = operation()
  return promise
}

/** Asserts that the stack begins with `first` and then leads to theCaller, without frames of the package. */
function leadsToCaller(error: Error, first: string): void {
  const stack = error.stack as string
  assert.ok(stack.startsWith(`${first}\n    at `), stack)
  assert.match(stack, /\n {4}at (Module\.|async )?theCaller \(.*call-site\.test\.ts:\d+:\d+\)/)
  assert.doesNotMatch(stack, /[/\\]src[/\\]|[/\\]dist[/\\]/)
}

async function failure(operation: () => Promise<unknown>): Promise<CodedError> {
  let failed: CodedError | undefined
  await theCaller(operation).catch((error) => (failed = error))
  assert.ok(failed !== undefined, 'the operation fails')
  return failed
}

const looks: Record<string, (connection: Connection, options: object) => Promise<unknown>> = {
  peek: (connection, options) => connection.peek(100, options),
  clientHello: (connection, options) => connection.clientHello(options),
  proxyHeader: (connection, options) => connection.proxyHeader(options),
}

describe('The error of an operation that waited', () => {
  leaveNoFds()
  lookedBefore()

  describe('of accept()', () => {
    let listener: Listener
    beforeEach(async () => {
      listener = await listen({ host: '127.0.0.1' })
    })

    it('names the address, the ref and the timeout, and leads to the caller', async () => {
      const ref = listener.asyncAccept()
      listener.cancel(ref)
      const error = await failure(() => listener.accept({ timeout: 0.5 }))
      const message = `${codes.ERR_ACCEPT_TIMEOUT}: request ${ref + 1} on 127.0.0.1 port ${listener.port}, after 1 ms`
      assert.deepEqual({ ...error }, { code: 'ERR_ACCEPT_TIMEOUT', address: '127.0.0.1', port: listener.port })
      assert.equal(error.message, message)
      assert.equal(error.name, 'Error')
      leadsToCaller(error, `Error [ERR_ACCEPT_TIMEOUT]: ${message}`)
    })

    it('names the address, the ref and the timeout also with a signal', async () => {
      const { signal } = new AbortController()
      const error = await failure(() => listener.accept({ timeout: 1, signal }))
      leadsToCaller(error, `Error [ERR_ACCEPT_TIMEOUT]: ${error.message}`)
      assert.match(error.message, /request \d+ on 127\.0\.0\.1 port \d+, after 1 ms$/)
    })

    it('names the abstract name of a unix socket', async () => {
      const name = `async-accept-${randomUUID()}`
      const other = await listen({ path: `\0${name}` })
      const error = await failure(() => other.accept({ timeout: 0 }))
      assert.match(error.message, new RegExp(`on @${name}, after 0 ms$`))
      assert.equal((error as net.AddressInfo & CodedError).address, `\0${name}`)
    })

    it('leads to the caller after an abort', async () => {
      const abort = new AbortController()
      const accepting = failure(() => listener.accept({ signal: abort.signal }))
      const reason = new Error('enough')
      abort.abort(reason)
      const error = await accepting
      leadsToCaller(error, 'AbortError: The operation was aborted')
      assert.deepEqual([error.code, error.name, error.cause], ['ABORT_ERR', 'AbortError', reason])
      assert.deepEqual(Object.keys(error), ['code'])
    })

    it('leads to the caller when the listener is closed', async () => {
      const accepting = failure(() => listener.accept({ timeout: 10_000 }))
      listener.close()
      leadsToCaller(await accepting, `Error [ERR_LISTENER_CLOSED]: ${codes.ERR_LISTENER_CLOSED}`)
    })

    it('captures a stack only with a timeout or a signal', async () => {
      const { captureStackTrace } = Error
      cleanUp(() => {
        Error.captureStackTrace = captureStackTrace
      })
      let captured = 0
      Error.captureStackTrace = (...args) => {
        captured++
        captureStackTrace(...args)
      }
      const all = [listener.accept(), listener.accept({}), listener.accept({ timeout: -1 })]
      listener.asyncAccept(10_000)
      assert.equal(captured, 0)
      all.push(listener.accept({ timeout: 10_000 }), listener.accept({ signal: new AbortController().signal }))
      assert.equal(captured, 2)
      const settled = Promise.allSettled(all)
      await listener.close()
      await settled
    })

    it('has its code also if Error.prepareStackTrace throws, or returns something else', async () => {
      const { prepareStackTrace } = Error
      cleanUp(() => {
        Error.prepareStackTrace = prepareStackTrace
      })
      const prepares = [
        () => {
          throw new Error('from prepareStackTrace')
        },
        (_error: Error, frames: unknown[]) => frames,
      ]
      const found: string[] = []
      for (const prepare of prepares) {
        Error.prepareStackTrace = prepare
        const abort = new AbortController()
        const operations = [listener.accept({ timeout: 1 }), listener.accept({ signal: abort.signal })]
        abort.abort()
        for (const settled of await Promise.allSettled(operations)) {
          if (settled.status === 'rejected') found.push(settled.reason.code)
        }
      }
      Error.prepareStackTrace = prepareStackTrace
      assert.deepEqual(found, ['ERR_ACCEPT_TIMEOUT', 'ABORT_ERR', 'ERR_ACCEPT_TIMEOUT', 'ABORT_ERR'])
    })

    it('has its first line also if Error.stackTraceLimit is 0', async () => {
      const { stackTraceLimit } = Error
      cleanUp(() => {
        Error.stackTraceLimit = stackTraceLimit
      })
      Error.stackTraceLimit = 0
      const error = await failure(() => listener.accept({ timeout: 1 }))
      Error.stackTraceLimit = stackTraceLimit
      assert.equal(error.stack, `Error [ERR_ACCEPT_TIMEOUT]: ${error.message}`)
    })

    it('has no frames and no details as a result of asyncAccept', async () => {
      let error: CodedError | undefined
      listener.on('accept', (result) => {
        error = result.error
      })
      listener.asyncAccept(1)
      await until(() => error !== undefined)
      assert.equal(error?.stack, `Error [ERR_ACCEPT_TIMEOUT]: ${codes.ERR_ACCEPT_TIMEOUT}`)
    })
  })

  describe('of connections()', () => {
    /** Calls connections(); its name in stacks is that of the caller. */
    function theCaller(listener: Listener, options: ConnectionsOptions) {
      const iterator = listener.connections(options)
      return iterator
    }

    const failureOf = (next: Promise<unknown>) =>
      next.then(
        () => assert.fail('fulfilled'),
        (error: CodedError) => error,
      )

    it('names the ref and the timeout of each request, and leads to the caller of connections()', async () => {
      const listener = await listen({ host: '127.0.0.1' })
      const iterator = theCaller(listener, { timeout: 1 })
      for (const ref of [1, 2]) {
        const error = await failureOf(iterator.next())
        const detail = `request ${ref} on 127.0.0.1 port ${listener.port}, after 1 ms`
        leadsToCaller(error, `Error [ERR_ACCEPT_TIMEOUT]: ${codes.ERR_ACCEPT_TIMEOUT}: ${detail}`)
      }
    })

    it('leads to the caller of connections() after an abort, for each request', async () => {
      const abort = new AbortController()
      const iterator = theCaller(await listen({ host: '127.0.0.1' }), { signal: abort.signal })
      const nexts = [iterator.next(), iterator.next()]
      abort.abort()
      const errors = await Promise.all(nexts.map(failureOf))
      for (const error of errors) leadsToCaller(error, 'AbortError: The operation was aborted')
      assert.notEqual(errors[0], errors[1])
    })
  })

  describe('of send()', () => {
    const large = Buffer.alloc(60_000)
    /** Sends until messages must wait. The first of them is sent in part. */
    const fill = (channel: FdChannel) =>
      Promise.allSettled(Array.from({ length: 20 }, () => channel.send(large, [], { timeout: 20 })))

    it('leads to the caller after the timeout', async () => {
      const [channel] = channels('seqpacket')
      fill(channel)
      const error = await failure(() => channel.send('late', [], { timeout: 1 }))
      leadsToCaller(error, `Error [ERR_CHANNEL_TIMEOUT]: ${codes.ERR_CHANNEL_TIMEOUT}`)
    })

    it('leads to the caller after an abort', async () => {
      const [channel] = channels('seqpacket')
      fill(channel)
      const abort = new AbortController()
      const sending = failure(() => channel.send('late', [], { signal: abort.signal }))
      abort.abort()
      leadsToCaller(await sending, 'AbortError: The operation was aborted')
    })

    it('leads to the caller of each message after an earlier one was sent in part', async () => {
      const [channel] = channels('stream')
      const filled = fill(channel)
      function another<T>(operation: () => Promise<T>): Promise<T> {
        const promise = operation()
        return promise
      }
      const behind = failure(() => channel.send('behind it', [], { timeout: 60_000 }))
      const last = another(() => channel.send('the last', [], { timeout: 60_000 }).catch((error) => error))
      await filled
      const error = await behind
      const { stack } = error
      leadsToCaller(error, `Error [ERR_CHANNEL_MESSAGE]: ${error.message}`)
      const later = await another(() => channel.send('later', [], { timeout: 60_000 }).catch((error) => error))
      for (const { stack } of [await last, later]) assert.match(stack, /\n {4}at another /)
      assert.equal(error.stack, stack, 'it has not changed')
    })

    it('leads to the caller of each message when the channel is closed', async () => {
      const [channel] = channels('stream')
      fill(channel)
      const sending = failure(() => channel.send('first', [], { timeout: 60_000 }))
      const last = channel.send('last', [], { timeout: 60_000 }).catch((error) => error)
      channel.close()
      leadsToCaller(await sending, `Error [ERR_CHANNEL_CLOSED]: ${codes.ERR_CHANNEL_CLOSED}`)
      assert.doesNotMatch((await last).stack, /theCaller/)
    })
  })

  for (const [name, look] of Object.entries(looks)) {
    describe(`of ${name}()`, () => {
      it('leads to the caller after the timeout, which it names', async () => {
        const { connection } = await pair()
        const error = await failure(() => look(connection, { timeout: 1 }))
        assert.equal(error.message, `${codes.ERR_PEEK_TIMEOUT}: 0 bytes received within 1 ms`)
        leadsToCaller(error, `Error [ERR_PEEK_TIMEOUT]: ${error.message}`)
      })

      it('leads to the caller after an abort', async () => {
        const { connection } = await pair()
        const abort = new AbortController()
        const looking = failure(() => look(connection, { signal: abort.signal }))
        abort.abort()
        leadsToCaller(await looking, 'AbortError: The operation was aborted')
      })

      it('leads to the caller after a reset', async () => {
        const { connection, client } = await pair()
        const looking = failure(() => look(connection, {}))
        client.resetAndDestroy()
        const error = await looking
        assert.equal(error.code, 'ECONNRESET')
        leadsToCaller(error, `Error: ${error.message}`)
      })
    })
  }

  it('of proxyHeader() leads to the caller when the header is malformed', async () => {
    const { connection, client } = await pair()
    client.write('PROXY nonsense\r\n')
    const error = await failure(() => connection.proxyHeader())
    leadsToCaller(error, `Error [ERR_PROXY_HEADER]: ${error.message}`)
  })

  describe('of toTLS()', () => {
    it('leads to the caller after the timeout, which it names', async () => {
      const { connection } = await pair()
      const error = await failure(() => connection.toTLS({}, { timeout: 1 }))
      leadsToCaller(error, 'Error [ERR_TLS_HANDSHAKE_TIMEOUT]: TLS handshake timeout: 1 ms')
    })

    it('leads to the caller after an abort', async () => {
      const { connection } = await pair()
      const abort = new AbortController()
      const upgrading = failure(() => connection.toTLS({}, { signal: abort.signal }))
      abort.abort()
      leadsToCaller(await upgrading, 'AbortError: The operation was aborted')
    })

    it('leads to the caller when OpenSSL rejects the handshake, or the client disconnects', async () => {
      for (const [end, code] of [
        [(client: net.Socket) => client.write('GET / HTTP/1.1\r\n\r\n'), 'ERR_SSL_HTTP_REQUEST'],
        [(client: net.Socket) => client.end(), 'ECONNRESET'],
      ] as const) {
        const { connection, client } = await pair()
        const upgrading = failure(() => connection.toTLS({}))
        end(client)
        const error = await upgrading
        assert.equal(error.code, code)
        assert.match(error.stack as string, /theCaller \(.*call-site\.test\.ts/)
      }
    })

    it('keeps the stack of an exception in a callback of the options', async () => {
      const { connection, client } = await pair()
      const { localhost } = await certificates()
      function ofTheApplication(): Error {
        return Object.assign(new Error('unknown name'), { code: 'ERR_OF_THE_APPLICATION' })
      }
      const upgrading = failure(() =>
        connection.toTLS({ ...localhost, SNICallback: (_name, done) => done(ofTheApplication()) }),
      )
      const { connect } = await import('node:tls')
      const secure = connect({ socket: client, servername: 'localhost', rejectUnauthorized: false })
      secure.on('error', () => {})
      const error = await upgrading
      assert.equal(error.code, 'ERR_OF_THE_APPLICATION')
      assert.match(error.stack as string, /\n {4}at ofTheApplication /)
      assert.doesNotMatch(error.stack as string, /theCaller/)
    })
  })
})
