import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { cleanUp } from '../helpers.js'
import { needs } from '../needs.js'
import { curl, startOnPort } from './clients.js'

describe('maintenance.mjs', () => {
  before(function () {
    needs(this, 'curl', '--version')
  })

  async function client(port: number | undefined): Promise<net.Socket> {
    const socket = net.connect(port as number, '127.0.0.1').setEncoding('utf8')
    cleanUp(() => socket.destroy())
    await once(socket, 'connect')
    return socket
  }

  /** Sends a request on an open connection, and returns the head of the response. */
  async function request(socket: net.Socket): Promise<string> {
    socket.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    return (await once(socket, 'data'))[0]
  }

  it('lets new clients wait, answers others with 503, and serves all afterwards', async () => {
    const [example, port] = await startOnPort('maintenance.mjs', '0', '3600')
    const url = `http://127.0.0.1:${port}`
    const connected = await client(port)
    assert.match(await request(connected), /^HTTP\/1\.1 200 /)

    example.signal('SIGUSR2')
    await example.says(/^maintenance begins$/m)
    const waiting = [await client(port), await client(port)]
    const answers = waiting.map(request)
    assert.match(await request(connected), /^HTTP\/1\.1 503 .*\r\nretry-after: 3600\r\n/is)

    example.signal('SIGUSR2')
    await example.says(/^maintenance ends; 2 clients have waited$/m)
    for (const answer of await Promise.all(answers)) assert.match(answer, /^HTTP\/1\.1 200 /)
    assert.match(await request(connected), /^HTTP\/1\.1 200 /)
    assert.equal((await curl(url)).stdout, 'hello\n')

    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  })

  it('ends by itself after the given time', async () => {
    const [example, port] = await startOnPort('maintenance.mjs', '0', '1')
    example.signal('SIGUSR2')
    await example.says(/^maintenance begins$/m)
    assert.equal((await curl(`http://127.0.0.1:${port}`)).stdout, 'hello\n')
    await example.says(/^maintenance ends; /m)
  })

  it('exits with 0 when a signal ends it during maintenance', async () => {
    const [example] = await startOnPort('maintenance.mjs', '0')
    example.signal('SIGUSR2')
    await example.says(/^maintenance begins$/m)
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
  })
})
