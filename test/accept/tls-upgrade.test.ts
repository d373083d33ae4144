import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buffer, text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import type { ListenOptions } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, codeOf, listen, target, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { dialTLS, ended, holdBackWrites, localhost, plain, refused, secured, upgraded } from '../tls-peers.js'

const kinds: { name: string; options(): ListenOptions }[] = [
  { name: 'TCP', options: () => ({ host: '127.0.0.1' }) },
  { name: 'a unix path', options: () => ({ path: join(temporaryDirectory(), 'socket') }) },
]

/** The subject name of the certificate in `getPeerCertificate()`. */
const nameOf = (socket: tls.TLSSocket) => socket.getPeerCertificate().subject?.CN

describe('Connection.toTLS', () => {
  leaveNoFds()

  for (const { name, options } of kinds) {
    it(`carries data in both directions over ${name}`, async () => {
      const { secure, client } = await secured(await localhost(), {}, await listen(options()))
      assert.equal(secure.encrypted, true)
      assert.equal(secure.getProtocol(), 'TLSv1.3')
      assert.equal(nameOf(client), 'localhost')
      const [upload, download] = [randomBytes(1 << 20), randomBytes(1 << 20)]
      client.end(upload)
      secure.end(download)
      const [uploaded, downloaded] = await Promise.all([buffer(secure), buffer(client)])
      assert.equal(upload.equals(uploaded), true)
      assert.equal(download.equals(downloaded), true)
    })
  }

  it('resolves with a socket that has its addresses', async () => {
    const { connection, secure, client } = await secured(await localhost())
    assert.equal(secure.remoteAddress, connection.remoteAddress)
    assert.equal(secure.remotePort, client.localPort)
    assert.equal(secure.localPort, client.remotePort)
  })

  it('leaves the same listeners on the sockets as a tls.Server', async () => {
    const listeners = (emitter: NodeJS.EventEmitter) =>
      emitter.eventNames().map((event) => [event, emitter.rawListeners(event).map(({ name }) => name)])
    const both = (secure: tls.TLSSocket) => [secure, (secure as unknown as { _parent: tls.TLSSocket })._parent]
    const { secure } = await secured(await localhost())

    const server = tls.createServer(await localhost()).listen(0, '127.0.0.1')
    cleanUp(() => server.close())
    await once(server, 'listening')
    const theirs = once(server, 'secureConnection')
    const client = tls.connect({ port: (server.address() as { port: number }).port, rejectUnauthorized: false })
    const [expected] = (await theirs) as [tls.TLSSocket]
    cleanUp(() => expected.destroy())
    cleanUp(() => client.destroy())
    assert.deepEqual(both(secure).map(listeners), both(expected).map(listeners))
  })

  it('keeps the bytes that the client sent together with its Finished', async () => {
    const { connection, client: socket } = await plain()
    const { transport, release } = holdBackWrites(socket)
    const client = await dialTLS({ socket: transport })
    const accepted = upgraded(connection, await localhost())
    await once(client, 'secureConnect')
    client.end('at once')
    await once(client, 'finish')
    release()
    const secure = await accepted
    // The stream must wait for its reader, even when data and end arrived long ago.
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    assert.equal(await text(secure), 'at once')
  })

  describe('SNI', () => {
    it('uses the context that SNICallback provides', async () => {
      const { a, b } = await certificates()
      const contexts: Record<string, tls.SecureContext> = {
        'a.test': tls.createSecureContext(a),
        'b.test': tls.createSecureContext(b),
      }
      const options = await localhost({
        SNICallback: (name, done) => setImmediate(done, null, contexts[name]),
      })
      for (const [servername, expected] of [
        ['a.test', 'a.test'],
        ['b.test', 'b.test'],
        ['localhost', 'localhost'],
      ] as const) {
        const { secure, client } = await secured(options, { servername })
        assert.equal(nameOf(client), expected)
        assert.equal(secure.servername, servername)
      }
    })

    it('sets `servername` to false for a client without SNI', async () => {
      const { secure } = await secured(await localhost(), { servername: '', checkServerIdentity: () => undefined })
      assert.equal(secure.servername, false)
    })
  })

  describe('ALPN', () => {
    it("selects by the server's order", async () => {
      const { secure, client } = await secured(await localhost({ ALPNProtocols: ['h2', 'http/1.1'] }), {
        ALPNProtocols: ['http/1.1', 'h2'],
      })
      assert.equal(secure.alpnProtocol, 'h2')
      assert.equal(client.alpnProtocol, 'h2')
    })

    it('selects no protocol for a client that offers none', async () => {
      const { secure, client } = await secured(await localhost({ ALPNProtocols: ['h2'] }))
      assert.equal(secure.alpnProtocol, false)
      assert.equal(client.alpnProtocol, false)
    })

    it('rejects a client without a common protocol, and sends it an alert', async () => {
      const listener = await listen()
      const accepted = listener.accept()
      const client = await dialTLS({ ...target(listener), ALPNProtocols: ['spdy/3'] })
      const [told, error] = await Promise.all([
        new Promise<Error>((resolve) => client.once('error', resolve)),
        accepted.then((connection) => upgraded(connection, { ALPNProtocols: ['h2'] }).catch((reason) => reason)),
      ])
      assert.equal(codeOf(error), 'ERR_SSL_NO_APPLICATION_PROTOCOL')
      assert.match(codeOf(told) ?? '', /^ERR_SSL_(TLSV1_ALERT|SSL\/TLS_ALERT)_NO_APPLICATION_PROTOCOL$/)
    })

    it('calls ALPNCallback', async () => {
      const asked: object[] = []
      const { secure } = await secured(
        await localhost({
          ALPNCallback: (offer) => {
            asked.push(offer)
            return offer.protocols[1]
          },
        }),
        { ALPNProtocols: ['one', 'two'] },
      )
      assert.equal(secure.alpnProtocol, 'two')
      assert.deepEqual(asked, [{ servername: 'localhost', protocols: ['one', 'two'] }])
    })
  })

  describe('session resumption', () => {
    async function sessionFrom(options: tls.TlsOptions): Promise<Buffer> {
      const { secure, client } = await secured(options)
      if (secure.getProtocol() === 'TLSv1.2') return client.getSession() as Buffer
      // The ticket arrives after the handshake, and is read together with data.
      const session = once(client, 'session') as Promise<[Buffer]>
      client.resume()
      return (await session)[0]
    }

    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      it(`works with ${maxVersion} tickets while the options are the same object`, async () => {
        const options = await localhost({ maxVersion })
        const session = await sessionFrom(options)
        const again = await secured(options, { session })
        assert.equal(again.secure.getProtocol(), maxVersion)
        assert.deepEqual([again.secure.isSessionReused(), again.client.isSessionReused()], [true, true])
        const elsewhere = await secured({ ...options }, { session })
        assert.deepEqual([elsewhere.secure.isSessionReused(), elsewhere.client.isSessionReused()], [false, false])
      })
    }

    it('works across options objects with the same ticketKeys', async () => {
      const options = await localhost({ ticketKeys: randomBytes(48) })
      const session = await sessionFrom(options)
      const { secure } = await secured({ ...options }, { session })
      assert.equal(secure.isSessionReused(), true)
    })
  })

  describe('client certificates', () => {
    const required = async () => localhost({ requestCert: true, ca: (await certificates()).ca.cert })
    const requested = async () => ({ ...(await required()), rejectUnauthorized: false })

    it('authorizes a client with a certificate', async () => {
      const { secure } = await secured(await required(), (await certificates()).client)
      assert.equal(secure.authorized, true)
      assert.equal(nameOf(secure), 'client')
    })

    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      it(`rejects a ${maxVersion} client without a certificate`, async () => {
        const { error } = await refused(await required(), { maxVersion })
        assert.equal(codeOf(error), 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE')
      })

      it(`rejects a ${maxVersion} client with an unknown CA, and reports the reason`, async () => {
        const { stranger } = await certificates()
        const { error } = await refused(await required(), { ...stranger, maxVersion })
        assert.match(codeOf(error) ?? '', /^UNABLE_TO_/)
        assert.match(error.message, /client certificate was rejected: UNABLE_TO_/)
      })
    }

    it('accepts a client with a missing or wrong certificate as unauthorized when it is not required', async () => {
      const without = await secured(await requested())
      assert.equal(without.secure.authorized, false)
      assert.equal(nameOf(without.secure), undefined)
      const wrong = await secured(await requested(), (await certificates()).stranger)
      assert.equal(wrong.secure.authorized, false)
      assert.equal(nameOf(wrong.secure), 'client')
      assert.match(String(wrong.secure.authorizationError), /^UNABLE_TO_/)
    })
  })

  it('calls pskCallback', async () => {
    const psk = randomBytes(32)
    const asked: string[] = []
    const only = { ciphers: 'PSK+HIGH', maxVersion: 'TLSv1.2' } as const
    const { secure } = await secured(
      {
        ...only,
        pskCallback: (_socket, identity) => {
          asked.push(identity)
          return psk
        },
      },
      { ...only, pskCallback: () => ({ psk, identity: 'client' }), checkServerIdentity: () => undefined },
    )
    assert.match(secure.getCipher().name, /PSK/)
    assert.deepEqual(asked, ['client'])
  })

  it('reads inherited and frozen options', async () => {
    for (const options of [Object.create(await localhost()), Object.freeze(await localhost())]) {
      const { client } = await secured(options)
      assert.equal(nameOf(client), 'localhost')
    }
  })

  it('sets noDelay and keepAlive from the options', async () => {
    const code = [
      'from socket import *',
      'options = (IPPROTO_TCP, TCP_NODELAY), (SOL_SOCKET, SO_KEEPALIVE), (IPPROTO_TCP, TCP_KEEPIDLE)',
      'print([[s.getsockopt(*option) for option in options] for s in (socket(fileno=3), socket(fileno=4))])',
    ].join('\n')
    const wanted = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 77_000 }
    const fds: number[] = []
    for (const options of [await localhost(), await localhost(wanted)]) {
      const listener = await listen()
      const accepted = listener.accept()
      await dialTLS(target(listener))
      const connection = await accepted
      fds.push(connection.fd)
      await upgraded(connection, options)
    }
    const child = spawn('python3', ['-c', code], { stdio: ['ignore', 'pipe', 'inherit', ...fds] })
    const [seen] = await Promise.all([text(child.stdout as NodeJS.ReadableStream), once(child, 'close')])
    const [first, second] = JSON.parse(seen)
    assert.deepEqual(first.slice(0, 2), [0, 0])
    assert.deepEqual(second, [1, 1, 77])
  })

  it("keeps its own side open after the client's half-close, with allowHalfOpen", async () => {
    const { secure, client } = await secured(await localhost({ allowHalfOpen: true }), {
      allowHalfOpen: true,
    } as tls.ConnectionOptions)
    client.end()
    secure.resume()
    await once(secure, 'end')
    secure.end('afterwards')
    assert.equal(await text(client), 'afterwards')
  })

  it('starts paused with pauseOnConnect', async () => {
    const { secure, client } = await secured(await localhost({ pauseOnConnect: true }))
    assert.equal(secure.isPaused(), true)
    client.end('waits')
    assert.equal(await text(secure), 'waits')
  })

  it('performs 50 handshakes in parallel with one signal', async () => {
    const warnings: Error[] = []
    const warned = (warning: Error) => warnings.push(warning)
    process.on('warning', warned)
    cleanUp(() => process.off('warning', warned))
    const listener = await listen()
    const options = await localhost()
    const { signal } = new AbortController()
    const echoed = Array.from({ length: 50 }, async (_, index) => {
      const connection = await listener.accept()
      const secure = await upgraded(connection, options, { signal })
      secure.pipe(secure)
      return index
    })
    const answers = Array.from({ length: 50 }, async (_, index) => {
      const client = await dialTLS(target(listener))
      client.end(`client ${index}`)
      return text(client)
    })
    assert.deepEqual(
      await Promise.all(answers),
      Array.from({ length: 50 }, (_, index) => `client ${index}`),
    )
    await Promise.all(echoed)
    await nextTurn()
    assert.deepEqual(warnings, [])
  })

  it('serves openssl s_client', async () => {
    const path = join(temporaryDirectory(), 'ca.pem')
    writeFileSync(path, (await certificates()).ca.cert)
    const listener = await listen({ host: '127.0.0.1' })
    const { port } = target(listener) as { port: number }
    const words = ['s_client', '-quiet', '-verify_return_error', '-CAfile', path, '-connect', `127.0.0.1:${port}`]
    const client = spawn('openssl', [...words, '-servername', 'localhost', '-alpn', 'one,two'], { stdio: 'pipe' })
    cleanUp(() => client.kill('SIGKILL'))
    const secure = await upgraded(await listener.accept(), await localhost({ ALPNProtocols: ['two'] }))
    assert.equal(secure.alpnProtocol, 'two')
    assert.equal(secure.servername, 'localhost')
    secure.end('hello openssl\n')
    assert.equal(await text(client.stdout), 'hello openssl\n')
    client.stdin.end()
    await once(client, 'close')
  })

  it('releases its server when the options are garbage collected', async () => {
    const made = async () => {
      const listener = await listen()
      const accepted = listener.accept()
      const client = await dialTLS(target(listener))
      const secure = await (await accepted).toTLS(await localhost())
      secure.destroy()
      await ended(client)
      return new WeakRef((secure as unknown as { server: tls.Server }).server)
    }
    const server = await made()
    await until(() => {
      global.gc?.()
      return server.deref() === undefined
    })
  })

  it('ignores signal and timeout once the handshake is complete', async () => {
    const controller = new AbortController()
    const listener = await listen()
    const accepted = listener.accept()
    const client = await dialTLS(target(listener))
    const secure = await upgraded(await accepted, await localhost(), { signal: controller.signal, timeout: 30_000 })
    controller.abort()
    secure.end('still here')
    assert.equal(await text(client), 'still here')
  })
})
