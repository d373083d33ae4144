import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { binding } from '../../src/core/binding.js'
import { type Connection, Listener } from '../../src/index.js'
import { helloOfNode } from '../hellos.js'
import { cleanUp } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { skip } from '../needs.js'

const { AF_UNIX, SOCK_SEQPACKET, SOL_SOCKET, SO_PEEK_OFF } = binding.constants as Record<string, number>
const forever = { timeout: -1 }

// Node has no sockets of this type.
const program = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect('\\0' + sys.argv[1])
for line in sys.stdin: s.send(bytes.fromhex(line))
`

interface Packets {
  connection: Connection
  send(...packets: (Buffer | string)[]): void
  end(): void
}

async function connected(): Promise<Packets> {
  const name = `async-accept-${randomUUID()}`
  const fd = binding.socket(AF_UNIX as number, SOCK_SEQPACKET as number)
  assert.equal(binding.bindPath(fd, `\0${name}`), 0)
  assert.equal(binding.listen(fd, 1), 0)
  binding.release(fd)
  const listener = Listener.fromFd(fd)
  cleanUp(() => listener.close())
  const accepting = listener.accept()
  const peer = spawn('python3', ['-c', program, name], { stdio: ['pipe', 'ignore', 'inherit'] })
  cleanUp(() => peer.kill('SIGKILL'))
  const connection = await accepting
  cleanUp(() => connection.close())
  return {
    connection,
    send: (...packets) =>
      peer.stdin.write(packets.map((packet) => `${Buffer.from(packet).toString('hex')}\n`).join('')),
    end: () => peer.stdin.end(),
  }
}

/** Receives one packet. */
const take = ({ fd }: Connection) => String(binding.receive(fd, 65_536, false))

describe('A look-ahead on a seqpacket socket', () => {
  lookedBefore()
  leaveNoFds()

  const line = 'PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n'

  it('sees only the first packet', async () => {
    const { connection, send } = await connected()
    const peeked = connection.peek(20, forever)
    send('hello', 'world')
    assert.equal(String(await peeked), 'hello')
    assert.equal(String(await connection.peek(3)), 'hel')
    assert.equal(String(await connection.peek(20, forever)), 'hello')
    assert.equal(take(connection), 'hello')
    assert.equal(String(await connection.peek(20, forever)), 'world')
  })

  it('waits for the first packet', async () => {
    const { connection, send } = await connected()
    await assert.rejects(connection.peek(5, { timeout: 20 }), { code: 'ERR_PEEK_TIMEOUT' })
    send('hi')
    assert.equal(String(await connection.peek(5, forever)), 'hi')
  })

  it('sees nothing when the first packet is empty', async () => {
    const { connection, send } = await connected()
    send('', 'hello')
    assert.equal((await connection.peek(5, forever)).length, 0)
    assert.equal(await connection.proxyHeader(forever), null)
    take(connection)
    assert.equal(String(await connection.peek(5, forever)), 'hello')
  })

  it('sees nothing when the peer closes without a packet', async () => {
    const { connection, end } = await connected()
    end()
    assert.equal((await connection.peek(5, forever)).length, 0)
  })

  it('parses a ClientHello in one packet', async () => {
    const { connection, send } = await connected()
    const hello = await helloOfNode({ servername: 'a.test' })
    send(hello)
    assert.equal((await connection.clientHello(forever))?.serverName, 'a.test')
    take(connection)
    send(hello.subarray(0, 100), hello.subarray(100))
    assert.equal(await connection.clientHello(forever), null)
  })

  it('consumes a PROXY header in a separate packet, and no other packet', async () => {
    const { connection, send } = await connected()
    send(line, 'hello')
    assert.equal((await connection.proxyHeader(forever))?.source?.port, 1234)
    assert.equal(String(await connection.peek(20, forever)), 'hello')
  })

  it('starts at the first byte of the first packet regardless of SO_PEEK_OFF', async function () {
    const { connection, send } = await connected()
    const error = binding.setOption(connection.fd, SOL_SOCKET as number, SO_PEEK_OFF as number, 3)
    if (error !== 0) skip(this, `SO_PEEK_OFF is not supported, as under an emulator (${error})`)
    send(line)
    assert.equal(String(await connection.peek(5, forever)), 'PROXY')
    assert.equal((await connection.proxyHeader(forever))?.source?.port, 1234)
  })

  it('rejects when the peer closes after a packet with part of a PROXY header', async () => {
    const { connection, send, end } = await connected()
    send(line.slice(0, 20))
    end()
    await assert.rejects(connection.proxyHeader(forever), { code: 'ERR_PROXY_HEADER' })
  })

  for (const [what, packet] of [
    ['shares its packet with other bytes', `${line}hello`],
    ['spans two packets', line.slice(0, 20)],
  ] as const) {
    it(`rejects and consumes nothing when a PROXY header ${what}`, async () => {
      const { connection, send } = await connected()
      send(packet, 'world')
      await assert.rejects(connection.proxyHeader(forever), { code: 'ERR_PROXY_HEADER' })
      assert.equal(take(connection), packet)
      assert.equal(String(await connection.peek(5, forever)), 'world')
    })
  }
})
