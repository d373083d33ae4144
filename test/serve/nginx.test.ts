import assert from 'node:assert/strict'
import { existsSync, writeFileSync } from 'node:fs'
import type net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { Listener, ListenOptions } from '../../src/index.js'
import { connect, listen, target, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { needs, needsFamilyOf, skip } from '../needs.js'
import { dialTLS, localhost, upgraded } from '../tls-peers.js'
import { echoed, runProxy } from './proxies.js'

/** The path of nginx's stream module; undefined when it is compiled in. */
function streamModule(context: Mocha.Context): string | undefined {
  const built = needs(context, 'nginx', '-V')
  if (/--with-stream(\s|$)/.test(built)) return undefined
  const path = `${/--modules-path=(\S+)/.exec(built)?.[1]}/ngx_stream_module.so`
  return existsSync(path) ? path : skip(context, `nginx has no stream module (${path})`)
}

/**
 * Runs nginx in front of `back`. Returns the listener whose socket nginx inherits. nginx reads the PROXY header of peers
 * with the address `trusted`, and forwards the client address of that header.
 */
async function nginx(
  back: Listener,
  module: string | undefined,
  options?: ListenOptions,
  trusted?: string,
): Promise<Listener> {
  const front = await listen(options ?? { host: '127.0.0.1' })
  const address = front.address() as net.AddressInfo | string
  const { port } = back.address() as net.AddressInfo
  const directory = temporaryDirectory()
  const lines = [
    ...(module === undefined ? [] : [`load_module ${module};`]),
    'daemon off;',
    'worker_processes 1;',
    `pid ${directory}/pid;`,
    'error_log stderr;',
    'events {}',
    'stream {',
    '  server {',
    `    listen ${typeof address === 'string' ? `unix:${address}` : `${bracketed(address)}:${address.port}`}${trusted ? ' proxy_protocol' : ''};`,
    ...(trusted === undefined ? [] : [`    set_real_ip_from ${trusted};`]),
    `    proxy_pass 127.0.0.1:${port};`,
    '    proxy_protocol on;',
    '    proxy_half_close on;',
    '  }',
    '}',
  ]
  writeFileSync(join(directory, 'nginx.conf'), `${lines.join('\n')}\n`)
  // NGINX names the inherited sockets. nginx finds the one of the `listen` directive by its address.
  runProxy(front, 'nginx', ['-p', directory, '-c', 'nginx.conf', '-e', 'stderr'], { NGINX: '3;' })
  return front
}

const bracketed = ({ address, family }: net.AddressInfo) => (family === 'IPv6' ? `[${address}]` : address)

/** Connects as a proxy that names `client`, with a destination address of the same family. */
async function connectAndName(front: Listener, protocol: 'TCP4' | 'TCP6', client: string): Promise<net.Socket> {
  const socket = await connect(front)
  socket.write(`PROXY ${protocol} ${client} ${client} 5555 80\r\n`)
  return socket
}

describe('proxyHeader behind nginx', () => {
  lookedBefore()
  leaveNoFds()

  let module: string | undefined
  beforeEach(function () {
    module = streamModule(this)
  })

  for (const [family, host] of [
    ['IPv4', '127.0.0.1'],
    ['IPv6', '::1'],
  ] as const) {
    it(`returns the address of an ${family} client`, async function () {
      needsFamilyOf(this, host)
      const back = await listen({ host: '127.0.0.1' })
      const front = await nginx(back, module, { host })
      const [connection, client] = await Promise.all([back.accept(), connect(front)])
      const source = { address: host, port: client.localPort }
      const destination = { address: host, port: (front.address() as net.AddressInfo).port }
      assert.deepEqual(await echoed(connection, client), {
        version: 1,
        command: 'PROXY',
        family,
        transport: 'STREAM',
        source,
        destination,
        tlvs: [],
      })
    })
  }

  for (const [host, protocol, family, client] of [
    ['127.0.0.1', 'TCP6', 'IPv6', '2001:db8::9'],
    ['::1', 'TCP4', 'IPv4', '203.0.113.9'],
  ] as const) {
    it(`returns the address of an ${family} client that another proxy names to nginx at ${host}`, async function () {
      needsFamilyOf(this, host)
      if (!needs(this, 'nginx', '-V').includes('--with-stream_realip_module')) skip(this, 'nginx has no realip module')
      const back = await listen({ host: '127.0.0.1' })
      const front = await nginx(back, module, { host }, host)
      const [connection, proxy] = await Promise.all([back.accept(), connectAndName(front, protocol, client)])
      const header = await echoed(connection, proxy)
      const { port } = front.address() as net.AddressInfo
      assert.equal(header.family, family)
      assert.deepEqual(header.source, { address: client, port: 5555 })
      assert.deepEqual(header.destination, { address: host, port })
    })
  }

  it('returns no address for a client of a unix socket', async () => {
    const back = await listen({ host: '127.0.0.1' })
    const front = await nginx(back, module, { path: join(temporaryDirectory(), 'socket') })
    const [connection, client] = await Promise.all([back.accept(), connect(front)])
    const header = await echoed(connection, client)
    assert.equal(header.family, 'UNSPEC')
    assert.equal(header.source, undefined)
  })

  it('leaves a forwarded TLS handshake for clientHello and toTLS', async () => {
    const back = await listen({ host: '127.0.0.1' })
    const front = await nginx(back, module)
    const client = await dialTLS({ ...target(front), ALPNProtocols: ['h2', 'http/1.1'] })
    const connection = await back.accept()
    const header = await connection.proxyHeader()
    assert.deepEqual(header?.source, { address: '127.0.0.1', port: client.localPort })
    const hello = await connection.clientHello()
    assert.equal(hello?.serverName, 'localhost')
    assert.deepEqual(hello?.alpnProtocols, ['h2', 'http/1.1'])
    const secure = await upgraded(connection, await localhost({ ALPNProtocols: ['http/1.1'] }))
    secure.pipe(secure)
    client.end('hello')
    assert.equal(await text(client), 'hello')
    assert.equal(secure.alpnProtocol, 'http/1.1')
  })
})
