import assert from 'node:assert/strict'
import net from 'node:net'
import tls from 'node:tls'
import { binding } from '../src/core/binding.js'
import {
  Connection,
  type ConnectionsOptions,
  type FromFdOptions,
  Listener,
  type ListenOptions,
  type PeekOptions,
  type SendOptions,
  type ToSocketOptions,
} from '../src/index.js'
import { channels, nextText } from './channels.js'
import { pair, temporary, temporaryFd } from './descriptors.js'
import { cleanUp, connect, listen } from './helpers.js'
import { leaveNoFds } from './leaks.js'
import { lookedBefore } from './looked-before.js'

/** Invalid values that are rejected in the same way. */
interface Wrong {
  values: readonly unknown[]
  code: string
  /** The expected value in the message. */
  expected: string
}

type Kind = readonly Wrong[]

const type = (expected: string, ...values: unknown[]): Wrong => ({ values, code: 'ERR_INVALID_ARG_TYPE', expected })
const range = (expected: string, ...values: unknown[]): Wrong => ({ values, code: 'ERR_OUT_OF_RANGE', expected })
const value = (expected: string, ...values: unknown[]): Wrong => ({ values, code: 'ERR_INVALID_ARG_VALUE', expected })

const notANumber = type('of type number', null, '1', true, {}, [1], 1n, Symbol('one'), () => 1)

const boolean: Kind = [type('of type boolean', null, 0, 1, 'true', {}, [])]
const object: Kind = [type('an object', null, 0, 'options', true, [], () => {}, Symbol('options'), 1n)]
// Listener.listen() accepts a number, the port, in place of its options.
const objectOrNumber: Kind = [type('an object', null, '3000', '/run/app.sock', true, [], () => {}, Symbol('port'), 1n)]
const signal: Kind = [
  type(
    'an instance of AbortSignal',
    null,
    'abort',
    1,
    {},
    { aborted: false },
    { aborted: true },
    new AbortController(),
  ),
]
const text: Kind = [type('of type string', null, 0, true, {}, ['a'], Symbol('a')), value('must not be empty', '')]
const timeout: Kind = [notANumber, range('a number of milliseconds', NaN), range('<= 9007199254740991', 2 ** 53, 1e300)]

const integer = (min: number, max: number): Kind => [
  notANumber,
  range('an integer', NaN, Infinity, -Infinity, min + 0.5),
  range(`>= ${min} && <= ${max}`, min - 1, max + 1),
]

const int32 = 2 ** 31 - 1

/** The kinds of invalid values of each argument, by its name in messages. */
type Table = Record<string, Kind>

const accepting: Table = {
  'options.highWaterMark': integer(0, int32),
  'options.maxBatch': integer(1, binding.maxBatch),
  'options.onFdLimit': [
    type("one of: 'hold', 'reset'", null, 0, true, {}),
    value("must be one of: 'hold', 'reset'", '', 'Hold', 'drop'),
  ],
}

const inherited: Table = {
  'options.noDelay': boolean,
  'options.keepAlive': boolean,
  'options.keepAliveInitialDelay': integer(0, 32767 * 1000),
}

const badPort = (...values: unknown[]): Wrong => ({ values, code: 'ERR_SOCKET_BAD_PORT', expected: '< 65536' })

const listening: Table = {
  options: objectOrNumber,
  'options.port': [
    type('of type number', null, true, {}, [80], 80n, '', ' '),
    badPort(-1, 65536, 1.5, NaN, Infinity, '65536', 'http', '-1'),
  ],
  'options.host': text,
  'options.path': [...text, value("must not contain '\\0'", 'a\0b', '/tmp/\0')],
  'options.backlog': integer(0, int32),
  'options.mode': integer(0, 0o777),
  'options.mptcp': boolean,
  'options.unlinkStale': boolean,
  ...accepting,
  ...inherited,
  'options.ipv6Only': boolean,
  'options.reusePort': boolean,
  'options.transparent': boolean,
  'options.freeBind': boolean,
  'options.deferAccept': integer(0, 32767),
  'options.fastOpen': integer(0, int32),
  'options.bindToDevice': text,
}

const fd: Kind = [type('of type number', undefined), ...integer(0, int32)]

/** An options object with `wrong` as the last part of `name`; `wrong` itself if `name` has no parts. */
function withWrong(name: string, wrong: unknown): unknown {
  const [, property] = name.split('.')
  return property === undefined ? wrong : { [property]: wrong }
}

/** Asserts that `call` throws or rejects for each invalid value, with the right message. */
async function refuses(name: string, kind: Kind, call: (wrong: unknown) => unknown): Promise<void> {
  for (const { values, code, expected } of kind) {
    for (const wrong of values) {
      const attempt = async () => call(wrong)
      await assert.rejects(attempt(), (error: Error & { code?: string }) => {
        const { message } = error
        const about = `${name} = ${String(typeof wrong === 'object' ? JSON.stringify(wrong) : String(wrong))}: ${message}`
        assert.equal(error.code, code, about)
        for (const part of [name, expected, 'Received ']) assert.ok(message.includes(part), `${part} in ${about}`)
        assert.ok(error instanceof (code === 'ERR_INVALID_ARG_TYPE' ? TypeError : Error), about)
        assert.ok(error.stack?.startsWith(`${error.name} [${code}]: `), 'the stack contains the code')
        return true
      })
    }
  }
}

