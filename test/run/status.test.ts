import assert from 'node:assert/strict'
import net from 'node:net'
import { cleanUp, until } from '../helpers.js'
import { answering, Supervised } from './supervised.js'

const start = (workers: number, code = answering, ...options: string[]) =>
  new Supervised(code, { options: ['-n', String(workers), ...options] }).ready(workers)

describe('async-accept status', function () {
  this.timeout(60_000)

  it('prints its status for a terminal, and as JSON', async () => {
    const supervised = await start(2)
    const { stdout, code } = await supervised.control('status')
    assert.equal(code, 0)
    assert.match(stdout, /^server \(pid \d+\): running, 2 of 2 workers are ready, generation 1\n/)
    const { pid, phase, ready, sockets } = await supervised.status()
    const address = `127.0.0.1 port ${supervised.port}`
    assert.deepEqual([pid, phase, ready, sockets], [supervised.pid, 'running', 2, [{ name: 'web', address }]])
  })

  it('prints the number of workers and of their connections for Prometheus', async () => {
    const supervised = await start(1)
    const client = net.connect(supervised.port, '127.0.0.1')
    cleanUp(() => client.destroy())
    const [pid] = await supervised.workers()
    await until(async () => (await supervised.status()).workers[0]?.connections === 1)
    const { stdout } = await supervised.control('status', '--prometheus')
    for (const line of [
      'async_accept_ready_workers{name="server"} 1',
      'async_accept_workers{name="server",state="ready"} 1',
      `async_accept_connections{name="server",worker="${pid}"} 1`,
      '# TYPE async_accept_failures_total counter',
    ]) {
      assert.ok(stdout.split('\n').includes(line), `${line} is missing in:\n${stdout}`)
    }
  })
})
