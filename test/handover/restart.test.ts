import assert from 'node:assert/strict'
import { FdChannel } from '../../src/index.js'
import { next, temporaryChannel } from '../channels.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { startExample } from '../running-example.js'
import { SteadyClient } from '../steady-client.js'

const restarts = Number(process.env.RESTARTS ?? 100)

describe('A server that is restarted through FdChannel', () => {
  lookedBefore()
  leaveNoFds()

  it(`refuses and resets no client during ${restarts} restarts under load`, async function () {
    this.timeout(300_000)
    const args = ['0', `${temporaryDirectory()}/socket`]
    let server = startExample('restart.mjs', args)
    cleanUp(() => server.ended)
    cleanUp(() => server.signal('SIGTERM'))
    const [, , port] = await server.says(/^process (\d+) serves port (\d+)\n/)
    const brief = Array.from({ length: 3 }, () => new SteadyClient(Number(port), false))
    const keeping = Array.from({ length: 3 }, () => new SteadyClient(Number(port), true))
    const clients = [...brief, ...keeping]
    const running = Promise.all(clients.map((client) => client.run()))
    const failed = running.then(() => {
      throw new Error('the clients ended too early')
    })
    failed.catch(() => {})
    for (let i = 0; i < restarts; i++) {
      const successor = startExample('restart.mjs', args)
      const [, pid] = await Promise.race([successor.says(/^process (\d+) serves/), failed])
      assert.equal(await Promise.race([server.ended, failed]), 0, server.stderr)
      assert.match(server.stdout, /^drained: \d+ finished, 0 destroyed$/m)
      server = successor
      // Each client receives a response from each process.
      const answer = `hello from process ${pid}\n`
      const met = until(() => clients.every(({ servers }) => servers.has(answer)))
      await Promise.race([met, failed])
    }
    for (const client of clients) client.end()
    await running
    assert.equal(server.stderr, '')
    // Most requests of the keep-alive clients reuse a connection.
    for (const { reused } of brief) assert.equal(reused, 0)
    for (const { reused, servers } of keeping) assert.ok(reused > servers.size, `${reused} reused`)
  })

  it('continues when its successor exits before it is ready', async () => {
    const path = `${temporaryDirectory()}/socket`
    const server = startExample('restart.mjs', ['0', path])
    const [, , port] = await server.says(/^process (\d+) serves port (\d+)\n/)
    for (let i = 0; i < 3; i++) {
      const channel = temporaryChannel(FdChannel.connect(path))
      const message = await next(channel)
      assert.equal(message?.fds.length, 2)
      for (const fd of message?.fds ?? []) fd.close()
      channel.close()
    }
    const response = await fetch(`http://127.0.0.1:${port}`, { headers: { Connection: 'close' } })
    assert.match(await response.text(), /^hello from process/)
    server.signal('SIGTERM')
    assert.equal(await server.ended, 'SIGTERM')
    assert.equal(server.stderr, '')
  })
})
