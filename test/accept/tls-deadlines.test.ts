import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type net from 'node:net'
import type { Connection } from '../../src/index.js'
import { awaitBytes, pair, standStill, temporary } from '../descriptors.js'
import { cleanUp, codeOf, listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { localhost } from '../tls-peers.js'

// TLS clients that answer while this process is blocked. 'mute' clients send only a ClientHello. 'dripping' clients
// send a record of 16 KiB, byte by byte.
const script = `
import select, socket, ssl, sys, time
port, count, version, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.maximum_version = getattr(ssl.TLSVersion, version)
poll = select.epoll()
peers = {}
def step(peer):
    sock, incoming, outgoing, tls = peer
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    data = outgoing.read()
    if how == 'dripping':
        data = bytes.fromhex('1603014000')
    if data:
        sock.sendall(data)
for _ in range(count):
    sock = socket.create_connection(('127.0.0.1', port))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peers[sock.fileno()] = (sock, incoming, outgoing, context.wrap_bio(incoming, outgoing))
    step(peers[sock.fileno()])
    poll.register(sock, select.EPOLLIN)
while how == 'dripping':
    time.sleep(0.001)
    for sock, *_ in peers.values():
        try: sock.send(b'x')
        except OSError: sys.exit()
while how == 'answering':
    for fd, _ in poll.poll():
        data = peers[fd][0].recv(65536)
        if data:
            peers[fd][1].write(data)
            step(peers[fd])
        else:
            poll.unregister(fd)
sys.stdin.read()
`

type Version = 'TLSv1_2' | 'TLSv1_3'

/** Connections whose clients have sent a ClientHello, none of which was read. */
async function greeted(
  count: number,
  how: 'answering' | 'mute' | 'dripping' = 'answering',
  version: Version = 'TLSv1_3',
): Promise<Connection[]> {
  const listener = await listen({ host: '127.0.0.1' })
  const { port } = listener.address() as net.AddressInfo
  const accepting = Array.from({ length: count }, () => listener.accept())
  const args = ['-c', script, String(port), String(count), version, how]
  const child = spawn('python3', args, { stdio: ['pipe', 'ignore', 'inherit'] })
  cleanUp(async () => {
    child.kill('SIGKILL')
    await once(child, 'close')
  })
  const connections = await Promise.all(accepting)
  cleanUp(() => {
    for (const connection of connections) connection.close()
  })
  for (const { fd } of connections) awaitBytes(fd, 5)
  return connections
}

/** The distinct outcomes of a handshake on each connection. */
async function outcomes(connections: Connection[], timeout: number, meanwhile: () => void): Promise<string[]> {
  const options = await localhost()
  const securing = connections.map((connection) => connection.toTLS(options, { timeout }))
  meanwhile()
  const settled = await Promise.allSettled(securing)
  const names = settled.map((one) => {
    if (one.status === 'rejected') return String(codeOf(one.reason))
    temporary(one.value).destroy()
    return 'secured'
  })
  return [...new Set(names)]
}

describe('The deadline of toTLS', function () {
  this.timeout(60_000)
  leaveNoFds()

  for (const version of ['TLSv1_2', 'TLSv1_3'] as const) {
    for (const count of [1, 64, 65, 200]) {
      it(`rejects none of ${count} ${version} clients that sent data before the event loop was blocked`, async () => {
        const connections = await greeted(count, 'answering', version)
        assert.deepEqual(await outcomes(connections, 100, () => standStill(200)), ['secured'])
      })
    }
  }

  it('rejects a client that stops after its ClientHello, even when the event loop is late', async () => {
    const connections = await greeted(1, 'mute')
    assert.deepEqual(await outcomes(connections, 100, () => standStill(200)), ['ERR_TLS_HANDSHAKE_TIMEOUT'])
  })

  it('rejects a client that drips bytes', async () => {
    const connections = await greeted(1, 'dripping')
    assert.deepEqual(await outcomes(connections, 50, () => {}), ['ERR_TLS_HANDSHAKE_TIMEOUT'])
  })

  it('does not extend the time of a silent client when the event loop is late', async () => {
    const { connection } = await pair()
    const { setTimeout } = globalThis
    const times: unknown[] = []
    const noted = (run: () => void, ms: number) => {
      times.push(ms)
      return setTimeout(run, ms)
    }
    Object.assign(globalThis, { setTimeout: noted })
    cleanUp(() => Object.assign(globalThis, { setTimeout }))
    assert.deepEqual(await outcomes([connection], 50, () => standStill(100)), ['ERR_TLS_HANDSHAKE_TIMEOUT'])
    assert.deepEqual(times, [50])
  })
})
