import assert from 'node:assert/strict'
import net from 'node:net'
import { until } from '../helpers.js'
import { answering, isAlive, Supervised, start } from './supervised.js'

describe('The end of async-accept run', function () {
  this.timeout(60_000)

  it('drains at SIGTERM, once: a request in flight is answered', async () => {
    const slow = `
      import http from 'node:http'
      http.createServer((request, response) => {
        process.once('SIGUSR2', () => response.end('answer'))
        console.log('request', process.pid)
      }).listen(3000)
    `
    const supervised = await start(1, slow)
    const answer = supervised.request()
    const [, pid] = await supervised.run.says(/request (\d+)/)
    supervised.run.signal('SIGTERM')
    await until(async () => (await supervised.status()).phase === 'stopping')
    supervised.run.signal('SIGTERM')
    process.kill(Number(pid), 'SIGUSR2')
    assert.equal(await answer, 'answer')
    assert.equal(await supervised.run.ended, 0)
  })

  it('says that a worker was killed while it drained', async () => {
    const supervised = await start(1, 'import net from "node:net"; net.createServer().listen(3000)')
    const client = net.connect(supervised.port, '127.0.0.1').on('error', () => {})
    await until(async () => (await supervised.status()).workers[0]?.connections === 1)
    const stopped = supervised.control('stop')
    await supervised.logs(/drains worker/)
    process.kill((await supervised.status()).workers[0]?.pid as number, 'SIGKILL')
    assert.equal((await stopped).stderr, 'async-accept stop: workers killed: 1\n')
    assert.match(supervised.run.stderr, /has ended: it was ended by SIGKILL while it drained/)
    client.destroy()
  })

  it('stops with success although a worker was killed in an earlier reload', async () => {
    const stubborn = `${answering}; process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)`
    const supervised = await start(1, stubborn, '--settle', '0', '--drain-timeout', '0', '--kill-after', '0.1')
    supervised.write(answering)
    assert.equal((await supervised.control('reload')).code, 0)
    await supervised.logs(/had not ended/)
    assert.deepEqual(await supervised.control('stop'), { code: 0, signal: null, stdout: '', stderr: '' })
  })

  it('answers the requests of a program whose own handler of SIGTERM exits at once', async () => {
    const hasty = `
      import http from 'node:http'
      process.on('SIGTERM', () => process.exit(0))
      http.createServer((request, response) => {
        process.once('SIGUSR2', () => response.end('answer'))
        console.log('request', process.pid)
      }).listen(3000)
    `
    const supervised = await start(1, hasty, '--settle', '0')
    const answer = supervised.request()
    const [, pid] = await supervised.run.says(/request (\d+)/)
    assert.equal((await supervised.control('reload')).code, 0)
    const states = async () => (await supervised.status()).workers.map(({ pid, state }) => [pid, state])
    assert.deepEqual((await states())[0], [Number(pid), 'ending'])
    process.kill(Number(pid), 'SIGUSR2')
    assert.equal(await answer, 'answer')
    await supervised.logs(new RegExp(`worker ${pid} has ended`))
  })

  it('lets a program end by itself after its own handler of SIGTERM', async () => {
    const supervised = await start(1, `${answering}; process.on('SIGTERM', () => console.log('told'))`)
    assert.equal((await supervised.control('stop')).code, 0)
    assert.equal(await supervised.run.ended, 0)
    assert.equal(supervised.run.stdout, 'told\n')
  })

  it('kills a worker that does not end after SIGTERM, and stop says so', async () => {
    const stubborn = `${answering}; process.on('SIGTERM', () => setInterval(() => {}, 1000))`
    const supervised = await start(1, stubborn, '--kill-after', '0.1')
    const { code, stderr } = await supervised.control('stop')
    assert.deepEqual([code, stderr], [1, 'async-accept stop: workers killed: 1\n'])
    assert.equal(await supervised.run.ended, 0)
    // Less than the default of --drain-timeout: it has no request.
  }).timeout(20_000)

  it('has closed its sockets when stop is answered', async () => {
    const supervised = await start(1, answering)
    const { port } = supervised
    await supervised.control('stop')
    const next = new Supervised(answering, { options: ['-n', '1'], addresses: [`web=127.0.0.1:${port}`] })
    await next.ready(1)
  })

  it('ends everything at once at SIGQUIT', async () => {
    const supervised = await start(2, `${answering}; process.on('SIGTERM', () => setInterval(() => {}, 1000))`)
    const workers = await supervised.workers()
    supervised.run.signal('SIGQUIT')
    assert.equal(await supervised.run.ended, 131)
    assert.deepEqual(workers.filter(isAlive), [])
  })
})
