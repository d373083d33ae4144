import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Connection, type ConnectionFilter, type Refusal, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { captureExceptions, cleanUp, codeOf, connect, gone, listen, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { served } from './collecting-refusals.js'

const host = '127.0.0.1'
const hello = () => http.createServer((_, response) => response.end('hello'))

/** Connects a client, and returns the code of the error that ends it. */
async function errorOf(options: net.NetConnectOpts, words = ''): Promise<string | undefined> {
  const client = net.connect(options)
  cleanUp(() => client.destroy())
  client.resume().write(words)
  const [error] = await once(client, 'error')
  return codeOf(error)
}

const here = (listener: { port: number }) => ({ port: listener.port, host })

/** A promise of a verdict, and the function that settles it. */
function later() {
  let decide: (verdict: boolean) => void = () => {}
  const verdict = new Promise<boolean>((fulfil) => {
    decide = fulfil
  })
  return { verdict, decide: (value: boolean) => decide(value) }
}

describe('serve with filter', () => {
  lookedBefore()
  leaveNoFds()

  it('passes a connection that the filter accepts to a server', async () => {
    const seen: unknown[] = []
    const { listener, refusals } = await served(hello(), {
      filter: ({ remoteAddress, remotePort, remoteFamily }) => seen.push(remoteAddress, remotePort, remoteFamily) > 0,
    })
    const client = await connect(listener)
    const { localPort } = client
    client.end('GET / HTTP/1.0\r\n\r\n')
    assert.match(await text(client), /hello$/)
    assert.deepEqual(seen, [host, localPort, 'IPv4'])
    assert.deepEqual(refusals, [])
  })

  for (const verdict of [false, undefined, null, 0, '']) {
    it(`resets a connection for which the filter returns ${JSON.stringify(verdict)}`, async () => {
      const server = net.createServer(() => assert.fail('the server got a connection'))
      const { listener, serving, refusals } = await served(server, { filter: () => verdict as boolean })
      assert.equal(await errorOf(here(listener)), 'ECONNRESET')
      assert.equal(refusals.length, 1)
      assert.equal(codeOf(refusals[0]?.error), 'ERR_CONNECTION_FILTERED')
      assert.equal(refusals[0]?.remoteAddress, host)
      assert.equal(typeof refusals[0]?.remotePort, 'number')
      assert.equal(serving.connections, 0)
    })
  }

  const broken = new Error('broken')
  const failures: [how: string, filter: ConnectionFilter][] = [
    [
      'throws',
      () => {
        throw broken
      },
    ],
    ['rejects', () => Promise.reject(broken)],
    [
      'returns a thenable that throws',
      () => ({
        // biome-ignore lint/suspicious/noThenProperty: the test needs a promise of another class
        get then(): never {
          throw broken
        },
      }),
    ],
  ]
  for (const [how, filter] of failures) {
    it(`resets a connection whose filter ${how}, and reports the exception as the cause`, async () => {
      const { listener, serving, refusals } = await served(() => assert.fail('it was delivered'), { filter })
      assert.equal(await errorOf(here(listener)), 'ECONNRESET')
      await until(() => refusals.length === 1)
      assert.equal(codeOf(refusals[0]?.error), 'ERR_CONNECTION_FILTERED')
      assert.equal((refusals[0] as Refusal).error.cause, broken)
      assert.equal(serving.connections, 0)
    })
  }

  it('calls the filter before the TLS handshake', async () => {
    const { localhost } = await certificates()
    for (const [target, options] of [
      [https.createServer(localhost), {}],
      [http.createServer(), { tls: localhost }],
    ] as const) {
      const { listener, refusals } = await served(target, { ...options, filter: () => false })
      // The client sends no ClientHello.
      assert.equal(await errorOf(here(listener)), 'ECONNRESET')
      assert.equal(refusals.length, 1)
    }
  })

  it('shows the filter the client that the PROXY header names', async () => {
    const seen: unknown[] = []
    const { listener, refusals } = await served(http.createServer(), {
      proxyProtocol: 'require',
      trust: [host],
      filter: ({ remoteAddress, proxied }) => seen.push(remoteAddress, proxied?.remoteAddress) === 0,
    })
    assert.equal(await errorOf(here(listener), 'PROXY TCP4 203.0.113.9 192.0.2.1 5555 80\r\n'), 'ECONNRESET')
    assert.deepEqual(seen, ['203.0.113.9', host])
    assert.equal(refusals[0]?.remoteAddress, '203.0.113.9')
    assert.equal(refusals[0]?.remotePort, 5555)
  })

  it('does not call the filter for a connection without its PROXY header', async () => {
    let calls = 0
    const { listener, refusals } = await served(() => {}, {
      proxyProtocol: 'require',
      trust: [host],
      filter: () => ++calls > 0,
    })
    await gone((await connect(listener)).end('GET / HTTP/1.0\r\n\r\n'))
    assert.equal(codeOf(refusals[0]?.error), 'ERR_PROXY_HEADER')
    assert.equal(calls, 0)
  })

  it('lets the filter look at the first bytes', async () => {
    const { listener, refusals } = await served(hello(), {
      filter: async (connection) => (await connection.peek(3)).toString() === 'GET',
    })
    assert.equal(await errorOf(here(listener), 'PUT / HTTP/1.0\r\n\r\n'), 'ECONNRESET')
    assert.equal(refusals.length, 1)
    const client = await connect(listener)
    client.end('GET / HTTP/1.0\r\n\r\n')
    assert.match(await text(client), /hello$/)
  })

  it('lets the filter read the credentials of the peer', async () => {
    const listener = await listen({ path: join(temporaryDirectory(), 'socket') })
    const serving = serve(listener, hello(), { filter: (each) => each.peerCredentials().pid === process.pid })
    cleanUp(() => serving.drain({ timeout: 0 }))
    const client = await connect(listener)
    client.end('GET / HTTP/1.0\r\n\r\n')
    assert.match(await text(client), /hello$/)
  })

  it('limits the connections of each address', async () => {
    const open = new Map<string | undefined, number>()
    const change = (address: string | undefined, by: number) => open.set(address, (open.get(address) ?? 0) + by)
    const server = http.createServer()
    server.on('connection', (socket) => {
      const { remoteAddress } = socket
      change(remoteAddress, 1)
      socket.once('close', () => change(remoteAddress, -1))
    })
    const filter: ConnectionFilter = ({ remoteAddress }) => (open.get(remoteAddress) ?? 0) < 2
    const { listener, serving, refusals } = await served(server, { filter })
    const from = (localAddress: string) => ({ ...here(listener), localAddress })
    const clients: net.Socket[] = []
    for (const address of ['127.0.0.2', '127.0.0.2', '127.0.0.3', '127.0.0.3']) {
      const client = net.connect(from(address)).on('error', () => {})
      cleanUp(() => client.destroy())
      clients.push(client)
    }
    await until(() => serving.connections === 4)
    for (const address of ['127.0.0.2', '127.0.0.3']) assert.equal(await errorOf(from(address)), 'ECONNRESET')
    assert.equal(serving.connections, 4)
    clients[0]?.destroy()
    await until(() => open.get('127.0.0.2') === 1)
    cleanUp(() => again.destroy())
    const again = net.connect(from('127.0.0.2'))
    await until(() => serving.connections === 4)
    assert.equal(await errorOf(from('127.0.0.3')), 'ECONNRESET')
    assert.deepEqual(
      refusals.map(({ remoteAddress }) => remoteAddress),
      ['127.0.0.2', '127.0.0.3', '127.0.0.3'],
    )
  })

  for (const verdict of [true, false]) {
    it(`counts a connection while a promise decides, which then resolves to ${verdict}`, async () => {
      const pending = later()
      const filter = () => pending.verdict
      const sockets: net.Socket[] = []
      const server = net.createServer((socket) => sockets.push(socket))
      const { listener, serving, refusals } = await served(server, { filter, maxConnections: 1 })
      const client = await connect(listener)
      await until(() => serving.connections === 1)
      assert.equal(listener.pending, 0)
      assert.equal(sockets.length, 0)
      pending.decide(verdict)
      await until(() => sockets.length + refusals.length === 1)
      assert.equal(sockets.length, verdict ? 1 : 0)
      assert.equal(listener.pending, verdict ? 0 : 1)
      if (!verdict) await gone(client)
    })
  }

  it('resets a connection whose filter does not decide within handshakeTimeout', async () => {
    const { listener, serving, refusals } = await served(net.createServer(), {
      filter: () => later().verdict,
      handshakeTimeout: 20,
    })
    assert.equal(await errorOf(here(listener)), 'ECONNRESET')
    assert.equal(codeOf(refusals[0]?.error), 'ERR_FILTER_TIMEOUT')
    assert.equal(serving.connections, 0)
  })

  it('ignores a verdict after the timeout', async () => {
    const pending = later()
    const { listener, refusals } = await served(() => assert.fail('it was delivered'), {
      filter: () => pending.verdict,
      handshakeTimeout: 1,
    })
    await errorOf(here(listener))
    pending.decide(true)
    await nextTurn()
    assert.deepEqual(
      refusals.map(({ error }) => codeOf(error)),
      ['ERR_FILTER_TIMEOUT'],
    )
  })

  for (const timeout of [0, 1000]) {
    it(`ends a connection whose filter has not decided in a drain with a timeout of ${timeout} ms`, async () => {
      const pending = later()
      const { listener, serving, refusals } = await served(() => assert.fail('it was delivered'), {
        filter: () => pending.verdict,
      })
      const client = await connect(listener)
      client.write('the first words')
      await until(() => serving.connections === 1)
      const { elapsed, ...ended } = await serving.drain({ timeout, unusedGrace: 0 })
      assert.deepEqual(ended, { idle: 0, unused: timeout === 0 ? 0 : 1, finished: 0, destroyed: timeout === 0 ? 1 : 0 })
      pending.decide(true)
      await nextTurn()
      assert.deepEqual(refusals, [])
      await gone(client)
    })
  }

  it('waits for the filter when the serving closes', async () => {
    const pending = later()
    const server = net.createServer((socket) => socket.end('hello'))
    const { listener, serving } = await served(server, { filter: () => pending.verdict })
    const client = await connect(listener)
    await until(() => serving.connections === 1)
    const closed = serving.close()
    assert.equal(server.listening, true)
    pending.decide(true)
    client.end()
    assert.equal(await text(client), 'hello')
    await closed
    assert.equal(server.listening, false)
  })

  it('serves the connection whose filter closes the serving', async () => {
    const server = net.createServer((socket) => socket.end('hello'))
    const { listener, serving } = await served(server, { filter: () => Boolean(serving.close()) })
    const client = await connect(listener)
    client.end()
    assert.equal(await text(client), 'hello')
    await serving.close()
    assert.equal(server.listening, false)
  })

  for (const verdict of ['an accepting', 'a refusing', 'a later']) {
    it(`closes the server at once when a filter with ${verdict} verdict has made a socket of a connection`, async () => {
      const server = net.createServer()
      server.maxConnections = 2
      const sockets: net.Socket[] = []
      const { listener, serving, refusals } = await served(server, {
        filter: (connection) => {
          sockets.push(connection.toSocket())
          return verdict === 'a later' ? Promise.resolve(true) : verdict === 'an accepting'
        },
      })
      await connect(listener)
      await until(() => refusals.length === 1)
      // The connection is none of the server's.
      assert.deepEqual([serving.connections, listener.pending], [1, 2])
      const closed = serving.close()
      assert.equal(server.listening, false)
      assert.equal(serving.state, 'closing')
      sockets[0]?.destroy()
      await closed
    })
  }

  for (const [how, claim] of [
    ['closes', (connection: Connection) => connection.close()],
    ['makes a socket of', (connection: Connection) => connection.toSocket().destroy()],
  ] as const) {
    it(`refuses a connection when the filter ${how} it and accepts it`, async () => {
      const exceptions = captureExceptions()
      const { listener, serving, refusals } = await served(net.createServer(), {
        filter: (connection) => {
          claim(connection)
          return true
        },
      })
      await gone(await connect(listener))
      await until(() => serving.connections === 0)
      assert.deepEqual(
        refusals.map(({ error }) => codeOf(error)),
        ['ERR_CONNECTION_CLAIMED'],
      )
      assert.deepEqual(exceptions, [])
    })
  }

  it('reports an exception of a handler of refused as an uncaught exception, and goes on', async () => {
    const exceptions = captureExceptions()
    const { listener, serving } = await served(net.createServer(), { filter: () => false })
    serving.on('refused', () => {
      throw new Error('broken')
    })
    for (let client = 0; client < 2; client++) await errorOf(here(listener))
    assert.deepEqual(exceptions.map(String), ['Error: broken', 'Error: broken'])
    assert.equal(serving.connections, 0)
  })
})
