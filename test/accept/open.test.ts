import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { Connection, Listener, type ListenOptions, type SystemError } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { fillBacklog } from '../backlog.js'
import { cleanUp, connect, listen, openFds, runNode, until } from '../helpers.js'
import { needsFamilyOf, needsStrace } from '../needs.js'

const addressOf = (listener: Listener) => listener.address() as AddressInfo

/** Returns the error of `Listener.listen`. Asserts that it leaves no fd open. */
async function refusal(options: ListenOptions): Promise<SystemError & { option?: string; hostname?: string }> {
  const before = openFds().length
  const error = await Listener.listen(options).then(
    async (listener) => {
      await listener.close()
      assert.fail(`listen() succeeded on ${JSON.stringify(listener.address())}`)
    },
    (error) => error,
  )
  assert.equal(openFds().length, before)
  return error
}

/** Whether a client that connects to the port at `host` reaches the listener. */
async function reaches(listener: Listener, host: string): Promise<boolean> {
  // Only the first address of a name, as for the listener: otherwise Node tries the next address after 250 ms.
  const client = net.connect({ port: addressOf(listener).port, host, autoSelectFamily: false })
  cleanUp(() => client.destroy())
  await once(client, 'connect')
  client.on('error', () => {})
  const connection = await listener.accept()
  connection.close()
  return connection.remotePort === client.localPort
}

