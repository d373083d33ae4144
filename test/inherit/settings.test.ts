import assert from 'node:assert/strict'
import { resolve } from 'node:path'
import fc from 'fast-check'
import { readSettings } from '../../src/inherit/settings.js'

const defaults = {
  map: new Map(),
  maxConnections: undefined,
  proxyProtocol: undefined,
  trust: undefined,
  drainTimeout: 30_000,
  idleTimeout: undefined,
  notify: true,
}

const valid: [NodeJS.ProcessEnv, object][] = [
  [{}, {}],
  [{ ASYNC_ACCEPT_MAX_CONNECTIONS: '', ASYNC_ACCEPT_INHERIT: '' }, {}],
  [{ ASYNC_ACCEPT_INHERIT: '3000=web' }, { map: new Map([['3000', 'web']]) }],
  [
    { ASYNC_ACCEPT_INHERIT: '03000=web.socket, /run/app.sock=a=b,@name=c' },
    {
      map: new Map([
        ['3000', 'web.socket'],
        ['/run/app.sock', 'a=b'],
        ['@name', 'c'],
      ]),
    },
  ],
  [{ ASYNC_ACCEPT_MAX_CONNECTIONS: '1' }, { maxConnections: 1 }],
  [{ ASYNC_ACCEPT_DRAIN_TIMEOUT: '0' }, { drainTimeout: 0 }],
  [{ ASYNC_ACCEPT_DRAIN_TIMEOUT: '0.25' }, { drainTimeout: 250 }],
  [{ ASYNC_ACCEPT_IDLE_TIMEOUT: '60' }, { idleTimeout: 60_000 }],
  [{ ASYNC_ACCEPT_NOTIFY: 'off' }, { notify: false }],
  [
    { ASYNC_ACCEPT_INHERIT: '/run/../run//a.sock=a,./b.sock=b' },
    {
      map: new Map([
        ['/run/a.sock', 'a'],
        [resolve('b.sock'), 'b'],
      ]),
    },
  ],
  [{ ASYNC_ACCEPT_ADDON: '/some/addon.node', ASYNC_ACCEPT_UNKNOWN: '' }, {}],
]

const numbers = ['-1', '1e3', '0x10', ' 1', '1 ', 'NaN', 'Infinity', '1.', '.5', '10s']
const invalid: Record<string, string[]> = {
  ASYNC_ACCEPT_INHERIT: [
    'web',
    '=web',
    '3000=',
    '0=web',
    '65536=web',
    '3000=a:b',
    '1=a,1=b',
    '1=a,,2=b',
    '1=a,01=b',
    'x=y',
    '/a=x,//a=y',
  ],
  ASYNC_ACCEPT_MAX_CONNECTIONS: [...numbers, '0', '1.5'],
  ASYNC_ACCEPT_DRAIN_TIMEOUT: [...numbers, '2147484', '99999999999'],
  ASYNC_ACCEPT_IDLE_TIMEOUT: [...numbers, '0', '0.0004'],
  ASYNC_ACCEPT_PROXY_PROTOCOL: ['yes', 'REQUIRE', '1'],
  ASYNC_ACCEPT_TRUST: ['localhost', '10.0.0.0/33', '::/129', '10.0.0.1,', '10.0.0/8', '1.2.3.4/'],
  ASYNC_ACCEPT_NOTIFY: ['0', 'false', 'OFF'],
}

describe('The settings of the preload', () => {
  for (const [env, settings] of valid) {
    it(`are read from ${JSON.stringify(env)}`, () => {
      assert.deepEqual(readSettings(env), { ...defaults, ...settings })
    })
  }

  for (const [name, texts] of Object.entries(invalid)) {
    it(`refuse an invalid ${name}, in one line that names it`, () => {
      for (const text of texts) {
        assert.throws(
          () => readSettings({ [name]: text }),
          (error: Error) =>
            error.message.startsWith(`${name} is ${JSON.stringify(text)}, but must be `) &&
            !error.message.includes('\n'),
          text,
        )
      }
    })
  }

  it('are the trusted proxies', () => {
    const { proxyProtocol, trust } = readSettings({
      ASYNC_ACCEPT_PROXY_PROTOCOL: 'require',
      ASYNC_ACCEPT_TRUST: '10.0.0.0/8, ::1',
    })
    assert.equal(proxyProtocol, 'require')
    assert.deepEqual(
      [trust?.check('10.1.2.3'), trust?.check('::1', 'ipv6'), trust?.check('11.0.0.1'), trust?.check('::2', 'ipv6')],
      [true, true, false, false],
    )
  })

  it('refuse a variable with an unknown name, in one line', () => {
    assert.throws(() => readSettings({ ASYNC_ACCEPT_MAX_CONECTIONS: '5' }), {
      message:
        'unknown variable "ASYNC_ACCEPT_MAX_CONECTIONS"; the settings are ' +
        'ASYNC_ACCEPT_INHERIT, ASYNC_ACCEPT_MAX_CONNECTIONS, ASYNC_ACCEPT_PROXY_PROTOCOL, ASYNC_ACCEPT_TRUST, ' +
        'ASYNC_ACCEPT_DRAIN_TIMEOUT, ASYNC_ACCEPT_IDLE_TIMEOUT, ASYNC_ACCEPT_NOTIFY, ASYNC_ACCEPT_ADDON, ASYNC_ACCEPT_RUN_DIRECTORY',
    })
  })

  it('are those of a worker of `async-accept run`, too, if NODE_OPTIONS loads the preload first', () => {
    assert.doesNotThrow(() => readSettings({ ASYNC_ACCEPT_WORKER: '{}' }))
  })

  it('need the trusted proxies for the PROXY protocol', () => {
    assert.throws(() => readSettings({ ASYNC_ACCEPT_PROXY_PROTOCOL: 'optional' }), /needs ASYNC_ACCEPT_TRUST/)
  })

  it('are valid, or refused in one line, for any text', () => {
    const names = fc.constantFrom(...Object.keys(invalid))
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.string({ unit: fc.constantFrom(...'019=,./:@a -'.split('')) }),
      fc.nat().map(String),
    )
    fc.assert(
      fc.property(names, text, (name, value) => {
        try {
          const { maxConnections = 1, drainTimeout, idleTimeout = 1, map } = readSettings({ [name]: value })
          assert.ok(maxConnections >= 1 && drainTimeout >= 0 && idleTimeout >= 1)
          for (const [key, socket] of map) assert.ok(key !== '' && socket !== '' && !socket.includes(':'))
        } catch (error) {
          const { message } = error as Error
          assert.ok(message.startsWith(name), message)
          assert.ok(!/[\n\0]/.test(message), message)
        }
      }),
      { numRuns: 2000 },
    )
  })
})
