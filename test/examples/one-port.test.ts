import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { cleanUp } from '../helpers.js'
import { needs } from '../needs.js'
import { curl, python, run, startOnPort } from './clients.js'

/** A server that answers an SSH client after the client has ended its side. Returns its address. */
async function sshServer(): Promise<string> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    let received = ''
    socket.on('error', () => {}).setEncoding('latin1')
    socket.on('data', (data) => {
      received += data
    })
    socket.on('end', () => socket.end(`SSH server got ${JSON.stringify(received)}`))
  })
  server.listen(0, '127.0.0.1')
  cleanUp(() => server.close())
  await once(server, 'listening')
  return `127.0.0.1:${(server.address() as net.AddressInfo).port}`
}

describe('one-port.mjs', () => {
  before(function () {
    needs(this, 'curl', '--version')
    needs(this, 'openssl', 'version')
    needs(this, 'python3', '--version')
  })

  it('serves HTTP, HTTPS and SSH on one port', async () => {
    const [example, port] = await startOnPort('one-port.mjs', '0', await sshServer())
    assert.equal((await curl(`http://127.0.0.1:${port}`)).stdout, 'HTTP\n')
    assert.equal((await curl('--insecure', `https://127.0.0.1:${port}`)).stdout, 'HTTPS\n')
    const handshake = await run('sh', '-c', `openssl s_client -connect 127.0.0.1:${port} </dev/null`)
    assert.match(handshake.stdout, /BEGIN CERTIFICATE/)
    const ssh = 's.sendall(b"SSH-2.0-client\\r\\n"); s.shutdown(socket.SHUT_WR)\nprint(s.makefile().read())'
    assert.equal(await python(port as number, ssh), 'SSH server got "SSH-2.0-client\\r\\n"\n')
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  })

  it('selects the server also when the first bytes arrive one by one', async () => {
    const [, port] = await startOnPort('one-port.mjs', '0', await sshServer())
    const slowly = `
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for byte in b"GET / HTTP/1.0\\r\\n\\r\\n": s.send(bytes([byte]))
print(s.makefile().read())`
    assert.match(await python(port as number, slowly), /\n\nHTTP\n/)
  })

  it('disconnects a client of another protocol, and one that sends nothing', async () => {
    const [example, port] = await startOnPort('one-port.mjs', '0', await sshServer(), '1')
    const ended = `
try: print(s.recv(1))
except ConnectionResetError: print(b"")` // the kernel resets a connection that is closed with unread bytes
    assert.equal(await python(port as number, `s.sendall(b"junk")${ended}`), "b''\n")
    assert.equal(await python(port as number, ended), "b''\n")
    await example.says(/^closed a connection: .*timeout/m)
  })

  it('disconnects an SSH client without a server, and continues', async () => {
    const free = net.createServer().listen(0, '127.0.0.1')
    await once(free, 'listening')
    const { port: closedPort } = free.address() as net.AddressInfo
    await new Promise((resolve) => free.close(resolve))
    const [example, port] = await startOnPort('one-port.mjs', '0', `127.0.0.1:${closedPort}`)
    const ssh = `
try: s.sendall(b"SSH-2.0-client\\r\\n"); print(s.recv(1))
except ConnectionResetError: print(b"")`
    assert.equal(await python(port as number, ssh), "b''\n")
    await example.says(/^closed a connection: .*ECONNREFUSED/m)
    assert.equal((await curl(`http://127.0.0.1:${port}`)).stdout, 'HTTP\n')
    example.signal('SIGINT')
    assert.equal(await example.ended, 0)
  })

  it('ends idle connections when it drains', async () => {
    const [example, port] = await startOnPort('one-port.mjs', '0')
    const client = net.connect(port as number, '127.0.0.1')
    cleanUp(() => client.destroy())
    client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    await once(client, 'data')
    example.signal('SIGTERM')
    await once(client.resume(), 'end')
    assert.equal(await example.ended, 0)
  })
})
