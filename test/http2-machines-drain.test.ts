import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import https from 'node:https'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { reservedPort } from './activated.js'
import { cleanUp, until } from './helpers.js'
import { needs, openEcho, runningMachines, startMachines } from './running-machines.js'

/** Why a new client does not get through. */
async function refusal(port: number): Promise<string> {
  const [error] = await once(net.connect(port, '127.0.0.1'), 'error').catch((thrown) => [thrown])
  return error.code
}

describe('examples/http2-machines.mjs: its end', () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`lets a request over HTTP/2 end after ${signal}, and exits with 0`, async () => {
      // Nobody else can listen there when it does no longer.
      const machines = await startMachines(['--port', String(reservedPort())])
      const session = await machines.session()
      const stream = await openEcho(session)
      const goaway = once(session, 'goaway')
      machines.signal(signal)
      await machines.says(/^draining for at most 10 s; open connections: 1;/m)
      assert.equal((await goaway)[0], 0)
      assert.equal(await refusal(machines.port), 'ECONNREFUSED')
      stream.end('finished')
      assert.equal(await text(stream), 'finished')
      assert.equal(await machines.ended, 0)
      assert.match(machines.stdout, /^ref 1 .* POST \/echo 200\ndrained\n$/m)
      assert.equal(machines.stderr, '')
    })
  }

  it('lets a request over HTTP/1.1 end, closes its connection, and exits with 0', async () => {
    const machines = await startMachines()
    const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false })
    cleanUp(() => agent.destroy())
    const request = https.request(machines.url('/echo'), { agent, method: 'POST' })
    request.flushHeaders()
    const [response] = await once(request, 'response')
    machines.signal('SIGINT')
    await machines.says(/^draining/m)
    request.end('finished')
    assert.equal(await text(response), 'finished')
    assert.equal(await machines.ended, 0)
    assert.match(machines.stdout, /\ndrained\n$/)
  })

  it('waits for nobody who has asked nothing: idle connections, and handshakes', async () => {
    const machines = await startMachines()
    const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false })
    cleanUp(() => agent.destroy())
    const [response] = await once(https.get(machines.url('/status'), { agent }), 'response')
    await text(response)
    await machines.session()
    const silent = net.connect(machines.port, '127.0.0.1')
    await once(silent, 'connect')
    const closed = once(silent.resume(), 'close')
    await until(async () => (await machines.status()).pool.handshake === 1)
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    await closed
    assert.match(machines.stdout, /^ref \d+ .* handshake failed: ABORT_ERR$/m)
    assert.match(machines.stdout, /\ndrained\n$/)
  })

  it('exits with 0 when nobody has connected', async () => {
    const machines = await startMachines()
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    assert.match(machines.stdout, /^20 machines listen on .*\ndrained\n$/)
  })

  it('cuts off what is not done in time', async () => {
    const machines = await startMachines(['--drain-timeout', '0'])
    const stream = await openEcho(await machines.session())
    const closed = once(stream, 'close').catch(() => {})
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    await closed
    assert.match(machines.stdout, /^drain timeout; destroyed connections: 1$/m)
  })

  it('takes two signals at once for one, and exits at once when another one comes later', async () => {
    const machines = await startMachines()
    const stream = await openEcho(await machines.session())
    // Not the same one twice: of that the kernel may deliver one. Both are there when it goes on.
    for (const signal of ['SIGSTOP', 'SIGINT', 'SIGTERM', 'SIGCONT'] as const) machines.signal(signal)
    await machines.says(/^draining/m)
    stream.write('x')
    await once(stream, 'data')
    let exitCode: number | NodeJS.Signals | undefined
    // Each turn is a round trip; those of the first turns come too soon after the first signal to count.
    while (exitCode === undefined) {
      machines.signal('SIGINT')
      stream.write('x')
      const echo = once(stream, 'data').then(
        () => undefined,
        () => machines.ended,
      )
      exitCode = await Promise.race([echo, machines.ended])
    }
    assert.equal(exitCode, 130)
    assert.doesNotMatch(machines.stdout, /drained/)
  })

  it('drains after one Ctrl-C in a terminal, under npm start', async function () {
    needs(this, 'python3', ['--version'])
    // What is written to its stdin is typed at the terminal in which npm runs; what it writes is the terminal's.
    const terminal =
      'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(["npm", "start", "--", "--port", "0"])))'
    const cwd = fileURLToPath(new URL('..', import.meta.url))
    const child = spawn('python3', ['-c', terminal], { cwd, stdio: ['pipe', 'pipe', 'pipe'] })
    cleanUp(() => child.kill('SIGKILL'))
    const machines = await runningMachines(child)
    const stream = await openEcho(await machines.session())
    child.stdin?.write('\x03')
    await machines.says(/draining/)
    stream.end('finished')
    assert.equal(await text(stream), 'finished')
    assert.equal(await machines.ended, 0)
    assert.match(machines.stdout, /drained/)
  })
})
