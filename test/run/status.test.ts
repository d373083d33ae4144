import assert from 'node:assert/strict'
import net from 'node:net'
import { join } from 'node:path'
import type { Status } from '../../src/run/control-protocol.js'
import { metricsText } from '../../src/run/status-text.js'
import { dial } from '../backlog.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'
import { answering, Supervised, start } from './supervised.js'

describe('async-accept status', function () {
  this.timeout(60_000)

  it('prints its status for a terminal, and as JSON', async () => {
    const supervised = await start(2)
    const { stdout, code } = await supervised.control('status')
    assert.equal(code, 0)
    assert.match(
      stdout,
      /^server \(pid \d+\): running, 2 of 2 workers are ready, generation 1\nlistens on web \(.*, 0 waiting\)\n/,
    )
    assert.match(stdout, /^ +\d+ +1 +ready +0 min \d+ s +0 +\d+ MiB +\d+ ms$/m)
    const { pid, phase, ready, sockets } = await supervised.status()
    const address = `127.0.0.1 port ${supervised.port}`
    assert.deepEqual(
      [pid, phase, ready, sockets],
      [supervised.pid, 'running', 2, [{ name: 'web', address, queued: 0 }]],
    )
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
      `async_accept_worker_connections{name="server",worker="${pid}",generation="1"} 1`,
      `async_accept_queued_connections{name="server",socket="web",address="127.0.0.1 port ${supervised.port}"} 0`,
      '# TYPE async_accept_failures_total counter',
    ]) {
      assert.ok(stdout.split('\n').includes(line), `${line} is missing in:\n${stdout}`)
    }
  })

  it('shows the memory of each worker, and how long its event loop was blocked in the last second', async () => {
    const blocking = `
      import http from 'node:http'
      http.createServer((request, response) => {
        if (request.url === '/block') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600)
        response.end('answer')
      }).listen(3000)
    `
    const supervised = await start(1, blocking)
    const status = async () => (await supervised.status()).workers[0]
    const { rss = 0 } = (await status()) ?? {}
    assert.ok(rss > 2 ** 20 && rss % 1024 === 0)
    // It is shown for a second after the block, in which the command may not have started yet.
    await until(async () => {
      await supervised.request('/block')
      return Number((await status())?.delay) >= 0.3
    })
    await until(async () => Number((await status())?.delay) < 0.3)
  })

  it('shows the clients that wait for a worker whose event loop is blocked, and its delay up to now', async () => {
    const path = join(temporaryDirectory(), 'app.sock')
    const both = `${answering}; http.createServer().listen(${JSON.stringify(path)})`
    const addresses = ['web=127.0.0.1:0', `admin=${path}`]
    const supervised = await new Supervised(both, { options: ['-n', '1'], addresses }).ready(1)
    const [pid = 0] = await supervised.workers()
    process.kill(pid, 'SIGSTOP')
    cleanUp(() => process.kill(pid, 'SIGCONT'))
    for (const to of [{ port: supervised.port }, { port: supervised.port }, { path }])
      await dial({ host: '127.0.0.1', ...to })
    await until(async () => Number((await supervised.status()).workers[0]?.delay) > 1)
    const { sockets } = await supervised.status()
    assert.deepEqual(
      sockets.map(({ queued }) => queued),
      [2, 1],
    )
  })
})

describe('The text for Prometheus', () => {
  it('escapes labels, and omits what is unknown', () => {
    const status: Status = {
      ...{ name: 'a', pid: 1, phase: 'running', target: 1, ready: 1, generation: 2, reloading: false, failures: 0 },
      sockets: [
        { name: 'a"b\\c', address: '/x\ny', queued: 3 },
        { name: 'x', address: '/x' },
      ],
      workers: [
        { pid: 7, generation: 2, state: 'ready', stale: false, uptime: 1.5 },
        { generation: 2, state: 'starting', stale: false, uptime: 0 },
      ],
    }
    const samples = metricsText(status)
      .split('\n')
      .filter((line) => /^async_accept_(queued|worker_)/.test(line))
    assert.deepEqual(samples, [
      'async_accept_queued_connections{name="a",socket="a\\"b\\\\c",address="/x\\ny"} 3',
      'async_accept_worker_uptime_seconds{name="a",worker="7",generation="2"} 1.5',
    ])
  })
})
