import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { getEventListeners, once } from 'node:events'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type tls from 'node:tls'
import { codeOf, listen, target } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import {
  clientHello,
  dialTLS,
  ended,
  localhost,
  plain,
  refused,
  rejection,
  rejectionCode,
  upgraded,
} from '../tls-peers.js'

const watchers = (signal: AbortSignal) => getEventListeners(signal, 'abort').length

describe('Connection.toTLS when the handshake fails', () => {
  leaveNoFds()

  describe("because of the client's bytes", () => {
    it('rejects plaintext HTTP with ERR_SSL_HTTP_REQUEST', async () => {
      const pair = await plain()
      pair.client.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
      assert.equal(await rejectionCode(pair, await localhost()), 'ERR_SSL_HTTP_REQUEST')
    })

    it('rejects garbage with an ERR_SSL_* code', async () => {
      for (const garbage of ['SSH-2.0-OpenSSH_9.6\r\n', Buffer.alloc(1000), Buffer.alloc(1000, 255)]) {
        const pair = await plain()
        pair.client.write(garbage)
        assert.match((await rejectionCode(pair, await localhost())) ?? '', /^ERR_SSL_/)
      }
    })

    it('rejects garbage after a ClientHello with an ERR_SSL_* code', async () => {
      const pair = await plain()
      pair.client.write(Buffer.concat([await clientHello(), Buffer.from('and now for something different')]))
      assert.match((await rejectionCode(pair, await localhost())) ?? '', /^ERR_SSL_/)
    })

    it('rejects an unsupported protocol version with ERR_SSL_UNSUPPORTED_PROTOCOL', async () => {
      const { error } = await refused(await localhost({ minVersion: 'TLSv1.3' }), { maxVersion: 'TLSv1.2' })
      assert.equal(codeOf(error), 'ERR_SSL_UNSUPPORTED_PROTOCOL')
    })

    it('stays rejected without an uncaught exception when the client resets afterwards', async () => {
      const { connection, client } = await plain()
      client.write('GET / HTTP/1.0\r\n\r\n')
      const error = await rejection(connection, await localhost())
      client.resetAndDestroy()
      // An unhandled 'error' event would be an uncaught exception.
      for (let turn = 0; turn < 20; turn++) await nextTurn()
      assert.equal(codeOf(error), 'ERR_SSL_HTTP_REQUEST')
    })
  })

  describe('because the client disconnects', () => {
    const hello = Buffer.from('160301020001', 'hex')
    const before: [string, () => Promise<Uint8Array>][] = [
      ['before it sends anything', async () => new Uint8Array()],
      ['in the middle of its ClientHello', async () => hello],
      ['after its ClientHello', () => clientHello()],
    ]
    for (const [when, says] of before) {
      it(`rejects with ECONNRESET: half-close ${when}`, async () => {
        const pair = await plain()
        pair.client.end(await says())
        assert.equal(await rejectionCode(pair, await localhost()), 'ECONNRESET')
      })

      it(`rejects with ECONNRESET: reset ${when}`, async () => {
        const { connection, client } = await plain()
        const bytes = await says()
        if (bytes.length > 0) await new Promise((written) => client.write(bytes, written))
        client.resetAndDestroy()
        assert.equal(codeOf(await rejection(connection, await localhost())), 'ECONNRESET')
      })
    }

    it('rejects with ECONNRESET during the handshake', async () => {
      const pair = await plain()
      const options = await localhost()
      pair.client.write(await clientHello())
      const code = rejectionCode(pair, options)
      await once(pair.client, 'data')
      pair.client.end()
      assert.equal(await code, 'ECONNRESET')
    })

    it('rejects with ECONNRESET after a half-close, even with allowHalfOpen', async () => {
      const pair = await plain()
      pair.client.end(await clientHello())
      assert.equal(await rejectionCode(pair, await localhost({ allowHalfOpen: true })), 'ECONNRESET')
    })
  })

  describe('because the client is slow', () => {
    it('rejects at the deadline when it is silent', async () => {
      const error = codeOf(await rejection((await plain()).connection, await localhost(), { timeout: 10 }))
      assert.equal(error, 'ERR_TLS_HANDSHAKE_TIMEOUT')
      assert.equal(await rejectionCode(await plain(), await localhost(), { timeout: 10 }), 'ERR_TLS_HANDSHAKE_TIMEOUT')
    })

    it('rejects at the deadline when it stops in the middle', async () => {
      const pair = await plain()
      pair.client.write(await clientHello())
      assert.equal(await rejectionCode(pair, await localhost(), { timeout: 10 }), 'ERR_TLS_HANDSHAKE_TIMEOUT')
    })

    it('rejects at the deadline when it drips bytes', async () => {
      const pair = await plain()
      let over = false
      const rejected = rejectionCode(pair, await localhost(), { timeout: 30 }).finally(() => {
        over = true
      })
      // The head of a 128 kB ClientHello, followed byte by byte by records with one byte of it each. So the bytes last
      // also when a busy machine extends the deadline.
      pair.client.write(Buffer.from('160301000401020000', 'hex'))
      const record = Buffer.from('160301000100', 'hex')
      for (let sent = 0; !over; sent++) {
        const at = sent % record.length
        if (pair.client.writable) pair.client.write(record.subarray(at, at + 1))
        await nextTurn()
      }
      assert.equal(await rejected, 'ERR_TLS_HANDSHAKE_TIMEOUT')
    })

    it('rejects at the deadline when a callback of the server is slow', async () => {
      const never = await localhost({ SNICallback: () => {} })
      const listener = await listen()
      const accepted = listener.accept()
      const client = await dialTLS(target(listener))
      const error = await rejection(await accepted, never, { timeout: 10 })
      assert.equal(codeOf(error), 'ERR_TLS_HANDSHAKE_TIMEOUT')
      await ended(client)
    })

    it('rejects at the handshakeTimeout of the options when that is earlier', async () => {
      const options = await localhost({ handshakeTimeout: 10 })
      assert.equal(await rejectionCode(await plain(), options, { timeout: 0 }), 'ERR_TLS_HANDSHAKE_TIMEOUT')
    })

    for (const timeout of [0, -1, Number.POSITIVE_INFINITY, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
      it(`has no early deadline with a timeout of ${timeout}`, async () => {
        const { connection, client } = await plain()
        const accepted = upgraded(connection, await localhost(), { timeout })
        // Node sets a timer to 1 ms when a delay is out of range. Such a deadline would pass before this one.
        assert.equal(await rejectionCode(await plain(), {}, { timeout: 1 }), 'ERR_TLS_HANDSHAKE_TIMEOUT')
        const secureClient = await dialTLS({ socket: client })
        await once(secureClient, 'secureConnect')
        assert.equal((await accepted).encrypted, true)
      })
    }
  })

  describe('because it is aborted', () => {
    it('rejects with the reason as its cause', async () => {
      const pair = await plain()
      const controller = new AbortController()
      const { signal } = controller
      const options = await localhost()
      pair.client.write(await clientHello())
      const rejected = rejection(pair.connection, options, { signal })
      await once(pair.client, 'data')
      assert.equal(watchers(signal), 1)
      const reason = new Error('enough')
      controller.abort(reason)
      const error = await rejected
      assert.equal(error.name, 'AbortError')
      assert.equal(codeOf(error), 'ABORT_ERR')
      assert.equal(error.cause, reason)
      await ended(pair.client)
    })

    it('rejects when the signal is already aborted, and closes the connection', async () => {
      const pair = await plain()
      assert.equal(await rejectionCode(pair, await localhost(), { signal: AbortSignal.abort() }), 'ABORT_ERR')
    })

    it('rejects every handshake under one signal', async () => {
      const controller = new AbortController()
      const { signal } = controller
      const options = await localhost()
      const pairs = []
      while (pairs.length < 20) pairs.push(await plain())
      const codes = pairs.map((pair) => rejectionCode(pair, options, { signal }))
      assert.equal(watchers(signal), 1)
      controller.abort()
      assert.deepEqual(new Set(await Promise.all(codes)), new Set(['ABORT_ERR']))
    })

    it('leaves no listener on a signal that is not aborted', async () => {
      const { signal } = new AbortController()
      const options = await localhost()
      const [first, second] = [await plain(), await plain()]
      const failing = rejectionCode(first, options, { signal, timeout: 10 })
      const other = upgraded(second.connection, options, { signal })
      assert.equal(await failing, 'ERR_TLS_HANDSHAKE_TIMEOUT')
      assert.equal(watchers(signal), 1)
      const client = await dialTLS({ socket: second.client })
      await Promise.all([other, once(client, 'secureConnect')])
      assert.equal(watchers(signal), 0)
    })

    const callbacks: [string, (abort: () => void) => tls.TlsOptions][] = [
      [
        'SNICallback, which then continues',
        (abort) => ({
          SNICallback(_name, done) {
            abort()
            done(null)
          },
        }),
      ],
      [
        'SNICallback, which continues later',
        (abort) => ({
          SNICallback(_name, done) {
            abort()
            setImmediate(done, null)
          },
        }),
      ],
      [
        'SNICallback, which then fails',
        (abort) => ({
          SNICallback(_name, done) {
            abort()
            done(new Error('failed'))
          },
        }),
      ],
      [
        'ALPNCallback, which then throws',
        (abort) => ({
          ALPNCallback() {
            abort()
            throw new Error('failed')
          },
        }),
      ],
      [
        'ALPNCallback',
        (abort) => ({
          ALPNCallback() {
            abort()
            return 'one'
          },
        }),
      ],
    ]
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      for (const [where, callback] of callbacks) {
        it(`rejects when it is aborted in ${where} (${maxVersion})`, async () => {
          const controller = new AbortController()
          const options = await localhost({ maxVersion, ...callback(() => controller.abort()) })
          const listener = await listen()
          const accepted = listener.accept()
          const client = await dialTLS({ ...target(listener), ALPNProtocols: ['one'] })
          const error = await rejection(await accepted, options, { signal: controller.signal })
          assert.equal(codeOf(error), 'ABORT_ERR')
          await ended(client)
        })
      }
    }

    it('destroys the socket of a handshake that completes after the abort', async () => {
      const controller = new AbortController()
      const options = await localhost({
        SNICallback(this: tls.TLSSocket, _name, done) {
          this.prependListener('secure', () => controller.abort())
          done(null)
        },
      })
      const listener = await listen()
      const accepted = listener.accept()
      const client = await dialTLS(target(listener))
      const error = await rejection(await accepted, options, { signal: controller.signal })
      assert.equal(codeOf(error), 'ABORT_ERR')
      await ended(client)
    })

    it('has no effect once the handshake is complete, even before the promise resolves', async () => {
      const controller = new AbortController()
      const options = await localhost({
        SNICallback(this: tls.TLSSocket, _name, done) {
          this.on('secure', () => controller.abort())
          done(null)
        },
      })
      const listener = await listen()
      const accepted = listener.accept()
      const client = await dialTLS(target(listener))
      const secure = await upgraded(await accepted, options, { signal: controller.signal })
      assert.equal(controller.signal.aborted, true)
      secure.end('still here')
      assert.equal(await text(client), 'still here')
    })
  })

  describe('because a callback of the options fails', () => {
    const reason = new Error('not this one')
    const failing: [string, tls.TlsOptions][] = [
      ['SNICallback gives an error', { SNICallback: (_name, done) => done(reason) }],
      ['SNICallback gives an error later', { SNICallback: (_name, done) => setImmediate(done, reason) }],
      [
        'SNICallback throws',
        {
          SNICallback() {
            throw reason
          },
        },
      ],
      [
        'ALPNCallback throws',
        {
          ALPNCallback() {
            throw reason
          },
        },
      ],
    ]
    for (const [what, options] of failing) {
      it(`rejects with its error: ${what}`, async () => {
        const { error } = await refused(await localhost(options), { ALPNProtocols: ['one'] })
        assert.equal(error, reason)
      })
    }

    it('rejects an ALPNCallback result that the client did not offer', async () => {
      const { error } = await refused(await localhost({ ALPNCallback: () => 'mine' }), { ALPNProtocols: ['one'] })
      assert.equal(codeOf(error), 'ERR_TLS_ALPN_CALLBACK_INVALID_RESULT')
    })

    it('rejects with an ERR_SSL_* code when pskCallback returns null', async () => {
      const only = { ciphers: 'PSK+HIGH', maxVersion: 'TLSv1.2' } as const
      const psk = randomBytes(32)
      const { error } = await refused(
        { ...only, pskCallback: () => null },
        { ...only, pskCallback: () => ({ psk, identity: 'client' }), checkServerIdentity: () => undefined },
      )
      assert.match(codeOf(error) ?? '', /^ERR_SSL_/)
    })
  })

  it('rejects with an ERR_SSL_* code when the server has no certificate', async () => {
    const { error } = await refused({})
    assert.match(codeOf(error) ?? '', /^ERR_SSL_NO_(SHARED_CIPHER|SUITABLE_SIGNATURE_ALGORITHM)$/)
  })
})
