import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import { Listener, type ListenOptions, type SystemError } from '../../src/index.js'
import { temporary } from '../descriptors.js'
import { cleanUp, connect, listen, openFds, until } from '../helpers.js'
import { skip } from '../needs.js'
import { kernelOptions } from './kernel-options.js'

/** The options of a listening socket, and of a connection accepted on it. */
async function options(given: ListenOptions, ...names: string[]) {
  const listener = await listen({ host: '127.0.0.1', ...given })
  await connect(listener)
  const connection = await listener.accept()
  cleanUp(() => connection.close())
  return { listening: kernelOptions(listener.fd, ...names), accepted: kernelOptions(connection.fd, ...names) }
}

async function refusal(given: ListenOptions): Promise<SystemError & { option?: string }> {
  const before = openFds()
  const error = await Listener.listen({ host: '127.0.0.1', ...given }).then(
    (listener) => listener.close().then(() => undefined),
    (error) => error,
  )
  assert.deepEqual(
    openFds().filter((fd) => !before.includes(fd)),
    [],
  )
  return error
}

describe("A listener's socket options", () => {
  before(function () {
    const { error } = spawnSync('python3', ['-c', 'import socket'])
    if (error === undefined) return
    skip(this, `Python is required to read socket options: ${error.message}`)
  })

  it('default to those of the kernel', async () => {
    const names = ['TCP_NODELAY', 'SO_KEEPALIVE', 'TCP_DEFER_ACCEPT', 'TCP_FASTOPEN', 'SO_REUSEPORT', 'IP_FREEBIND']
    const { listening } = await options({}, ...names, 'IP_TRANSPARENT', 'SO_BINDTODEVICE')
    for (const name of names) assert.equal(listening[name], 0, name)
    assert.deepEqual([listening.IP_TRANSPARENT, listening.SO_BINDTODEVICE], [0, ''])
  })

  it('noDelay is inherited by connections', async () => {
    const { listening, accepted } = await options({ noDelay: true }, 'TCP_NODELAY')
    assert.deepEqual([listening.TCP_NODELAY, accepted.TCP_NODELAY], [1, 1])
  })

  it('keepAlive and its delay are inherited by connections, the delay rounded up to seconds', async () => {
    const given = { keepAlive: true, keepAliveInitialDelay: 42_001 }
    const { listening, accepted } = await options(given, 'SO_KEEPALIVE', 'TCP_KEEPIDLE')
    assert.deepEqual(listening, { SO_KEEPALIVE: 1, TCP_KEEPIDLE: 43 })
    assert.deepEqual(accepted, listening)
  })

  it('keepAlive arms the timer of a connection', async function () {
    const listener = await listen({ host: '127.0.0.1', keepAlive: true, keepAliveInitialDelay: 100_000 })
    const client = await connect(listener)
    const connection = await listener.accept()
    cleanUp(() => connection.close())
    const filter = ['sport', '=', `:${connection.localPort}`, 'and', 'dport', '=', `:${client.localPort}`]
    const { stdout, error } = spawnSync('ss', ['-Htno', ...filter], { encoding: 'utf8' })
    if (error !== undefined) skip(this, error.message)
    assert.match(stdout, /timer:\(keepalive,1min/)
  })

  it('deferAccept delivers no client before it sends data', async () => {
    const listener = await listen({ host: '127.0.0.1', deferAccept: 30 })
    assert.ok((kernelOptions(listener.fd, 'TCP_DEFER_ACCEPT').TCP_DEFER_ACCEPT as number) >= 30)
    const client = await connect(listener)
    await assert.rejects(listener.accept({ timeout: 0 }), { code: 'ERR_ACCEPT_TIMEOUT' })
    assert.equal(listener.backlog().queued, 0)
    const accepting = listener.accept()
    client.write('first bytes')
    const connection = await accepting
    assert.equal(connection.remotePort, client.localPort)
    const [bytes] = await once(temporary(connection.toSocket()), 'data')
    assert.equal(String(bytes), 'first bytes')
  })

  it('fastOpen sets the length of the TCP Fast Open queue', async () => {
    const { listening } = await options({ fastOpen: 16 }, 'TCP_FASTOPEN')
    assert.equal(listening.TCP_FASTOPEN, 16)
  })

  it('reusePort lets two listeners share a port, and each client reaches one of them', async () => {
    const one = await listen({ host: '127.0.0.1', reusePort: true })
    const { port } = one.address() as AddressInfo
    assert.equal((await refusal({ port }))?.code, 'EADDRINUSE')
    const two = await listen({ host: '127.0.0.1', port, reusePort: true })
    assert.equal(kernelOptions(one.fd, 'SO_REUSEPORT').SO_REUSEPORT, 1)
    const clients = []
    for (let i = 0; i < 32; i++) clients.push(await connect(one))
    await until(() => one.backlog().queued + two.backlog().queued === clients.length)
    const ports: (number | undefined)[] = []
    for (const listener of [one, two]) {
      for (let { queued } = listener.backlog(); queued > 0; queued--) {
        const connection = await listener.accept()
        ports.push(connection.remotePort)
        connection.close()
      }
    }
    assert.deepEqual(ports.sort(), clients.map(({ localPort }) => localPort).sort())
  })

  it('freeBind binds to a non-local address', async () => {
    assert.equal((await refusal({ host: '192.0.2.1' }))?.code, 'EADDRNOTAVAIL')
    const listener = await listen({ host: '192.0.2.1', freeBind: true })
    assert.equal((listener.address() as AddressInfo).address, '192.0.2.1')
    assert.equal(kernelOptions(listener.fd, 'IP_FREEBIND').IP_FREEBIND, 1)
  })

  it('bindToDevice binds to one interface', async () => {
    const listener = await listen({ host: '127.0.0.1', bindToDevice: 'lo' })
    assert.equal(kernelOptions(listener.fd, 'SO_BINDTODEVICE').SO_BINDTODEVICE, 'lo')
    await connect(listener)
    ;(await listener.accept()).close()
  })

  it('bindToDevice rejects a name that the kernel would truncate', async () => {
    for (const bindToDevice of ['a-name-of-sixteen', 'lo\0', '']) {
      const error = await refusal({ bindToDevice })
      assert.equal(error?.code, 'ERR_INVALID_ARG_VALUE')
      assert.match(error.message, /options\.bindToDevice/)
    }
  })

  it('transparent requires a capability, and rejects with EPERM without it', async () => {
    const error = await Listener.listen({ host: '127.0.0.1', transparent: true }).then(
      (listener) => {
        cleanUp(() => listener.close())
        assert.equal(kernelOptions(listener.fd, 'IP_TRANSPARENT').IP_TRANSPARENT, 1)
      },
      (error) => error,
    )
    if (error === undefined) return
    assert.deepEqual([error.code, error.syscall, error.option], ['EPERM', 'setsockopt', 'IP_TRANSPARENT'])
  })

  it('appear in the errors of setsockopt', async () => {
    const error = await refusal({ bindToDevice: 'no-such-device' })
    assert.deepEqual([error?.code, error?.syscall, error?.option], ['ENODEV', 'setsockopt', 'SO_BINDTODEVICE'])
    assert.equal(error.message, 'setsockopt ENODEV: no such device SO_BINDTODEVICE')
  })

  it('use the IPv6 level on an IPv6 socket', async function () {
    const listener = await Listener.listen({ host: '2001:db8::1', freeBind: true, ipv6Only: true }).catch((error) => {
      if (error.code !== 'EAFNOSUPPORT') throw error
    })
    if (listener === undefined) skip(this, 'this host has no IPv6')
    cleanUp(() => listener.close())
    assert.deepEqual(kernelOptions(listener.fd, 'IPV6_FREEBIND', 'IPV6_V6ONLY'), { IPV6_FREEBIND: 1, IPV6_V6ONLY: 1 })
  })

  it('are also set by Listener.fromFd', async () => {
    const fd = (await listen({ host: '127.0.0.1' })).detach()
    const listener = Listener.fromFd(fd, { noDelay: true, keepAlive: true, keepAliveInitialDelay: 9000 })
    cleanUp(() => listener.close())
    const expected = { TCP_NODELAY: 1, SO_KEEPALIVE: 1, TCP_KEEPIDLE: 9 }
    assert.deepEqual(kernelOptions(listener.fd, ...Object.keys(expected)), expected)
    const client = net.connect((listener.address() as AddressInfo).port, '127.0.0.1')
    cleanUp(() => client.destroy())
    const connection = await listener.accept()
    cleanUp(() => connection.close())
    assert.deepEqual(kernelOptions(connection.fd, ...Object.keys(expected)), expected)
  })
})
