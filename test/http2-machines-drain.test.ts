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

/** The error code of a new client's connect. */
async function refusal(port: number): Promise<string> {
  const [error] = await once(net.connect(port, '127.0.0.1'), 'error').catch((thrown) => [thrown])
  return error.code
}

describe('examples/http2-machines.mjs on SIGINT or SIGTERM', () => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`completes an HTTP/2 request after ${signal}, and exits with 0`, async () => {
      // No other process can bind to a reserved port when the example has closed it.
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

  it('completes an HTTP/1.1 request, closes its connection, and exits with 0', async () => {
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

  it('does not wait for idle connections or handshakes', async () => {
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

  it('exits with 0 without clients', async () => {
    const machines = await startMachines()
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    assert.match(machines.stdout, /^20 machines listen on .*\ndrained\n$/)
  })

  it('closes connections that do not finish in time', async () => {
    const machines = await startMachines(['--drain-timeout', '0'])
    const stream = await openEcho(await machines.session())
    const closed = once(stream, 'close').catch(() => {})
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    await closed
    assert.match(machines.stdout, /^drain timeout; destroyed connections: 1$/m)
  })

  it('treats two simultaneous signals as one, and exits at once on a later signal', async () => {
    const machines = await startMachines()
    const stream = await openEcho(await machines.session())
    // Two different signals, as the kernel may merge equal ones. Both are pending when the process continues.
    for (const signal of ['SIGSTOP', 'SIGINT', 'SIGTERM', 'SIGCONT'] as const) machines.signal(signal)
    await machines.says(/^draining/m)
    stream.write('x')
    await once(stream, 'data')
    let exitCode: number | NodeJS.Signals | undefined
    // Each iteration takes a round trip. In the first ones, the signal is still too close to the first signal to count.
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
    // The stdin of the child is the keyboard of the terminal in which npm runs; its stdout is the screen.
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
    // npm forwards the signal too. If that arrives when Node is already exiting, npm ends by SIGINT: -2, as Python has it.
    const code = await machines.ended
    assert.ok(code === 0 || code === 254, `${code}: ${machines.stdout}`)
    assert.match(machines.stdout, /drained/)
  })
})
