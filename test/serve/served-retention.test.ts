import assert from 'node:assert/strict'
import http2 from 'node:http2'
import net from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import { type Serving, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { cleanUp, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'
const rounds = 20

describe('A long-lived Serving', () => {
  leaveNoFds()

  /** The number of objects that survive garbage collection. */
  async function left(refs: WeakRef<object>[]): Promise<number> {
    for (let turn = 0; turn < 50 && refs.some((ref) => ref.deref()); turn++) {
      await nextTurn()
      globalThis.gc?.()
    }
    return refs.filter((ref) => ref.deref()).length
  }

  /** Connects and closes clients one after the other. `call` opens each of them. */
  async function comeAndGo(serving: Serving, call: (port: number) => Promise<{ destroy(): unknown }>): Promise<void> {
    const { port } = serving.listener.address() as net.AddressInfo
    for (let round = 0; round < rounds; round++) {
      const client = await call(port)
      client.destroy()
      await until(() => serving.connections === 0)
    }
  }

  const cases: [name: string, (credentials: tls.TlsOptions, seen: WeakRef<object>[]) => net.Server][] = [
    [
      'TLS sockets of a tls.Server',
      (credentials, seen) =>
        tls.createServer(credentials, (socket) => {
          seen.push(new WeakRef(socket))
          socket.removeAllListeners().on('error', () => {})
          socket.resume()
        }),
    ],
    [
      'sessions of an http2 server',
      (credentials, seen) => {
        const server = http2.createSecureServer(credentials)
        server.on('session', (session) => {
          seen.push(new WeakRef(session))
          session.removeAllListeners()
          session.on('error', () => {})
        })
        return server
      },
    ],
  ]
  for (const [name, make] of cases) {
    it(`does not retain ${name} that have ended, even after removeAllListeners() on them`, async () => {
      const { localhost, ca } = await certificates()
      const seen: WeakRef<object>[] = []
      const server = make(localhost, seen)
      // endLater() would retain the sockets.
      cleanUp(() => server.listening && server.close())
      const serving = serve(await listen({ host }), server)
      await comeAndGo(serving, async (port) => {
        const before = seen.length
        const client =
          server instanceof tls.Server && !('updateSettings' in server)
            ? tls.connect({ port, host, ca: ca.cert, servername: 'localhost' })
            : http2.connect(`https://${host}:${port}`, { ca: ca.cert, servername: 'localhost' })
        client.on('error', () => {})
        cleanUp(() => client.destroy())
        await until(() => seen.length > before)
        return client
      })
      assert.equal(seen.length, rounds)
      // The last object may still be referenced from a stack or a register.
      assert.ok((await left(seen)) <= 1)
      assert.equal(serving.state, 'serving')
    })
  }

  it('does not retain the sockets of a server or of a function', async () => {
    const seen: WeakRef<object>[] = []
    const keep = (socket: net.Socket) => {
      seen.push(new WeakRef(socket))
      socket.removeAllListeners().on('error', () => {})
      socket.resume()
    }
    for (const target of [
      net.createServer(keep),
      (connection: { toSocket(): net.Socket }) => keep(connection.toSocket()),
    ]) {
      if (target instanceof net.Server) cleanUp(() => target.listening && target.close())
      const serving = serve(await listen({ host }), target)
      await comeAndGo(serving, async (port) => {
        const before = seen.length
        const client = net.connect(port, host)
        cleanUp(() => client.destroy())
        await until(() => seen.length > before)
        return client
      })
    }
    assert.ok((await left(seen)) <= 2)
  })
})
