import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { handleClassFor } from '../../src/core/node-internals.js'
import { Connection, FdChannel, Listener, serve } from '../../src/index.js'
import { next, temporaryChannel } from '../channels.js'
import { temporaryFd } from '../descriptors.js'
import { cleanUp, connect, flagsOf } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { skip } from '../needs.js'

// Creates sockets as far as the kernel supports them, and sends them over the channel at its fd 0.
const program = `
import array, json, socket, struct
made = {}
def make(name, family, type, protocol=0, address=None):
    try:
        s = socket.socket(family, type, protocol)
        if address is not None:
            s.bind(address)
            s.listen()
        made[name] = s
    except OSError: pass
any = (0xffffffff, 0xffffffff)
make('listening vsock', 40, socket.SOCK_STREAM, 0, any)
make('unbound vsock', 40, socket.SOCK_STREAM)
make('seqpacket vsock', 40, socket.SOCK_SEQPACKET, 0, any)
make('netlink', socket.AF_NETLINK, socket.SOCK_RAW)
make('packet', socket.AF_PACKET, socket.SOCK_DGRAM)
make('alg', 38, socket.SOCK_SEQPACKET)
make('tipc', 30, socket.SOCK_STREAM)
make('bluetooth', 31, socket.SOCK_STREAM, 3)
make('mptcp', socket.AF_INET, socket.SOCK_STREAM, 262, ('127.0.0.1', 0))
names = json.dumps(list(made)).encode()
fds = array.array('i', [s.fileno() for s in made.values()])
channel = socket.socket(fileno=0)
channel.sendmsg([struct.pack('>II', len(names), len(fds)) + names], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
`

async function sockets(): Promise<Map<string, number>> {
  const { channel, fd } = FdChannel.pair()
  temporaryChannel(channel)
  const child = spawn('python3', ['-c', program], { stdio: [fd, 'inherit', 'inherit'] })
  closeSync(fd)
  const message = await next(channel)
  if (child.exitCode === null) await once(child, 'exit')
  assert.ok(message)
  const names: string[] = JSON.parse(String(message.data))
  return new Map(names.map((name, i) => [name, temporaryFd(message.fds[i]?.detach() as number)]))
}

const refused = { code: 'ERR_SOCKET_FAMILY' }

describe('A socket of another address family than IPv4, IPv6 and unix', () => {
  lookedBefore()
  leaveNoFds()

  const takers: [string, (fd: number) => unknown][] = [
    ['Listener.fromFd()', (fd) => Listener.fromFd(fd)],
    ['Listener.fromFd() with dup', (fd) => Listener.fromFd(fd, { dup: true })],
    ['Connection.fromFd()', (fd) => Connection.fromFd(fd)],
    ['Connection.fromFd() with dup', (fd) => Connection.fromFd(fd, { dup: true })],
    ['FdChannel.fromFd()', (fd) => FdChannel.fromFd(fd)],
  ]
  for (const [name, take] of takers) {
    it(`is rejected by ${name}, and stays open and unchanged`, async function () {
      const found = await sockets()
      found.delete('mptcp')
      if (found.size === 0) skip(this, 'this kernel has no other socket family')
      for (const [family, fd] of found) {
        const flags = flagsOf(fd)
        assert.throws(() => take(fd), refused, family)
        assert.equal(flagsOf(fd), flags)
      }
    })
  }

  it('leaves no fd open when Node has no handle type for it', () => {
    const AF_VSOCK = 40
    assert.throws(() => handleClassFor(AF_VSOCK))
  })
})

describe('A listening socket with Multipath TCP', () => {
  it('works like any other IPv4 socket', async function () {
    const fd = (await sockets()).get('mptcp')
    if (fd === undefined) skip(this, 'this kernel has no Multipath TCP')
    const listener = Listener.fromFd(fd)
    cleanUp(() => listener.close())
    const accepting = listener.accept()
    const first = await connect(listener)
    ;(await accepting).toSocket().end('hello')
    assert.equal(await text(first), 'hello')
    const serving = serve(
      listener,
      http.createServer((_, response) => response.end('served')),
    )
    cleanUp(() => serving.close())
    const { port } = listener.address() as { port: number }
    const [response] = (await once(http.get({ port, agent: false }), 'response')) as [http.IncomingMessage]
    assert.equal(await text(response), 'served')
  })
})
