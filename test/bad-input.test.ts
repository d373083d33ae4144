import assert from 'node:assert/strict'
import net from 'node:net'
import tls from 'node:tls'
import { binding } from '../src/core/binding.js'
import { Connection, type FromFdOptions, Listener, type ListenOptions, type ToSocketOptions } from '../src/index.js'
import { pair, temporary, temporaryFd } from './descriptors.js'
import { cleanUp, connect, listen } from './helpers.js'
import { leaveNoFds } from './leaks.js'

/** Wrong values that are refused in one way. */
interface Wrong {
  values: readonly unknown[]
  code: string
  /** What the message says was expected. */
  expected: string
}

type Kind = readonly Wrong[]

const type = (expected: string, ...values: unknown[]): Wrong => ({ values, code: 'ERR_INVALID_ARG_TYPE', expected })
const range = (expected: string, ...values: unknown[]): Wrong => ({ values, code: 'ERR_OUT_OF_RANGE', expected })
const value = (expected: string, ...values: unknown[]): Wrong => ({ values, code: 'ERR_INVALID_ARG_VALUE', expected })

const notANumber = type('of type number', null, '1', true, {}, [1], 1n, Symbol('one'), () => 1)

const boolean: Kind = [type('of type boolean', null, 0, 1, 'true', {}, [])]
const object: Kind = [type('an object', null, 0, 'options', true, [], () => {}, Symbol('options'), 1n)]
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

/** How each argument can be wrong, under its name in messages. */
type Table = Record<string, Kind>

const accepting: Table = {
  'options.highWaterMark': integer(0, int32),
  'options.maxBatch': integer(1, binding.maxBatch),
  'options.onFdLimit': [
    type('of type string', null, 0, true, {}),
    value("must be one of: 'hold', 'reset'", '', 'Hold', 'drop'),
  ],
}

const inherited: Table = {
  'options.noDelay': boolean,
  'options.keepAlive': boolean,
  'options.keepAliveInitialDelay': integer(0, 32767 * 1000),
}

const listening: Table = {
  options: object,
  'options.port': [
    type('of type number', null, true, {}, [80], 80n, '', ' '),
    {
      values: [-1, 65536, 1.5, NaN, Infinity, '65536', 'http', '-1'],
      code: 'ERR_SOCKET_BAD_PORT',
      expected: '< 65536',
    },
  ],
  'options.host': text,
  'options.path': [...text, value("must not contain '\\0'", 'a\0b', '/tmp/\0')],
  'options.backlog': integer(0, int32),
  'options.mode': integer(0, 0o777),
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

/** The options object that has `wrong` under the last part of `name`, or `wrong` itself in its place. */
function withWrong(name: string, wrong: unknown): unknown {
  const [, property] = name.split('.')
  return property === undefined ? wrong : { [property]: wrong }
}

/** Calls `call` once for each wrong value; each must throw, or reject, with the right words. */
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
        assert.ok(error.stack?.startsWith(`${error.name} [${code}]: `), 'the stack shows the code')
        return true
      })
    }
  }
}

/** A test for each argument in the table. */
function refusesEach(table: Table, call: (argument: unknown) => unknown): void {
  for (const [name, kind] of Object.entries(table)) {
    it(`refuses a wrong ${name}`, () => refuses(name, kind, (wrong) => call(withWrong(name, wrong))))
  }
}