/** Defines a test for each argument in the table. */
function refusesEach(table: Table, call: (argument: unknown) => unknown): void {
  for (const [name, kind] of Object.entries(table)) {
    it(`rejects an invalid ${name}`, () => refuses(name, kind, (wrong) => call(withWrong(name, wrong))))
  }
}

describe('Argument validation', () => {
  lookedBefore()
  leaveNoFds()

  describe('of Listener.listen', () => {
    refusesEach(listening, (options) => Listener.listen(options as ListenOptions))

    it('rejects the promise and does not throw', () => {
      const promise = Listener.listen(null as unknown as ListenOptions)
      return assert.rejects(promise, { code: 'ERR_INVALID_ARG_TYPE' })
    })

    it('rejects a port as a string, and says that a number may take the place of the options', async () => {
      await assert.rejects(Listener.listen('3000' as unknown as number), {
        code: 'ERR_INVALID_ARG_TYPE',
        message: /"options" argument must be an object or a port number\. Received type string \('3000'\)/,
      })
    })

    it('rejects an invalid port in place of the options', () =>
      refuses('options.port', [badPort(-1, 65536, 1.5, NaN, Infinity)], (port) => Listener.listen(port as number)))

    it('rejects a path together with a port or a host', async () => {
      const expected = 'cannot be combined with a port or a host'
      for (const other of [{ port: 0 }, { host: 'localhost' }]) {
        await refuses('options.path', [value(expected, '/tmp/socket')], (path) =>
          Listener.listen({ ...other, path } as ListenOptions),
        )
      }
    })

    it('rejects a path that is too long with ENAMETOOLONG', async () => {
      const path = `/tmp/${'x'.repeat(200)}`
      await assert.rejects(Listener.listen({ path }), { code: 'ENAMETOOLONG', syscall: 'bind', path })
      await assert.rejects(Listener.listen({ path: `\0${path}` }), { code: 'ENAMETOOLONG', syscall: 'bind' })
    })

    it('accepts a port as a string, as Node does', async () => {
      const listener = await listen({ port: '0' as unknown as number })
      assert.ok((listener.address() as net.AddressInfo).port > 0)
    })
  })

  describe('of Listener.fromFd', () => {
    it('rejects an invalid fd', () => refuses('fd', fd, (wrong) => Listener.fromFd(wrong as number)))

    let listener: Listener
    beforeEach(async () => {
      listener = await listen()
    })

    refusesEach({ options: object, 'options.dup': boolean, ...inherited, ...accepting }, (options) =>
      Listener.fromFd(listener.fd, options as FromFdOptions),
    )

    it('leaves the fd with the caller', async () => {
      const number = temporaryFd(listener.detach())
      assert.throws(() => Listener.fromFd(number, { maxBatch: 0 }), { code: 'ERR_OUT_OF_RANGE' })
      await Listener.fromFd(number).close()
    })
  })

  describe('of Connection.fromFd', () => {
    it('rejects an invalid fd', () => refuses('fd', fd, (wrong) => Connection.fromFd(wrong as number)))
  })

  describe('of a listener', () => {
    let listener: Listener
    beforeEach(async () => {
      listener = await listen({ host: '127.0.0.1' })
      cleanUp(() => assert.equal(listener.pending, 0, 'a rejected call leaves no request'))
    })

    it('asyncAccept rejects an invalid timeout', () =>
      refuses('timeout', timeout, (wrong) => listener.asyncAccept(wrong as number)))

    it('cancel rejects an invalid ref', () => {
      const kind = [type('of type number', undefined), ...integer(0, Number.MAX_SAFE_INTEGER)]
      // Above the safe integers, adding one half has no effect, so the bounds of the table suffice.
      return refuses('ref', kind, (wrong) => listener.cancel(wrong as number))
    })

    for (const [name, kind] of Object.entries({
      options: object,
      'options.timeout': timeout,
      'options.signal': signal,
    })) {
      it(`accept rejects an invalid ${name}`, () =>
        refuses(name, kind, (wrong) => listener.accept(withWrong(name, wrong) as { timeout: number })))
    }

    const connectionsOptions: Table = {
      options: object,
      'options.timeout': timeout,
      'options.signal': signal,
      'options.limit': [
        notANumber,
        range('an integer', NaN, -Infinity, 0.5),
        range(`>= 0 && <= ${Number.MAX_SAFE_INTEGER}`, -1, 2 ** 53),
      ],
    }
    for (const [name, kind] of Object.entries(connectionsOptions)) {
      it(`connections rejects an invalid ${name}`, () =>
        refuses(name, kind, (wrong) => listener.connections(withWrong(name, wrong) as ConnectionsOptions)))
    }

    it('connections throws for invalid options', () =>
      assert.throws(() => listener.connections(null as unknown as object), { code: 'ERR_INVALID_ARG_TYPE' }))

    it('accept rejects the promise and does not throw', () =>
      assert.rejects(listener.accept(null as unknown as object), { code: 'ERR_INVALID_ARG_TYPE' }))

    it('a rejected request does not lose the client of a later request', async () => {
      const broken = { aborted: false } as AbortSignal
      await assert.rejects(listener.accept({ signal: broken }), { code: 'ERR_INVALID_ARG_TYPE' })
      const accepting = listener.accept()
      const client = await connect(listener)
      using connection = await accepting
      assert.equal(connection.remotePort, client.localPort)
    })
  })

  describe('of a connection', () => {
    let connection: Connection
    beforeEach(async () => {
      const made = await pair()
      connection = made.connection
      const { fd } = connection
      cleanUp(() => assert.equal(connection.fd, fd, 'a rejected call does not claim the connection'))
    })

    const socketOptions: Table = {
      options: object,
      'options.allowHalfOpen': boolean,
      'options.noDelay': boolean,
      'options.keepAlive': boolean,
      'options.keepAliveInitialDelay': integer(0, int32),
      'options.highWaterMark': integer(0, int32),
      'options.signal': signal,
    }
    for (const [name, kind] of Object.entries(socketOptions)) {
      it(`toSocket rejects an invalid ${name}`, () =>
        refuses(name, kind, (wrong) => connection.toSocket(withWrong(name, wrong) as ToSocketOptions)))
    }

    it('peek rejects an invalid length', () =>
      refuses('length', [type('of type number', undefined), ...integer(1, 65_536)], (wrong) =>
        connection.peek(wrong as number),
      ))

    const peekOptions: Table = {
      options: object,
      'options.min': integer(1, 10),
      'options.timeout': timeout,
      'options.signal': signal,
    }
    for (const [name, kind] of Object.entries(peekOptions)) {
      it(`peek rejects an invalid ${name}`, () =>
        refuses(name, kind, (wrong) => connection.peek(10, withWrong(name, wrong) as PeekOptions)))
    }

    it('toTLS rejects invalid options', () =>
      refuses('options', [type('an object', undefined), ...object], (wrong) =>
        connection.toTLS(wrong as tls.TlsOptions),
      ))

    const upgradeOptions: Table = {
      upgradeOptions: object,
      'upgradeOptions.timeout': timeout,
      'upgradeOptions.signal': signal,
    }
    for (const [name, kind] of Object.entries(upgradeOptions)) {
      it(`toTLS rejects an invalid ${name}`, () =>
        refuses(name, kind, (wrong) => connection.toTLS({}, withWrong(name, wrong) as object)))
    }

    it('toTLS rejects with the errors of tls.createServer', async () => {
      const wrong: [tls.TlsOptions, string][] = [
        [{ key: 5 as unknown as string }, 'ERR_INVALID_ARG_TYPE'],
        [{ handshakeTimeout: 'soon' as unknown as number }, 'ERR_INVALID_ARG_TYPE'],
        [{ minVersion: 'TLSv9' as tls.SecureVersion }, 'ERR_TLS_INVALID_PROTOCOL_VERSION'],
        [{ ciphers: 'no-such-cipher' }, 'ERR_SSL_NO_CIPHER_MATCH'],
      ]
      for (const [options, code] of wrong) {
        assert.throws(() => tls.createServer(options), { code })
        await assert.rejects(connection.toTLS(options), { code })
      }
    })
  })

  describe('of a channel', () => {
    const sendOptions: Table = { options: object, 'options.timeout': timeout, 'options.signal': signal }
    for (const [name, kind] of Object.entries(sendOptions)) {
      it(`send rejects an invalid ${name}, and sends nothing`, async () => {
        const [a, b] = channels('stream')
        await refuses(name, kind, (wrong) => a.send('wrong', [a.fd], withWrong(name, wrong) as SendOptions))
        await a.send('right')
        assert.equal(await nextText(b), 'right')
      })
    }
  })

  it('accepts a very long handshake timeout', async () => {
    const { connection, client } = await pair()
    const warnings: Error[] = []
    const take = (warning: Error) => warnings.push(warning)
    process.on('warning', take)
    cleanUp(() => process.off('warning', take))
    const upgrade = connection.toTLS({}, { timeout: 2 ** 40 })
    client.end('not a ClientHello')
    await assert.rejects(upgrade, (error: Error & { code?: string }) => error.code !== 'ERR_TLS_HANDSHAKE_TIMEOUT')
    assert.deepEqual(warnings, [])
  })

  it('rejects everything but an accepted fd in the Connection constructor', () => {
    const Class = Connection as unknown as new (owned: unknown) => Connection
    for (const wrong of [undefined, null, 3, {}, { fd: 3 }, temporary(new net.Socket())]) {
      assert.throws(() => new Class(wrong), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })
})
