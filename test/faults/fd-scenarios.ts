import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { binding } from '../../src/core/binding.js'
import { check } from '../../src/core/errors.js'
import { readEnvironment } from '../../src/handover/activation.js'
import { Connection, FdChannel, notify, notifyBarrier, removeFds, spawnActivated, storeFds } from '../../src/index.js'
import { inode, inodesOf, next, type SocketType, temporaryChannel } from '../channels.js'
import { temporary, temporaryFd } from '../descriptors.js'
import { cleanUp, codeOf, connect, gone, listen, temporaryDirectory, until } from '../helpers.js'
import { countLooks } from '../looked-before.js'
import { faults } from './faults.js'
import { type Scenario, takenBy } from './runs.js'

/** Like `pair`, but requests only after the client is connected, so that a failed request is seen at once. */
async function accepted() {
  const listener = await listen({ host: '127.0.0.1' })
  const client = await connect(listener)
  const connection = await listener.accept()
  cleanUp(() => connection.close())
  return { connection, client }
}

const claimed: Scenario = {
  name: 'the ways out of a connection',
  async run() {
    const { connection, client } = await accepted()
    assert.equal(connection.localPort, client.remotePort)
    const copy = Connection.fromFd(connection.fd, { dup: true })
    cleanUp(() => copy.close())
    copy.close()
    const fd = temporaryFd(connection.detach())
    const again = takenBy(fd, (each) => Connection.fromFd(each))
    cleanUp(() => again.close())
    const socket = temporary(again.toSocket())
    socket.end('hello')
    assert.equal(await text(client), 'hello')
    const other = await accepted()
    other.connection.reset()
    await gone(other.client)
  },
}

const lookedAt: Scenario = {
  name: 'a look-ahead',
  impossible: { recv: ['EAGAIN'] },
  async run() {
    const { connection, client } = await accepted()
    const peeked = connection.peek(12, { timeout: -1 })
    peeked.catch(() => {})
    client.write('PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello')
    assert.equal(String(await peeked), 'PROXY TCP4 1')
    assert.equal((await connection.proxyHeader({ timeout: -1 }))?.version, 1)
    assert.equal(await connection.clientHello({ timeout: -1 }), null)
    const socket = temporary(connection.toSocket())
    client.end()
    assert.equal(await text(socket), 'hello')
  },
}

/** A look-ahead that first sees only a part, over a socket of the given kind. */
const lookedAtTwice = (kind: 'TCP' | 'unix'): Scenario => ({
  name: `a look-ahead at two segments over ${kind}`,
  impossible: { recv: ['EAGAIN'] },
  instead: { setsockopt: ['ERR_PEEK_BUFFER'] },
  async run() {
    const path = kind === 'unix' ? join(temporaryDirectory(), 'socket') : undefined
    const listener = await listen(path === undefined ? { host: '127.0.0.1' } : { path })
    if (kind === 'TCP') check(binding.setOption(listener.fd, SOL_SOCKET, SO_RCVBUF, 1), 'setsockopt')
    const client = await connect(listener)
    const connection = await listener.accept()
    cleanUp(() => connection.close())
    const looks = countLooks()
    const bytes = Buffer.alloc(2000, 'hello')
    let over = false
    const peeked = connection.peek(2000, { timeout: -1 }).finally(() => {
      over = true
    })
    peeked.catch(() => {})
    client.write(bytes.subarray(0, 500))
    await until(() => looks.count > 0 || over)
    client.write(bytes.subarray(500))
    assert.ok((await peeked).equals(bytes))
  },
})

const { SOL_SOCKET, SO_RCVBUF } = binding.constants as Record<'SOL_SOCKET' | 'SO_RCVBUF', number>

// A failed receive closes the channel, also for its peer.
const broken = { recvmsg: ['EPIPE', 'ERR_CHANNEL_CLOSED', 'ERR_CHANNEL_MESSAGE'] }

const channel = (type: SocketType): Scenario => ({
  name: `a ${type} channel`,
  instead: broken,
  impossible: { recvmsg: ['EAGAIN'], sendmsg: ['EAGAIN'] },
  async run() {
    const { channel, fd } = FdChannel.pair({ type })
    temporaryChannel(channel)
    temporaryFd(fd)
    const peer = temporaryChannel(FdChannel.fromFd(fd))
    const file = temporaryFd(openSync('/dev/null', 'r'))
    // One receive that is already pending, and one that starts when both messages have arrived.
    const first = next(peer)
    first.catch(() => {})
    await channel.send('one', [file, file])
    await channel.send('two')
    assert.deepEqual(inodesOf(await first), [inode(file), inode(file)])
    assert.equal(String((await next(peer))?.data), 'two')
    assert.equal(peer.peerCredentials().pid, process.pid)
    channel.close()
    assert.equal(await next(peer), undefined)
  },
})

