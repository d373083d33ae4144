import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { binding } from '../../src/core/binding.js'
import { inspect } from '../../src/core/inspect.js'
import { type Connection, Listener, serve } from '../../src/index.js'
import { queued } from '../backlog.js'
import { temporary } from '../descriptors.js'
import { cleanUp, connect, listen, openFds, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { needs, skip } from '../needs.js'
import { takeWarnings } from '../warnings.js'
import { kernelOptions } from './kernel-options.js'

const host = '127.0.0.1'
const { AF_INET, AF_INET6, IPPROTO_MPTCP, SOCK_STREAM, SOL_SOCKET } = binding.constants as Record<string, number>
const IPPROTO_TCP = 6
const SO_PROTOCOL = 38

const protocolOf = (fd: number) => binding.getOption(fd, SOL_SOCKET as number, SO_PROTOCOL)

/** The error of socket(2) for MPTCP; 0 if the kernel has it. */
function mptcpError(): number {
  const fd = binding.socket(AF_INET as number, SOCK_STREAM as number, IPPROTO_MPTCP)
  if (fd < 0) return fd
  binding.close(fd)
  return 0
}

// Sends what it reads from stdin, then prints what it receives.
const program = `
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, ${IPPROTO_MPTCP})
client.connect(("127.0.0.1", int(sys.argv[1])))
print("connected", client.getsockname()[1], flush=True)
try:
    client.sendall(sys.stdin.buffer.read())
    client.shutdown(socket.SHUT_WR)
    while received := client.recv(1000): print(received.decode(), flush=True)
    print("end")
except OSError as error: print(type(error).__name__)
`

interface Client {
  child: ChildProcess
  port: number
  output: Promise<string>
}

/** Connects a client of MPTCP, in Python. */
async function connectMptcp(listener: Listener): Promise<Client> {
  const child = spawn('python3', ['-c', program, `${listener.port}`], { stdio: ['pipe', 'pipe', 'inherit'] })
  cleanUp(() => child.kill('SIGKILL'))
  const stdout = child.stdout as NodeJS.ReadableStream
  let output = ''
  stdout.setEncoding('utf8')
  stdout.on('data', (chunk) => (output += chunk))
  const ended = once(child, 'close').then(() => output.replace(/^.*\n/, ''))
  await until(() => output.includes('\n'))
  return { child, port: Number(/^connected (\d+)/.exec(output)?.[1]), output: ended }
}

describe('Listener.listen with mptcp', () => {
  lookedBefore()
  leaveNoFds()

  describe('where the kernel has MPTCP', () => {
    before(function () {
      needs(this, 'python3', '-c', 'import socket')
      const error = mptcpError()
      if (error < 0) skip(this, `the kernel has no MPTCP: errno ${-error}`)
    })

    async function accepted(): Promise<{ listener: Listener; connection: Connection; client: Client }> {
      const listener = await listen({ host, mptcp: true })
      const accepting = listener.accept()
      const client = await connectMptcp(listener)
      const connection = await accepting
      cleanUp(() => connection.close())
      return { listener, connection, client }
    }

    it('listens with MPTCP and emits no warning, and without the option with TCP', async () => {
      const warnings = takeWarnings()
      const listener = await listen({ host, mptcp: true })
      assert.equal(protocolOf(listener.fd), IPPROTO_MPTCP)
      assert.equal(protocolOf((await listen({ mptcp: true })).fd), IPPROTO_MPTCP)
      assert.equal(protocolOf((await listen({ host })).fd), IPPROTO_TCP)
      assert.equal(protocolOf((await listen({ host, mptcp: false })).fd), IPPROTO_TCP)
      const { kind, type, domain, listening, connected } = inspect(listener.fd)
      assert.deepEqual([kind, type, domain], ['socket', SOCK_STREAM, AF_INET])
      assert.deepEqual([listening, connected], [true, false])
      assert.deepEqual(warnings, [])
    })

    it('accepts clients of MPTCP, and clients of TCP', async () => {
      const { listener, connection, client } = await accepted()
      assert.equal(protocolOf(connection.fd), IPPROTO_MPTCP)
      assert.deepEqual([connection.remoteAddress, connection.remotePort], [host, client.port])
      assert.equal(connection.localPort, listener.port)
      client.child.stdin?.end('to the server')
      const socket = temporary(connection.toSocket({ allowHalfOpen: true }))
      const [bytes] = await once(socket, 'data')
      assert.equal(String(bytes), 'to the server')
      socket.end('to the client')
      assert.equal(await client.output, 'to the client\nend\n')

      const [plain] = await Promise.all([listener.accept(), connect(listener)])
      assert.equal(protocolOf(plain.fd), IPPROTO_TCP)
      plain.close()
    })

    it('appears in the list of MPTCP sockets of ss', async function () {
      const { listener, client } = await accepted()
      const found = needs(this, 'ss', '-HMna')
      assert.match(found, new RegExp(`LISTEN .*:${listener.port} `))
      assert.match(found, new RegExp(`ESTAB .*:${listener.port} .*:${client.port}\\b`))
    })

    it('sets the options of TCP, which connections inherit', async () => {
      const given = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 42_000 }
      const listener = await listen({ host, mptcp: true, ...given }).catch((error) => error)
      // Kernels before that support TCP_KEEPIDLE for MPTCP.
      if (!(listener instanceof Listener)) return assert.equal(listener.code, 'EOPNOTSUPP', listener.message)
      const expected = { TCP_NODELAY: 1, SO_KEEPALIVE: 1, TCP_KEEPIDLE: 42 }
      const names = Object.keys(expected)
      assert.deepEqual(kernelOptions(listener.fd, ...names), expected)
      const [connection] = await Promise.all([listener.accept(), connectMptcp(listener)])
      cleanUp(() => connection.close())
      assert.deepEqual(kernelOptions(connection.fd, ...names), expected)
    })

    it('knows its backlog', async () => {
      const listener = await listen({ host, mptcp: true, backlog: 50 })
      assert.deepEqual(listener.backlog(), { queued: 0, limit: 50 })
      await connectMptcp(listener)
      await connectMptcp(listener)
      await connect(listener)
      await queued(listener, 3)
      const connection = await listener.accept()
      connection.close()
      assert.deepEqual(listener.backlog(), { queued: 2, limit: 50 })
    })

    it('sees the bytes of a client before they are read', async () => {
      const { connection, client } = await accepted()
      client.child.stdin?.end('PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello')
      assert.equal(String(await connection.peek(5)), 'PROXY')
      assert.equal((await connection.proxyHeader())?.source?.address, '192.0.2.1')
      assert.equal(String(await connection.peek(100)), 'hello')
    })

    it('resets a client', async () => {
      const { connection, client } = await accepted()
      connection.reset()
      client.child.stdin?.end()
      assert.match(await client.output, /^(ConnectionResetError|BrokenPipeError)\n$/)
    })

    it('is taken by Listener.fromFd and served', async () => {
      const listener = Listener.fromFd((await listen({ host, mptcp: true })).detach())
      cleanUp(() => listener.close())
      const serving = serve(listener, (connection) => void temporary(connection.toSocket()).end('served'))
      const client = await connectMptcp(listener)
      client.child.stdin?.end()
      assert.equal(await client.output, 'served\nend\n')
      await serving.close()
    })
  })

  describe('where the kernel has no MPTCP', () => {
    /** Makes socket(2) fail for MPTCP. */
    function withoutMptcp(errno: number, domains: readonly (number | undefined)[] = [AF_INET, AF_INET6]): void {
      const { socket } = binding
      binding.socket = (domain, type, protocol) =>
        protocol === IPPROTO_MPTCP && domains.includes(domain) ? -errno : socket(domain, type, protocol)
      cleanUp(() => {
        binding.socket = socket
      })
    }

    for (const code of ['EPROTONOSUPPORT', 'ENOPROTOOPT', 'EINVAL'] as const) {
      it(`listens with TCP and emits a warning: ${code}`, async () => {
        withoutMptcp(constants.errno[code])
        const warnings = takeWarnings()
        const listener = await listen({ mptcp: true, noDelay: true })
        assert.equal(protocolOf(listener.fd), IPPROTO_TCP)
        assert.deepEqual(kernelOptions(listener.fd, 'TCP_NODELAY'), { TCP_NODELAY: 1 })
        const [connection] = await Promise.all([listener.accept(), connect(listener)])
        connection.close()
        await until(() => warnings.length > 0)
        assert.deepEqual(
          warnings.map(({ name, code }) => [name, code]),
          [['AsyncAcceptWarning', 'ASYNC_ACCEPT_NO_MPTCP']],
        )
        assert.match(String(warnings[0]?.message), new RegExp(`socket ${code}`))
      })
    }

    it('rejects with any other error', async () => {
      withoutMptcp(constants.errno.EMFILE)
      const before = openFds().length
      await assert.rejects(Listener.listen({ host, mptcp: true }), { code: 'EMFILE', syscall: 'socket' })
      assert.equal(openFds().length, before)
    })

    it('emits no warning if listening fails', async () => {
      withoutMptcp(constants.errno.ENOPROTOOPT)
      const warnings = takeWarnings()
      const { port } = await listen({ host })
      await assert.rejects(Listener.listen({ host, port, mptcp: true }), { code: 'EADDRINUSE' })
      // A warning is emitted in the tick after the call.
      await listen({ host, mptcp: true })
      await until(() => warnings.length > 0)
      assert.equal(warnings.length, 1)
    })
  })
})
