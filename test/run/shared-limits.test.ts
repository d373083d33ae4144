import assert from 'node:assert/strict'
import { once } from 'node:events'
import { cpSync } from 'node:fs'
import net from 'node:net'
import { join, resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { cleanUp, nodeEnvironment, temporaryDirectory, until } from '../helpers.js'
import { answering, Supervised } from './supervised.js'

/** Answers with its pid at once, and ends the response when the client leaves. */
const holding = `
  import http from 'node:http'
  http.createServer((request, response) => response.write(process.pid + '.')).listen(3000)
`

/** The same, and says when it stops accepting. */
const announcing = `
  import { subscribe } from 'node:diagnostics_channel'
  subscribe('async-accept.serving-state', ({ before }) => before === 'serving' && console.log('stopped accepting'))
  ${holding}
`

/** A client whose connection is accepted when the answer arrives. Resolves with the pid of the worker. */
async function client(port: number): Promise<{ socket: net.Socket; pid: number }> {
  const socket = net.connect(port, '127.0.0.1')
  cleanUp(() => socket.destroy())
  socket.on('error', () => {})
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  let received = ''
  for (;;) {
    const [data] = await once(socket, 'data')
    received += data
    const pid = /(\d+)\./.exec(received.slice(received.indexOf('\r\n\r\n') + 1))?.[1]
    if (pid !== undefined) return { socket, pid: Number(pid) }
  }
}

/** The number of clients of each worker. */
function counts(pids: readonly number[]): number[] {
  const all = new Map<number, number>()
  for (const pid of pids) all.set(pid, (all.get(pid) ?? 0) + 1)
  return [...all.values()].sort((a, b) => a - b)
}

async function manyClients(port: number, count: number, how: 'burst' | 'trickle'): Promise<number[]> {
  if (how === 'burst')
    return (await Promise.all(Array.from({ length: count }, () => client(port)))).map(({ pid }) => pid)
  const pids: number[] = []
  for (let i = 0; i < count; i++) pids.push((await client(port)).pid)
  return pids
}

describe('async-accept run --max-connections', function () {
  this.timeout(60_000)

  it('is exact over all workers, also those that drain, and is used', async () => {
    const limit = 20
    const options = ['-n', '3', '--max-connections', String(limit), '--settle', '0']
    const supervised = await new Supervised(holding, { options }).ready(3)
    const { port } = supervised
    let open = 0
    let most = 0
    let ended = false
    const visit = async () => {
      while (!ended) {
        const visitor = await client(port).catch(() => undefined)
        if (visitor === undefined) continue
        open++
        most = Math.max(most, open)
        await new Promise((resolve) => setTimeout(resolve, 50 + Math.random() * 150))
        open--
        visitor.socket.destroy()
      }
    }
    const visits = Array.from({ length: 10 * limit }, visit)
    await until(() => open === limit)
    for (let i = 0; i < 3; i++) {
      assert.equal((await supervised.control('reload')).code, 0)
      await until(() => open === limit)
    }
    ended = true
    await supervised.control('stop')
    void visits
    assert.equal(most, limit)
  })

  it('leaves a place to the clients of each socket, also if it is the only one', async () => {
    const supervised = await new Supervised(`${holding}; ${holding.replace(/import.*/, '').replace('3000', '4000')}`, {
      options: ['-n', '2', '--max-connections', '1'],
      addresses: ['web=127.0.0.1:0', 'admin=127.0.0.1:0'],
      env: { ASYNC_ACCEPT_INHERIT: '3000=web,4000=admin' },
    }).ready(2)
    const admin = Number(/admin \(\S+ port (\d+)\)/.exec(supervised.run.stderr)?.[1])
    for (const port of [supervised.port, admin, supervised.port, admin]) {
      const { socket } = await client(port)
      socket.destroy()
    }
  })

  it('does not count the connections of a socket that belongs to one worker alone', async () => {
    const code = `
      import { Listener, serve } from 'async-accept'
      const own = await Listener.listen({ port: 0, host: '127.0.0.1' })
      serve(own, (connection) => connection.toSocket().end('hello').on('error', () => {}))
      ${holding.replace("'.'", "' ' + own.address().port + '.'")}
    `
    const options = ['-n', '1', '--max-connections', '1']
    const supervised = await new Supervised(code, { options, inPackage: true }).ready(1)
    const { pid: own } = await client(supervised.port)
    const socket = net.connect(own, '127.0.0.1')
    cleanUp(() => socket.destroy())
    assert.equal(await text(socket), 'hello')
  })

  it('counts those that the preload serves, also if NODE_OPTIONS loads it first', async () => {
    const NODE_OPTIONS = `${nodeEnvironment().NODE_OPTIONS ?? ''} --import=${resolve('dist/inherit/inherit.js')}`
    const options = ['-n', '1', '--max-connections', '1', '--probe', '/']
    const supervised = await new Supervised(answering, { options, env: { NODE_OPTIONS } }).ready(1)
    const socket = net.connect(supervised.port, '127.0.0.1')
    cleanUp(() => socket.destroy())
    await until(async () => (await supervised.status()).workers[0]?.connections === 1)
  })

  it('warns that it does not count the connections of another copy of the package', async () => {
    const copy = temporaryDirectory()
    for (const each of ['dist', 'package.json']) cpSync(each, join(copy, each), { recursive: true })
    const code = `
      import { Listener, serve } from '${copy}/dist/index.js'
      serve(Listener.fromFd(3, { dup: true }), (connection) => connection.close())
      ${holding}
    `
    const env = { ASYNC_ACCEPT_ADDON: resolve('build/Release/async_accept.node') }
    const supervised = await new Supervised(code, { options: ['-n', '1', '--max-connections', '1'], env }).ready(1)
    await until(() => /ASYNC_ACCEPT_OTHER_COPY.*do not count/.test(supervised.run.stderr))
  })

  it('frees the places of a worker that was killed', async () => {
    const options = ['-n', '2', '--max-connections', '4']
    const supervised = await new Supervised(holding, { options }).ready(2)
    const clients = await Promise.all(Array.from({ length: 4 }, () => client(supervised.port)))
    const waiting = Promise.all(Array.from({ length: 4 }, () => client(supervised.port)))
    const [first] = clients
    process.kill(first?.pid as number, 'SIGKILL')
    for (const { socket, pid } of clients) if (pid !== first?.pid) socket.destroy()
    assert.equal((await waiting).length, 4)
  })
})

describe('A worker that starts while all places are taken', function () {
  this.timeout(60_000)

  it('accepts when the clients of the old one leave', async () => {
    const options = ['-n', '1', '--max-connections', '2', '--settle', '0']
    const supervised = await new Supervised(announcing, { options }).ready(1)
    const old = await Promise.all([client(supervised.port), client(supervised.port)])
    const waiting = client(supervised.port)
    const reloaded = supervised.control('reload')
    await until(() => supervised.run.stdout.includes('stopped accepting'))
    for (const { socket } of old) socket.destroy()
    assert.notEqual((await waiting).pid, old[0]?.pid)
    assert.equal((await reloaded).code, 0)
  })

  it('gets half of the places, as clients leave and others wait', async () => {
    const limit = 20
    const supervised = await new Supervised(holding, {
      options: ['-n', '1', '--max-connections', String(limit)],
    }).ready(1)
    const old = await Promise.all(Array.from({ length: limit }, () => client(supervised.port)))
    assert.equal((await supervised.control('scale', '2')).code, 0)
    const next: number[] = []
    const waiting = Array.from({ length: limit }, async () => next.push((await client(supervised.port)).pid))
    for (const { socket } of old) {
      const { length } = next
      socket.destroy()
      await until(() => next.length > length)
    }
    await Promise.all(waiting)
    const [least = 0, most = 0] = counts(next)
    assert.ok(least > 0 && most / least <= 1.5, `${least} and ${most}`)
  })
})

describe('The workers of async-accept run', function () {
  this.timeout(60_000)

  for (const how of ['burst', 'trickle'] as const) {
    it(`get equal numbers of long connections, in a ${how}`, async () => {
      const supervised = await new Supervised(holding, { options: ['-n', '4'] }).ready(4)
      const [least = 0, , , most = 0] = counts(await manyClients(supervised.port, 200, how))
      assert.ok(least > 0 && most / least <= 1.5, `${least} to ${most}`)
    })
  }

  it('accept the clients that a blocked worker with fewer connections leaves', async () => {
    const supervised = await new Supervised(holding, { options: ['-n', '2'] }).ready(2)
    const [blocked = 0, other] = await supervised.workers()
    process.kill(blocked, 'SIGSTOP')
    cleanUp(() => process.kill(blocked, 'SIGCONT'))
    const pids = await manyClients(supervised.port, 30, 'trickle')
    assert.deepEqual(new Set(pids), new Set([other]))
  })
})
