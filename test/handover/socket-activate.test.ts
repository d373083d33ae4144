import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import dgram from 'node:dgram'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { spawnActivated } from '../../src/index.js'
import { ours, plainEnvironment, printed, program, type Report, reservedPort } from '../activated.js'
import { temporary } from '../descriptors.js'
import { cleanUp, connect, listen, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needs, skip } from '../needs.js'

/** Connects to `where`, and returns the report of the program. */
async function reportFrom(where: net.NetConnectOpts): Promise<{ report: Report; client: net.Socket }> {
  const client = temporary(net.connect({ ...where, allowHalfOpen: true } as net.NetConnectOpts))
  const said = await text(client)
  return { report: JSON.parse(said), client }
}

/** Whether the port has a listening socket: state 0A in /proc/net/tcp, proc(5). */
function isListening(port: number): boolean {
  const local = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  return new RegExp(`: ${local} \\S+ 0A `).test(readFileSync('/proc/net/tcp', 'utf8'))
}

// systemd-socket-activate passes on only the variables that it is told to.
const environment = process.env.ASYNC_ACCEPT_ADDON === undefined ? [] : ['--setenv=ASYNC_ACCEPT_ADDON']

const toPort = (port: number) => ({ host: '127.0.0.1', port })

describe('systemd-socket-activate', () => {
  leaveNoFds()

  before(function () {
    needs(this, 'systemd-socket-activate', '--version')
  })

  /** Starts systemd-socket-activate, and waits until it listens on its `sockets` sockets. */
  async function activate(args: string[], words: string[], sockets = 1): Promise<ChildProcess> {
    const child = spawn('systemd-socket-activate', [...environment, ...args, ...program(...words)], {
      stdio: ['ignore', 'inherit', 'pipe'],
      env: plainEnvironment(),
    })
    ours(child)
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (data) => {
      said += data
    })
    await until(() => child.exitCode !== null || (said.match(/^Listening on /gm) ?? []).length === sockets)
    assert.equal(child.exitCode, null, said)
    return child
  }

  it('passes a TCP socket', async () => {
    const port = reservedPort()
    await activate(['-l', `127.0.0.1:${port}`], ['serve'])
    const { report } = await reportFrom(toPort(port))
    const address = { address: '127.0.0.1', port, family: 'IPv4' }
    assert.deepEqual(report.found, [
      { name: 'unknown', fd: 3, kind: 'listener', domain: 'IPv4', type: 'stream', address },
    ])
    assert.deepEqual(report.after.environment, {})
  })

  it('passes a unix socket with its path', async () => {
    const path = join(temporaryDirectory(), 'socket')
    await activate(['-l', path, '--fdname=local'], ['serve'])
    const { report } = await reportFrom({ path })
    assert.deepEqual(report.found, [
      { name: 'local', fd: 3, kind: 'listener', domain: 'unix', type: 'stream', address: path },
    ])
  })

  it('passes a seqpacket socket', async () => {
    const path = join(temporaryDirectory(), 'socket')
    await activate(['--seqpacket', '-l', path], ['serve'])
    const script =
      'import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\n'
    const client = spawn('python3', ['-c', `${script}print(s.recv(65536).decode())`, path])
    const { found } = await printed(ours(client))
    assert.deepEqual(found, [
      { name: 'unknown', fd: 3, kind: 'listener', domain: 'unix', type: 'seqpacket', address: path },
    ])
  })

  it('passes several sockets by name, two of them with the same name', async () => {
    const path = join(temporaryDirectory(), 'socket')
    const [web, more] = [reservedPort(), reservedPort()]
    const sockets = ['-l', `127.0.0.1:${web}`, '-l', `127.0.0.1:${more}`, '-l', path]
    await activate([...sockets, '--fdname=web:web:control'], ['serve'], 3)
    const { report } = await reportFrom({ path })
    assert.deepEqual(
      report.found.map(({ fd, name }) => `${fd} ${name}`),
      ['3 web', '4 web', '5 control'],
    )
    for (const port of [web, more]) assert.equal((await reportFrom(toPort(port))).report.found.length, 3)
  })

  it('passes datagram sockets', async () => {
    const port = reservedPort()
    await activate(['-d', '-l', `127.0.0.1:${port}`], ['serve'])
    const client = dgram.createSocket('udp4')
    cleanUp(() => client.close())
    client.send('hello', port, '127.0.0.1')
    const [message] = await once(client, 'message')
    const { found } = JSON.parse(String(message)) as Report
    assert.deepEqual([found[0]?.kind, found[0]?.type], ['datagram', 'datagram'])
  })

  it('passes on a socket that it has inherited itself', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const child = spawnActivated(
      'systemd-socket-activate',
      [...environment, '--fdname=web', ...program('serve')],
      { web: listener },
      { stdio: 'ignore', env: plainEnvironment() },
    )
    ours(child)
    assert.equal(JSON.parse(await text(await connect(listener))).found.length, 1)
  })

  it('passes each connection to a separate process with --accept', async () => {
    const port = reservedPort()
    await activate(['--accept', '-l', `127.0.0.1:${port}`], ['serve'])
    for (let i = 0; i < 2; i++) {
      const { report } = await reportFrom(toPort(port))
      assert.deepEqual(
        report.found.map(({ kind, name }) => ({ kind, name })),
        [{ kind: 'connection', name: 'unknown' }],
      )
    }
  })

  it('passes the listening socket as fd 0 with --inetd', async () => {
    const port = reservedPort()
    await activate(['--inetd', '-l', `127.0.0.1:${port}`], ['serve', 'inetd'])
    const { report } = await reportFrom(toPort(port))
    assert.deepEqual(
      report.found.map(({ fd, name, kind }) => ({ fd, name, kind })),
      [{ fd: 0, name: 'stdin', kind: 'listener' }],
    )
  })

  it('passes the connection as fd 0 with --inetd and --accept', async () => {
    const port = reservedPort()
    await activate(['--inetd', '--accept', '-l', `127.0.0.1:${port}`], ['serve', 'inetd'])
    const { report } = await reportFrom(toPort(port))
    assert.deepEqual(
      report.found.map(({ fd, name, kind }) => ({ fd, name, kind })),
      [{ fd: 0, name: 'stdin', kind: 'connection' }],
    )
  })
})