const toPath: Scenario = {
  name: 'a channel to a path',
  instead: broken,
  impossible: { recvmsg: ['EAGAIN'], sendmsg: ['EAGAIN'] },
  async run() {
    const path = join(temporaryDirectory(), 'socket')
    const listener = await listen({ path })
    const client = temporaryChannel(FdChannel.connect(path))
    const connection = await listener.accept()
    cleanUp(() => connection.close())
    const server = temporaryChannel(FdChannel.fromConnection(connection))
    await client.send('hello')
    assert.equal(String((await next(server))?.data), 'hello')
  },
}

/** A service manager that receives messages and closes their fds. In Python, so that no fault affects it. */
const manager = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("ready", flush=True)
while True:
    for fd in socket.recv_fds(s, 65536, 253)[1]: os.close(fd)
    print(flush=True)
`

let child: ReturnType<typeof spawn>

/** Retries when the manager has received something, if its queue was full. */
async function patiently(run: () => unknown): Promise<unknown> {
  for (;;) {
    try {
      return await run()
    } catch (error) {
      if (codeOf(error) !== 'EAGAIN' || faults.failed() > 0) throw error
      await once(child.stdout as NodeJS.ReadableStream, 'data')
    }
  }
}

const managed: Scenario = {
  name: 'a service manager',
  async run() {
    const file = temporaryFd(openSync('/dev/null', 'r'))
    assert.equal(await patiently(() => notify({ ready: true, status: 'it runs' })), true)
    assert.equal(await patiently(() => storeFds('a name', [file])), true)
    assert.equal(await patiently(() => removeFds('a name')), true)
    assert.equal(await patiently(() => notifyBarrier({ timeout: -1 })), true)
  },
}

export function withServiceManager(): void {
  let directory: string
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
    const path = join(directory, 'notify')
    child = spawn('python3', ['-c', manager, path], { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    child.stdout?.resume()
    process.env.NOTIFY_SOCKET = path
  })
  after(() => {
    child.kill('SIGKILL')
    rmSync(directory, { recursive: true })
    delete process.env.NOTIFY_SOCKET
  })
}

const activated: Scenario = {
  name: 'an environment',
  // Without a pidfd LISTEN_PID decides, and the announced fds were not passed.
  instead: { pidfd_open: ['ERR_ACTIVATION'], statx: ['ERR_ACTIVATION'] },
  async run() {
    const env = { LISTEN_PID: `${process.pid}`, LISTEN_PIDFDID: '1', LISTEN_FDS: '1' }
    assert.deepEqual(readEnvironment(env), [])
    assert.equal(binding.setCloexec(temporaryFd(openSync('/dev/null', 'r'))) <= 0, true)
  },
}

const withChild: Scenario = {
  name: 'a child with inherited listeners',
  async run() {
    const web = await listen({ host: '127.0.0.1' })
    const started = spawnActivated('/bin/sh', ['-c', 'test $LISTEN_PID = $$'], { web }, { stdio: 'ignore' })
    assert.deepEqual(await once(started, 'exit'), [0, null])
  },
}

const reaped: Scenario = {
  name: 'a child that has not ended',
  async run() {
    const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] })
    const ended = once(child, 'exit')
    cleanUp(() => {
      child.kill('SIGKILL')
      return ended
    })
    assert.equal(check(binding.reap(child.pid as number), 'waitpid'), 0)
  },
}

const mapped: Scenario = {
  name: 'a shared mapping',
  async run() {
    const path = join(temporaryDirectory(), 'file')
    writeFileSync(path, Buffer.alloc(4096))
    const fds = ['r+', 'r+'].map((flags) => temporaryFd(openSync(path, flags)))
    const [one, other] = fds.map((fd) => new Int32Array(check(binding.mapShared(fd, 4096), 'mmap')))
    assert.equal(Atomics.add(one as Int32Array, 0, 5), 0)
    assert.equal(Atomics.load(other as Int32Array, 0), 5)
  },
}

export const fdScenarios = [
  claimed,
  lookedAt,
  lookedAtTwice('TCP'),
  lookedAtTwice('unix'),
  channel('stream'),
  channel('seqpacket'),
  toPath,
  managed,
  activated,
  withChild,
  mapped,
  reaped,
]