describe('Bad input', () => {
  leaveNoFds()

  describe('to Listener.listen', () => {
    refusesEach(listening, (options) => Listener.listen(options as ListenOptions))

    it('rejects, and does not throw', () => {
      const promise = Listener.listen(null as unknown as ListenOptions)
      return assert.rejects(promise, { code: 'ERR_INVALID_ARG_TYPE' })
    })

    it('refuses a path together with a port or a host', async () => {
      const expected = 'cannot be combined with a port or a host'
      for (const other of [{ port: 0 }, { host: 'localhost' }]) {
        await refuses('options.path', [value(expected, '/tmp/socket')], (path) =>
          Listener.listen({ ...other, path } as ListenOptions),
        )
      }
    })

    it('refuses a path that is too long with the code of bind', async () => {
      const path = `/tmp/${'x'.repeat(200)}`
      await assert.rejects(Listener.listen({ path }), { code: 'ENAMETOOLONG', syscall: 'bind', path })
      await assert.rejects(Listener.listen({ path: `\0${path}` }), { code: 'ENAMETOOLONG', syscall: 'bind' })
    })

    it('takes a port in text, as Node does', async () => {
      const listener = await listen({ port: '0' as unknown as number })
      assert.ok((listener.address() as net.AddressInfo).port > 0)
    })
  })

  describe('to Listener.fromFd', () => {
    it('refuses a wrong fd', () => refuses('fd', fd, (wrong) => Listener.fromFd(wrong as number)))

    let listener: Listener
    beforeEach(async () => {
      listener = await listen()
    })

    refusesEach({ options: object, 'options.dup': boolean, ...inherited, ...accepting }, (options) =>
      Listener.fromFd(listener.fd, options as FromFdOptions),
    )

    it('leaves the fd alone when the options are wrong', async () => {
      const number = temporaryFd(listener.detach())
      assert.throws(() => Listener.fromFd(number, { maxBatch: 0 }), { code: 'ERR_OUT_OF_RANGE' })
      await Listener.fromFd(number).close()
    })
  })

  describe('to Connection.fromFd', () => {
    it('refuses a wrong fd', () => refuses('fd', fd, (wrong) => Connection.fromFd(wrong as number)))
  })

  describe('to a listener', () => {
    let listener: Listener
    beforeEach(async () => {
      listener = await listen({ host: '127.0.0.1' })
      cleanUp(() => assert.equal(listener.pending, 0, 'a refused call leaves no request'))
    })

    it('asyncAccept refuses a wrong timeout', () =>
      refuses('timeout', timeout, (wrong) => listener.asyncAccept(wrong as number)))

    it('cancel refuses a wrong ref', () => {
      const kind = [type('of type number', undefined), ...integer(0, Number.MAX_SAFE_INTEGER)]
      // Beyond the safe integers adding a half changes nothing, so the table's bounds are enough here.
      return refuses('ref', kind, (wrong) => listener.cancel(wrong as number))
    })

    for (const [name, kind] of Object.entries({
      options: object,
      'options.timeout': timeout,
      'options.signal': signal,
    })) {
      it(`accept refuses a wrong ${name}`, () =>
        refuses(name, kind, (wrong) => listener.accept(withWrong(name, wrong) as { timeout: number })))
    }

    it('accept rejects, and does not throw', () =>
      assert.rejects(listener.accept(null as unknown as object), { code: 'ERR_INVALID_ARG_TYPE' }))

    it('a refused request costs no later one its client', async () => {
      const broken = { aborted: false } as AbortSignal
      await assert.rejects(listener.accept({ signal: broken }), { code: 'ERR_INVALID_ARG_TYPE' })
      const accepting = listener.accept()
      const client = await connect(listener)
      using connection = await accepting
      assert.equal(connection.remotePort, client.localPort)
    })
  })

  describe('to a connection', () => {
    let connection: Connection
    beforeEach(async () => {
      const made = await pair()
      connection = made.connection
      const { fd } = connection
      cleanUp(() => assert.equal(connection.fd, fd, 'a refused call claims nothing'))
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
      it(`toSocket refuses a wrong ${name}`, () =>
        refuses(name, kind, (wrong) => connection.toSocket(withWrong(name, wrong) as ToSocketOptions)))
    }

    it('toTLS refuses wrong options', () =>
      refuses('options', [type('an object', undefined), ...object], (wrong) =>
        connection.toTLS(wrong as tls.TlsOptions),
      ))

    const upgradeOptions: Table = {
      upgradeOptions: object,
      'upgradeOptions.timeout': timeout,
      'upgradeOptions.signal': signal,
    }
    for (const [name, kind] of Object.entries(upgradeOptions)) {
      it(`toTLS refuses a wrong ${name}`, () =>
        refuses(name, kind, (wrong) => connection.toTLS({}, withWrong(name, wrong) as object)))
    }

    it('toTLS rejects with what tls.createServer says', async () => {
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

  it('does not take a long handshake deadline for a short one', async () => {
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

  it('does not make connections of what is not an accepted fd', () => {
    const Class = Connection as unknown as new (owned: unknown) => Connection
    for (const wrong of [undefined, null, 3, {}, { fd: 3 }, temporary(new net.Socket())]) {
      assert.throws(() => new Class(wrong), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })
})