describe('inetd', () => {
  leaveNoFds()

  before(function () {
    if (!existsSync('/usr/sbin/inetd')) skip(this, 'openbsd-inetd is not installed')
  })

  /** Starts inetd, which runs the program for `port` until the test ends. */
  async function inetd(port: number, flow: 'wait' | 'nowait'): Promise<void> {
    const directory = temporaryDirectory()
    const file = join(directory, 'inetd.conf')
    const [node, ...args] = program('serve', 'inetd')
    const { username } = userInfo()
    writeFileSync(file, `127.0.0.1:${port} stream tcp ${flow} ${username} ${node} ${[node, ...args].join(' ')}\n`)
    const child = ours(spawn('/usr/sbin/inetd', ['-i', file], { stdio: ['ignore', 'ignore', 'inherit'] }))
    await until(() => child.exitCode !== null || isListening(port))
    assert.equal(child.exitCode, null)
  }

  it('passes the connection to a nowait service', async () => {
    const port = reservedPort()
    await inetd(port, 'nowait')
    for (let i = 0; i < 2; i++) {
      const { report, client } = await reportFrom(toPort(port))
      assert.deepEqual(
        report.found.map(({ fd, name, kind, address }) => ({ fd, name, kind, address })),
        [{ fd: 0, name: 'stdin', kind: 'connection', address: { address: '127.0.0.1', port, family: 'IPv4' } }],
      )
      client.destroy()
    }
  })

  it('passes the listening socket to a wait service, and resumes when the service exits', async () => {
    const port = reservedPort()
    await inetd(port, 'wait')
    for (let i = 0; i < 2; i++) {
      const { report, client } = await reportFrom(toPort(port))
      assert.deepEqual(
        report.found.map(({ fd, name, kind }) => ({ fd, name, kind })),
        [{ fd: 0, name: 'stdin', kind: 'listener' }],
      )
      client.destroy()
    }
  })
})
