import assert from 'node:assert/strict'
import { join } from 'node:path'
import {
  activatedListeners,
  activation,
  Connection,
  FdChannel,
  Listener,
  notifyBarrier,
  serve,
  spawnActivated,
} from '../src/index.js'
import { certificates } from './certificates.js'
import { temporaryChannel } from './channels.js'
import { cleanUp, connect, listen, target, temporaryDirectory, until } from './helpers.js'
import { leaveNoFds } from './leaks.js'
import { lookedBefore } from './looked-before.js'

/** Options with getters that return the value once, and throw when read again. */
function once<Options extends object>(options: Options): Options {
  const read = new Set<string>()
  const descriptors = Object.entries(options).map(([name, value]) => {
    const get = () => {
      assert.ok(!read.has(name), `the option ${name} was read again`)
      read.add(name)
      return value
    }
    return [name, { get, enumerable: true }] as const
  })
  return Object.defineProperties({}, Object.fromEntries(descriptors)) as Options
}

async function accepted() {
  const listener = await listen({ host: '127.0.0.1' })
  const [connection, client] = await Promise.all([listener.accept(), connect(listener)])
  cleanUp(() => connection.close())
  return { listener, connection, client }
}

const { signal } = new AbortController()
const inherited = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 5000 }
const accepting = { highWaterMark: 1000, maxBatch: 2, onFdLimit: 'hold' } as const

const calls: Record<string, () => unknown> = {
  'Listener.listen': () =>
    listen(
      once({ port: 0, host: '127.0.0.1', backlog: 5, reusePort: true, freeBind: true, ...inherited, ...accepting }),
    ),
  'Listener.listen with a path': async () => {
    const path = join(temporaryDirectory(), 'socket')
    await listen(once({ path, mode: 0o600, unlinkStale: true, backlog: 5, ...accepting }))
  },
  'Listener.fromFd': async () => {
    const { fd } = await listen({ host: '127.0.0.1' })
    const listener = Listener.fromFd(fd, once({ dup: true, ...inherited, ...accepting }))
    cleanUp(() => listener.close())
  },
  'Listener.accept': async () => {
    const listener = await listen({ host: '127.0.0.1' })
    await assert.rejects(listener.accept(once({ timeout: 0, signal })), { code: 'ERR_ACCEPT_TIMEOUT' })
  },
  'Connection.fromFd': async () => {
    const { connection } = await accepted()
    Connection.fromFd(connection.fd, once({ dup: true })).close()
  },
  'Connection.peek': async () => {
    const { connection } = await accepted()
    await assert.rejects(connection.peek(1, once({ timeout: 0, signal })), { code: 'ERR_PEEK_TIMEOUT' })
  },
  'Connection.toSocket': async () => {
    const { connection } = await accepted()
    connection.toSocket(once({ allowHalfOpen: true, highWaterMark: 1000, signal, ...inherited })).destroy()
  },
  'Connection.toTLS': async () => {
    const { connection } = await accepted()
    const tlsOptions = once({ ...(await certificates()).localhost })
    await assert.rejects(connection.toTLS(tlsOptions, once({ timeout: 1, signal })), {
      code: 'ERR_TLS_HANDSHAKE_TIMEOUT',
    })
  },
  serve: async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const alarm = [once({ threshold: 1, cooldown: 1 })]
    const trust = ['127.0.0.1']
    const common = { maxConnections: 2, alarm, handshakeTimeout: 1000, signal, trust }
    const serving = serve(
      listener,
      (connection) => connection.close(),
      once({ proxyProtocol: 'optional', filter: () => true, maxRate: 5, ...common }),
    )
    let alarms = 0
    serving.on('alarm', () => alarms++)
    const client = await connect(listener)
    client.write('no header')
    await until(() => alarms === 1)
    await serving.close(once({ closeListener: true }))
  },
  'Serving.drain': async () => {
    const serving = serve(await listen({ host: '127.0.0.1' }), (connection) => connection.close())
    await serving.drain(once({ timeout: 1, idleGrace: 0, closeListener: true }))
  },
  'FdChannel.pair': () => {
    const { channel, fd } = FdChannel.pair(once({ type: 'seqpacket', maxMessage: 100 } as const))
    temporaryChannel(channel)
    temporaryChannel(FdChannel.fromFd(fd, once({ maxMessage: 100 })))
  },
  'FdChannel.connect': async () => {
    const listener = await listen({ path: join(temporaryDirectory(), 'socket') })
    const { path } = target(listener) as { path: string }
    temporaryChannel(FdChannel.connect(path, once({ type: 'stream', maxMessage: 100 } as const)))
    temporaryChannel(FdChannel.fromConnection(await listener.accept(), once({ maxMessage: 100 })))
  },
  activation: () => activation(once({ keepEnvironment: true, inetd: false })),
  activatedListeners: () => activatedListeners(undefined, once({ keepEnvironment: true, inetd: false, noDelay: true })),
  notifyBarrier: () => notifyBarrier(once({ timeout: 1 })),
  spawnActivated: async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const options = once({ stdio: 'ignore', env: process.env, shell: false, cwd: '/' } as const)
    const child = spawnActivated('true', [], { listener }, options)
    await until(() => child.exitCode === 0)
  },
}

describe('An option', () => {
  leaveNoFds()
  lookedBefore()

  for (const [name, call] of Object.entries(calls)) {
    it(`is read only once: ${name}`, async () => {
      await call()
    })
  }

  it('may have a getter that throws: the call fails with that error and has no effect', async () => {
    const failure = new Error('from a getter')
    const failing = (name: string) =>
      Object.defineProperty({}, name, {
        get() {
          throw failure
        },
      })
    const isFailure = (error: unknown) => error === failure
    const { listener, connection, client } = await accepted()
    for (const name of ['timeout', 'signal']) {
      await assert.rejects(listener.accept(failing(name)), isFailure)
      await assert.rejects(connection.peek(1, failing(name)), isFailure)
      await assert.rejects(connection.toTLS({}, failing(name)), isFailure)
    }
    for (const name of ['port', 'noDelay', 'maxBatch']) await assert.rejects(Listener.listen(failing(name)), isFailure)
    for (const name of ['allowHalfOpen', 'signal']) assert.throws(() => connection.toSocket(failing(name)), isFailure)
    for (const name of ['alarm', 'signal']) assert.throws(() => serve(listener, () => {}, failing(name)), isFailure)
    assert.equal(listener.pending, 0)
    connection.toSocket().end('still here')
    assert.equal(String(await client.toArray()), 'still here')
  })
})
