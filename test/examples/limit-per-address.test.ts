import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { cleanUp, until } from '../helpers.js'
import { needs } from '../needs.js'
import { curl, startOnPort } from './clients.js'

describe('limit-per-address.mjs', () => {
  before(function () {
    needs(this, 'curl', '--version')
  })

  async function client(port: number | undefined, localAddress: string): Promise<net.Socket> {
    const socket = net.connect({ port: port as number, host: '127.0.0.1', localAddress })
    cleanUp(() => socket.destroy())
    await once(socket, 'connect')
    return socket.setEncoding('utf8').on('error', () => {})
  }

  const get = (port: number | undefined, address: string) => curl('--interface', address, `http://127.0.0.1:${port}`)

  it('resets a client beyond the limit of its address, and serves other addresses', async () => {
    const [example, port] = await startOnPort('limit-per-address.mjs', '0', '2', '100')
    const clients = [await client(port, '127.0.0.1'), await client(port, '127.0.0.1')]
    const beyond = await get(port, '127.0.0.1')
    assert.notEqual(beyond.code, 0) // which error depends on the moment at which curl notices the reset
    assert.equal(beyond.stdout, '')
    await example.says(/^refused (::ffff:)?127\.0\.0\.1: ERR_CONNECTION_FILTERED$/m)
    assert.equal((await get(port, '127.0.0.2')).stdout, 'hello\n')

    clients[0]?.destroy()
    await until(async () => (await get(port, '127.0.0.1')).stdout === 'hello\n')
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  })

  it('lets a client beyond the limit of all addresses wait', async () => {
    const [, port] = await startOnPort('limit-per-address.mjs', '0', '2', '2')
    const first = await client(port, '127.0.0.1')
    const request = 'GET / HTTP/1.1\r\nhost: localhost\r\n\r\n'
    first.write(request)
    await once(first, 'data')
    const second = await client(port, '127.0.0.2')
    second.write(request)
    await once(second, 'data')

    const third = await client(port, '127.0.0.3')
    third.write(request)
    let answered = false
    third.on('data', () => {
      answered = true
    })
    // The server would have accepted the third client in the first of these rounds.
    for (let round = 0; round < 20; round++) {
      first.write(request)
      await once(first, 'data')
    }
    assert.equal(answered, false)
    first.destroy()
    await until(() => answered)
  })
})
