import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import type net from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { binding } from '../../src/core/binding.js'
import { type Listener, spawnActivated } from '../../src/index.js'
import { ended, ours, plainEnvironment } from '../activated.js'
import { cleanUp, listen, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const fixture = fileURLToPath(new URL('../fixtures/takes.mjs', import.meta.url))

// Longer than the period after which the package warns.
const long = 'pause=1500'

interface Outcome {
  code: number | null
  stderr: string
  warnings: { name: string; code: string; message: string }[]
}

describe('The warning about activated fds that a process does not take', () => {
  leaveNoFds()
  let http: Listener
  let admin: Listener

  beforeEach(async () => {
    http = await listen({ host: '127.0.0.1' })
    admin = await listen({ path: join(temporaryDirectory(), 'admin') })
  })

  const portOf = (listener: Listener) => (listener.address() as net.AddressInfo).port

  /** Runs test/fixtures/takes.mjs, by default with `http` and `admin`. */
  async function takes(steps: readonly string[], passed: Record<string, Listener> = { http, admin }): Promise<Outcome> {
    const options = { env: plainEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] as const }
    const child = ours(spawnActivated(process.execPath, [fixture, ...steps], passed, options as never))
    const { code, stdout, stderr } = await ended(child)
    return { code, stderr, warnings: JSON.parse(stdout) }
  }

  it('lists the requested names, the available fds and a remedy when the process requests another name', async () => {
    const { code, warnings, stderr } = await takes(['web', 'api', long])
    assert.equal(code, 0)
    assert.equal(warnings.length, 1)
    const { name, code: warningCode, message } = warnings[0] as Outcome['warnings'][0]
    assert.deepEqual([name, warningCode], ['AsyncAcceptWarning', 'ASYNC_ACCEPT_UNTAKEN_FD'])
    for (const part of [
      "'web', 'api'",
      `'http' (listener, fd 3, 127.0.0.1 port ${portOf(http)})`,
      `'admin' (listener, fd 4, ${admin.address()})`,
      'FileDescriptorName=',
    ]) {
      assert.ok(message.includes(part), `${message}: ${part}`)
      assert.ok(stderr.includes(part))
    }
  })

  it('comes at once, because the process may be short-lived', async () => {
    const { warnings } = await takes(['web'])
    assert.equal(warnings.length, 1)
  })

  it('appears when the process then fails to listen on the same address', async () => {
    const { code, stderr } = await takes(['web', `listen=${portOf(http)}`])
    assert.equal(code, 1)
    assert.match(stderr, /EADDRINUSE/)
    assert.match(stderr, /ASYNC_ACCEPT_UNTAKEN_FD.*'web'/)
  })

  it('comes one second after the last request for fds that were never requested', async () => {
    const { warnings } = await takes(['http', long, long])
    assert.equal(warnings.length, 1)
    const { message } = warnings[0] as Outcome['warnings'][0]
    assert.ok(message.includes(`'admin' (listener, fd 4, ${admin.address()})`), message)
    assert.ok(message.includes("asked for 'http'"), message)
    assert.ok(!message.includes(`'http' (`), message)
  })

  it('includes fds that are not listeners', async () => {
    const { AF_INET, SOCK_DGRAM } = binding.constants as Record<string, number>
    const fd = binding.socket(AF_INET as number, SOCK_DGRAM as number)
    cleanUp(() => binding.close(fd))
    assert.equal(binding.bindIp(fd, '127.0.0.1', 0), 0)
    const { port } = binding.localAddress(fd) as { port: number }
    const script = 'LISTEN_PID=$$ exec "$@"'
    const child = spawn('/bin/sh', ['-c', script, 'sh', process.execPath, fixture, 'all', long], {
      stdio: ['ignore', 'pipe', 'pipe', http.fd, fd],
      env: plainEnvironment({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'http:dns' }),
    })
    const { stderr } = await ended(ours(child))
    assert.ok(stderr.includes(`'dns' (datagram, fd 4, 127.0.0.1 port ${port})`), stderr)
    assert.ok(!stderr.includes("'http'"), stderr)
  })

  const silent: Record<string, string[]> = {
    'takes all fds': ['all', long],
    'takes each fd by name': ['http', 'admin', long],
    'takes one fd later': ['http', 'pause=600', 'admin', long],
    'takes fds in steps that together take longer': ['http', 'pause=600', 'http', 'pause=600', 'admin', long],
    'requests an optional name, and then takes all fds': ['optional', 'http', 'admin', long],
    'calls activation()': ['http', 'activation', long],
    'exits before the period ends': ['http'],
    'requests no fds': [long],
  }
  for (const [what, steps] of Object.entries(silent)) {
    it(`does not appear when a process ${what}`, async () => {
      assert.deepEqual(await takes(steps), { code: 0, stderr: '', warnings: [] })
    })
  }

  it('does not appear in a process that was not activated', async () => {
    assert.deepEqual(await takes(['web', long], {}), { code: 0, stderr: '', warnings: [] })
  })

  it('does not affect a process whose process.emitWarning throws', async () => {
    assert.deepEqual(await takes(['broken', 'web', 'http', long]), { code: 0, stderr: '', warnings: [] })
  })
})