describe('Listener.listen on a TCP port', () => {
  it('binds to a free port by default, a different one each time', async () => {
    const [one, two] = [await listen(), await listen({ port: 0 })]
    assert.ok(addressOf(one).port > 0)
    assert.notEqual(addressOf(one).port, addressOf(two).port)
  })

  it('binds to the given port, as a number or a string', async () => {
    const port = reservedPort()
    const first = await Listener.listen({ host: '127.0.0.1', port })
    assert.deepEqual(first.address(), { address: '127.0.0.1', family: 'IPv4', port })
    await first.close()
    const second = await listen({ host: '127.0.0.1', port: String(port) as unknown as number })
    assert.equal(addressOf(second).port, port)
  })

  it('binds to a number in place of the options, with the default host', async () => {
    const port = reservedPort()
    const listener = await listen(port)
    assert.equal(listener.port, port)
    assert.equal(addressOf(listener).address, addressOf(await listen()).address)
    assert.ok((await listen(0)).port > 0)
  })

  it('listens again at once on a port with connections in TIME_WAIT', async () => {
    for (const port of [reservedPort(), 0]) {
      const first = await Listener.listen({ host: '127.0.0.1', port })
      const client = await connect(first)
      const connection = await first.accept()
      // The server closes first, so its end is in TIME_WAIT.
      connection.close()
      client.resume()
      await once(client, 'end')
      client.end()
      await first.close()
      const second = await listen({ host: '127.0.0.1', port: first.port })
      assert.equal(addressOf(second).port, first.port)
    }
  })

  it('finds a free port in all of the range, not only in the part in which SO_REUSEADDR looks first', async () => {
    const range = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8')
    const [lowest, highest] = range.split(/\s+/).map(Number) as [number, number]
    const middle = (lowest + highest) / 2
    const ports: number[] = []
    for (let i = 0; i < 60; i++) ports.push((await listen({ host: '127.0.0.1' })).port)
    // Each is above the middle with a probability of a half.
    assert.ok(ports.some((port) => port > middle) && ports.some((port) => port <= middle), String(ports))
  })

  it("rejects with Node's error for a port in use", async () => {
    const { port } = addressOf(await listen({ host: '127.0.0.1' }))
    const server = net.createServer().listen(port, '127.0.0.1')
    const [expected] = (await once(server, 'error')) as [SystemError]
    const error = await refusal({ host: '127.0.0.1', port })
    const { code, errno, address } = expected
    assert.deepEqual(
      { code: error.code, errno: error.errno, address: error.address, port: error.port },
      { code, errno, address, port },
    )
    assert.equal(code, 'EADDRINUSE')
    assert.equal(error.syscall, 'bind')
    assert.equal(error.message, `bind EADDRINUSE: address already in use 127.0.0.1:${port}`)
  })

  it('resolves a host name', async () => {
    const listener = await listen({ host: 'localhost' })
    assert.match(addressOf(listener).address, /^(127\.0\.0\.1|::1)$/)
    assert.ok(await reaches(listener, 'localhost'))
  })

  it('rejects with the error of the lookup when the host does not exist', async () => {
    // Too long for the DNS: the lookup fails without a request to a DNS server.
    const host = `${'x'.repeat(64)}.invalid`
    const error = await refusal({ host })
    assert.deepEqual([error.code, error.syscall, error.hostname], ['ENOTFOUND', 'getaddrinfo', host])
  })

  it('rejects a non-local address, and reports the address', async () => {
    const { code, syscall, address, port } = await refusal({ host: '192.0.2.1', port: 0 })
    assert.deepEqual([code, syscall, address, port], ['EADDRNOTAVAIL', 'bind', '192.0.2.1', 0])
  })

  describe('with IPv6', () => {
    before(function () {
      needsFamilyOf(this, '::1')
    })

    it("accepts clients of both families on '::' when no host is given", async () => {
      const listener = await listen()
      assert.deepEqual({ ...addressOf(listener), port: 0 }, { address: '::', family: 'IPv6', port: 0 })
      assert.ok(await reaches(listener, '127.0.0.1'))
      assert.ok(await reaches(listener, '::1'))
    })

    it('leaves the same IPv4 port to other sockets with ipv6Only', async () => {
      const six = await listen({ ipv6Only: true })
      // Another process may already use that IPv4 port. Then this test cannot check the IPv4 side.
      const four = await listen({ host: '0.0.0.0', port: addressOf(six).port }).catch((error) => {
        if (error.code !== 'EADDRINUSE') throw error
      })
      if (four !== undefined) assert.ok(await reaches(four, '127.0.0.1'))
      assert.ok(await reaches(six, '::1'))
      assert.equal(six.backlog().queued, 0)
    })
  })

  describe('on a host without IPv6', () => {
    // As with a kernel without IPv6: strace makes the first socket(2) of the process fail.
    const fails = ['-e', 'trace=socket', '-e', 'inject=socket:error=EAFNOSUPPORT:when=1']
    const without = ['strace', '-f', '-qq', '--seccomp-bpf', '-o', '/dev/null', ...fails]

    before(function () {
      needsStrace(this)
    })

    it('binds to 0.0.0.0 when no host is given', async () => {
      const { stdout, stderr } = await runNode('opening.mjs', ['{}'], without)
      assert.deepEqual([stderr, JSON.parse(stdout).address], ['', '0.0.0.0'])
    })

    it('rejects when ipv6Only excludes IPv4', async () => {
      const { stdout, stderr } = await runNode('opening.mjs', ['{"ipv6Only":true}'], without)
      assert.deepEqual([stderr, JSON.parse(stdout)], ['', { code: 'EAFNOSUPPORT', syscall: 'socket' }])
    })
  })

  describe('backlog', () => {
    it('limits the number of clients in the accept queue', async () => {
      assert.deepEqual((await listen({ host: '127.0.0.1', backlog: 7 })).backlog(), { queued: 0, limit: 7 })
      assert.deepEqual((await listen({ host: '127.0.0.1', backlog: 0 })).backlog(), { queued: 0, limit: 0 })
    })

    it('queues no more clients than its limit', async () => {
      const listener = await listen({ host: '127.0.0.1', backlog: 2 })
      // Linux queues one more client than the limit.
      await fillBacklog(listener, 3)
      assert.equal(listener.backlog().limit, 2)
      const late = net.connect(addressOf(listener).port, '127.0.0.1')
      cleanUp(() => late.destroy())
      // Its handshake cannot complete before a queued client is accepted.
      ;(await listener.accept()).close()
      await once(late, 'connect')
      await until(() => listener.backlog().queued === 3)
    })

    it("defaults to the system's maximum", async () => {
      const { limit } = (await listen()).backlog()
      const { stdout } = spawnSync('cat', ['/proc/sys/net/core/somaxconn'], { encoding: 'utf8' })
      assert.equal(limit, Math.min(Number(stdout), 65535))
    })
  })

  it('owns the listening fd, which no other Listener or Connection can take', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    assert.throws(() => Connection.fromFd(listener.fd), { code: 'ERR_SOCKET_LISTENING' })
    assert.throws(() => Listener.fromFd(listener.fd), { code: 'ERR_FD_IN_USE' })
  })
})
