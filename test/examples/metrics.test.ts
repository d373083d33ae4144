import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { cleanUp, until } from '../helpers.js'
import { needs } from '../needs.js'
import { curl, startOnPort } from './clients.js'

describe('metrics.mjs', () => {
  before(function () {
    needs(this, 'curl', '--version')
  })

  /** The metrics by name and labels. */
  async function metricsOf(port: number | undefined): Promise<Record<string, number>> {
    const { stdout } = await curl(`http://127.0.0.1:${port}/metrics`)
    const samples = stdout.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    return Object.fromEntries(samples.map((line) => line.split(' ')).map(([name, value]) => [name, Number(value)]))
  }

  async function client(port: number | undefined): Promise<net.Socket> {
    const socket = net.connect(port as number, '127.0.0.1')
    cleanUp(() => socket.destroy())
    await once(socket, 'connect')
    return socket.on('error', () => {})
  }

  it('shows connections, clients that wait, and the counters of the listener', async () => {
    const [example, port, metricsPort] = await startOnPort('metrics.mjs', '0', '0', '2')
    const clients = [await client(port), await client(port), await client(port)]
    await until(async () => (await metricsOf(metricsPort)).http_connections === 2)
    const full = await metricsOf(metricsPort)
    assert.deepEqual(
      [full.http_connections_limit, full.listener_backlog, full['listener_events_total{event="accepted"}']],
      [2, 1, 2],
    )
    assert.ok((full.listener_backlog_limit as number) > 0)

    for (const socket of clients) socket.destroy()
    await until(async () => {
      const { http_connections, listener_backlog, ...others } = await metricsOf(metricsPort)
      return http_connections === 0 && listener_backlog === 0 && others['listener_events_total{event="accepted"}'] === 3
    })
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  })

  it('rejects a limit that is not a number', async () => {
    const [example] = await Promise.allSettled([startOnPort('metrics.mjs', '0', '0', 'many')])
    assert.match(String(example.status === 'rejected' && example.reason), /limit must be a whole number from 1/)
  })
})
