import assert from 'node:assert/strict'
import { isMainThread } from 'node:worker_threads'
import {
  activatedConnection,
  activatedListeners,
  activation,
  type CodedError,
  Connection,
  FdChannel,
  Listener,
  notify,
  notifyBarrier,
  serve,
} from '../src/index.js'
import { channels } from './channels.js'
import { pair } from './descriptors.js'
import { cleanUp, listen } from './helpers.js'
import { leaveNoFds } from './leaks.js'
import { lookedBefore } from './looked-before.js'

type Options = Record<string, never>

/** Every function that takes options of this package: a call with given options, and one of its known names. */
const functions: Record<string, { call: (options: Options) => unknown; known: string }> = {
  'Listener.listen': { call: (options) => Listener.listen(options), known: 'backlog' },
  'Listener.fromFd': {
    call: async (options) => Listener.fromFd((await listen({ host: '127.0.0.1' })).fd, options),
    known: 'maxBatch',
  },
  'Listener.accept': {
    call: async (options) => {
      const listener = await listen({ host: '127.0.0.1' })
      cleanUp(() => assert.equal(listener.pending, 0))
      return listener.accept(options)
    },
    known: 'timeout',
  },
  'Listener.connections': {
    call: async (options) => (await listen({ host: '127.0.0.1' })).connections(options),
    known: 'limit',
  },
  'Connection.fromFd': {
    call: async (options) => Connection.fromFd((await pair()).connection.fd, options),
    known: 'dup',
  },
  'Connection.toSocket': {
    call: async (options) => (await pair()).connection.toSocket(options),
    known: 'highWaterMark',
  },
  'Connection.toTLS': { call: async (options) => (await pair()).connection.toTLS({}, options), known: 'timeout' },
  'Connection.peek': { call: async (options) => (await pair()).connection.peek(1, options), known: 'timeout' },
  'Connection.clientHello': {
    call: async (options) => (await pair()).connection.clientHello(options),
    known: 'signal',
  },
  'Connection.proxyHeader': {
    call: async (options) => (await pair()).connection.proxyHeader(options),
    known: 'signal',
  },
  serve: {
    call: async (options) => serve(await listen({ host: '127.0.0.1' }), () => {}, options),
    known: 'maxConnections',
  },
  'the alarm of serve': {
    call: async (alarm) => serve(await listen({ host: '127.0.0.1' }), () => {}, { alarm: [alarm as never] }),
    known: 'threshold',
  },
  'Serving.close': { call: (options) => serveForAWhile((serving) => serving.close(options)), known: 'closeListener' },
  'Serving.drain': { call: (options) => serveForAWhile((serving) => serving.drain(options)), known: 'idleGrace' },
  activation: { call: (options) => activation(options), known: 'inetd' },
  activatedListeners: { call: (options) => activatedListeners('http', options), known: 'noDelay' },
  activatedConnection: { call: (options) => activatedConnection(options), known: 'keepEnvironment' },
  'the state of notify': { call: (state) => notify(state), known: 'stopping' },
  notify: { call: (options) => notify({}, options), known: 'unsetEnvironment' },
  notifyBarrier: { call: (options) => notifyBarrier(options), known: 'timeout' },
  'FdChannel.fromFd': { call: (options) => FdChannel.fromFd(0, options), known: 'maxMessage' },
  'FdChannel.fromConnection': {
    call: async (options) => FdChannel.fromConnection((await pair()).connection, options),
    known: 'maxMessage',
  },
  'FdChannel.connect': { call: (options) => FdChannel.connect('/nowhere', options), known: 'type' },
  'FdChannel.send': { call: async (options) => channels('stream')[0].send('x', [], options), known: 'timeout' },
  'FdChannel.pair': { call: (options) => FdChannel.pair(options), known: 'maxMessage' },
}

async function serveForAWhile(end: (serving: ReturnType<typeof serve>) => unknown): Promise<void> {
  const serving = serve(await listen({ host: '127.0.0.1' }), () => {})
  cleanUp(() => serving.close())
  try {
    await end(serving)
  } finally {
    assert.equal(serving.state, 'serving')
  }
}

async function refuses(call: (options: Options) => unknown, options: object, ...parts: string[]): Promise<void> {
  const attempt = async () => call(options as Options)
  await assert.rejects(attempt(), (error: CodedError) => {
    assert.equal(error.code, 'ERR_INVALID_ARG_VALUE')
    assert.ok(error instanceof TypeError)
    for (const part of parts) assert.ok(error.message.includes(part), `${part} in ${error.message}`)
    return true
  })
}

describe('An unknown option', () => {
  leaveNoFds()
  lookedBefore()

  before(() => assert.ok(isMainThread))

  for (const [name, { call, known }] of Object.entries(functions)) {
    it(`is refused, with the nearest known name: ${name}`, async () => {
      const misspelt = known.replace(/(.)(.)$/, '$2$1')
      await refuses(call, { [misspelt]: 1 }, `'${misspelt}'; did you mean '${known}'?`)
    })

    it(`is refused, with all known names if none is near: ${name}`, async () => {
      await refuses(call, { qqqqqqqq: 1 }, "'qqqqqqqq'; the known ones are: '", `'${known}'`)
    })
  }

  const { call } = functions['FdChannel.pair'] as { call: (options: Options) => unknown }

  it('is refused also if its value is undefined', () => refuses(call, { maxMesage: undefined }, "'maxMesage'"))

  it('is refused also if it is inherited', () => refuses(call, Object.create({ maxMesage: 1 }), "'maxMesage'"))

  it('is refused in an object without a prototype', () =>
    refuses(call, Object.assign(Object.create(null), { maxMesage: 1 }), "'maxMesage'"))

  it('is compared without regard to case', () => refuses(call, { MAXMESSAGE: 1 }, "did you mean 'maxMessage'?"))

  it('may have a name of any length', () => refuses(call, { ['m'.repeat(1e6)]: 1 }, 'the known ones are'))

  it('named like a member of Object.prototype is refused', async () => {
    const wrong = Object.create(null)
    for (const name of ['toString', 'constructor', '__proto__']) {
      Object.defineProperty(wrong, name, { value: 1, enumerable: true, configurable: true })
      await refuses(call, wrong, `'${name}'`)
      delete wrong[name]
    }
  })

  it('is refused before a getter of another option is called', () =>
    refuses(
      call,
      {
        get maxMessage() {
          throw new Error('read')
        },
        maxMesage: 1,
      },
      "'maxMesage'",
    ))

  it('that is a symbol, not enumerable, or enumerable in Object.prototype is ignored', async () => {
    Object.defineProperty(Object.prototype, 'polluted', { value: 1, enumerable: true, configurable: true })
    cleanUp(() => Reflect.deleteProperty(Object.prototype, 'polluted'))
    const options = Object.defineProperty({ [Symbol('mine')]: 1 }, 'hidden', { value: 1 })
    for (const each of [options, Object.create(options), {}]) await Listener.listen(each).then((made) => made.close())
  })
})
