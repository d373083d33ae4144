import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { Connection, type UpgradeOptions } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { codeOf, flagsOf } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import {
  dialTLS,
  localhost,
  plain,
  rejectionCode,
  type ServerOptions,
  secured,
  serverToLend,
  upgraded,
} from '../tls-peers.js'

describe('Connection.toTLS with invalid arguments', () => {
  leaveNoFds()

  const wrong: [string, unknown, unknown, string][] = [
    ...[undefined, null, 5, 'x', [], () => {}, new net.Server()].map(
      (options) =>
        [`options ${String(options)}`, options, {}, 'ERR_INVALID_ARG_TYPE'] as [string, unknown, unknown, string],
    ),
    ['an invalid key', { key: 'x', cert: 'y' }, {}, 'ERR_OSSL_'],
    ['an invalid version', { minVersion: 'TLSv9' }, {}, 'ERR_TLS_INVALID_PROTOCOL_VERSION'],
    ['invalid ciphers', { ciphers: 'no-such' }, {}, 'ERR_SSL_NO_CIPHER_MATCH'],
    ['both kinds of ALPN', { ALPNProtocols: ['h2'], ALPNCallback() {} }, {}, 'ERR_TLS_ALPN_CALLBACK_WITH_PROTOCOLS'],
    ['an invalid ALPNCallback', { ALPNCallback: 5 }, {}, 'ERR_INVALID_ARG_TYPE'],
    ['an invalid SNICallback', { SNICallback: 5 }, {}, 'ERR_INVALID_ARG_TYPE'],
    ['an invalid pskCallback', { pskCallback: 5 }, {}, 'ERR_INVALID_ARG_TYPE'],
    ['enableTrace', { enableTrace: 'x' }, {}, 'ERR_INVALID_ARG_TYPE'],
    ['handshakeTimeout', { handshakeTimeout: 'x' }, {}, 'ERR_INVALID_ARG_TYPE'],
    ['upgradeOptions null', {}, null, 'ERR_INVALID_ARG_TYPE'],
    ['upgradeOptions 5', {}, 5, 'ERR_INVALID_ARG_TYPE'],
    ['timeout null', {}, { timeout: null }, 'ERR_INVALID_ARG_TYPE'],
    ["timeout '5'", {}, { timeout: '5' }, 'ERR_INVALID_ARG_TYPE'],
    ['timeout NaN', {}, { timeout: Number.NaN }, 'ERR_OUT_OF_RANGE'],
    ['signal null', {}, { signal: null }, 'ERR_INVALID_ARG_TYPE'],
    ['signal {}', {}, { signal: {} }, 'ERR_INVALID_ARG_TYPE'],
  ]

  it('leaves the fd with the connection for every invalid argument', async () => {
    const { connection, client } = await plain()
    const { fd } = connection
    for (const [what, options, upgradeOptions, code] of wrong) {
      const attempt = connection.toTLS(options as ServerOptions, upgradeOptions as UpgradeOptions)
      await assert.rejects(attempt, (error) => codeOf(error)?.startsWith(code) ?? false, what)
      assert.equal(connection.fd, fd, what)
      assert.notEqual(flagsOf(fd), undefined, what)
    }
    const accepted = upgraded(connection, await localhost())
    const secureClient = await dialTLS({ socket: client })
    await once(secureClient, 'secureConnect')
    assert.equal((await accepted).encrypted, true)
  })

  it('leaves the fd with the connection when a borrowed server is invalid', async () => {
    const { connection } = await plain()
    const server = Object.assign(await serverToLend(), { ALPNCallback: 5 })
    await assert.rejects(connection.toTLS(server), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.notEqual(connection.fd, -1)
    connection.close()
  })

  it('closes the fd when Node rejects a borrowed server later', async () => {
    const { a } = await certificates()
    const pair = await plain()
    const server = tls.createServer({ ...a, enableTrace: 'x' as never })
    assert.equal(await rejectionCode(pair, server), 'ERR_INVALID_ARG_TYPE')
  })

  const ways: [string, (connection: Connection) => unknown][] = [
    ['close', (connection) => connection.close()],
    ['reset', (connection) => connection.reset()],
    ['detach', (connection) => Connection.fromFd(connection.detach()).close()],
    ['toSocket', (connection) => connection.toSocket().destroy()],
  ]
  for (const [way, claim] of ways) {
    it(`rejects after ${way}`, async () => {
      const { connection } = await plain()
      claim(connection)
      await assert.rejects(connection.toTLS(await localhost()), { code: 'ERR_CONNECTION_CLAIMED' })
    })
  }

  it('rejects a second call', async () => {
    const { connection, secure } = await secured(await localhost())
    await assert.rejects(connection.toTLS(await localhost()), { code: 'ERR_CONNECTION_CLAIMED' })
    assert.equal(secure.destroyed, false)
  })
})
