import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { openSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { binding } from '../../src/core/binding.js'
import type { Listener } from '../../src/index.js'
import { ended, ours, plainEnvironment } from '../activated.js'
import { temporaryFd } from '../descriptors.js'
import { listen, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import type { RunningExample } from '../running-example.js'
import { listenOnLoopback, preload, startPreloaded } from './preloaded.js'

const program = "console.log('started'); process.exit()"

/** Runs a program with `fds` as fd 3 and up; with its own pid as LISTEN_PID unless `env` sets it. */
async function run(fds: readonly number[], env: NodeJS.ProcessEnv, code = program, limit = 'true') {
  const script = 'LISTEN_PID' in env ? 'exec "$@"' : `${limit}; LISTEN_PID=$$ exec "$@"`
  return ended(
    ours(
      spawn('/bin/sh', ['-c', script, 'sh', process.execPath, ...preload, '-e', code], {
        stdio: ['ignore', 'pipe', 'pipe', ...fds],
        // Node 22 reads these certificates in a thread, which holds an fd for some time after the start.
        env: plainEnvironment({ NODE_EXTRA_CA_CERTS: undefined, ...env }),
      }),
    ),
  )
}

const { AF_INET, SOCK_DGRAM } = binding.constants as Record<string, number>

/** A UDP socket, which is closed at the end of the test. */
function udpSocket(): number {
  const fd = binding.socket(AF_INET as number, SOCK_DGRAM as number)
  binding.release(fd)
  temporaryFd(fd)
  return fd
}

const refused = (stderr: string) => ({ code: 2, stdout: '', stderr })

describe('The preload, in a wrong environment,', () => {
  leaveNoFds()

  const variables: Record<string, [NodeJS.ProcessEnv, string]> = {
    'a count that is not a number': [{ LISTEN_FDS: 'x' }, 'invalid activation environment: LISTEN_FDS is "x"'],
    'a count that is too large': [
      { LISTEN_FDS: '99' },
      'invalid activation environment: LISTEN_FDS is 99, but fd 4 was not passed',
    ],
    'a pid that is not a number': [
      { LISTEN_PID: 'x', LISTEN_FDS: '1' },
      'invalid activation environment: LISTEN_PID is "x"',
    ],
    'too many names': [
      { LISTEN_FDS: '1', LISTEN_FDNAMES: 'a:b' },
      'invalid activation environment: LISTEN_FDNAMES has 2 names, but LISTEN_FDS is 1',
    ],
    'a wrong setting': [
      { LISTEN_FDS: '1', ASYNC_ACCEPT_MAX_CONNECTIONS: '-1' },
      'ASYNC_ACCEPT_MAX_CONNECTIONS is "-1", but must be an integer of at least 1',
    ],
    'a setting of several lines': [
      { LISTEN_FDS: '1', ASYNC_ACCEPT_IDLE_TIMEOUT: '1\n2' },
      'ASYNC_ACCEPT_IDLE_TIMEOUT is "1\\n2", but must be a number of seconds from 0.001 to 2147483',
    ],
    'a map that names nothing': [
      { LISTEN_FDS: '1', LISTEN_FDNAMES: 'web', ASYNC_ACCEPT_INHERIT: '3000=wed' },
      "ASYNC_ACCEPT_INHERIT names 'wed', but no listening stream socket has this name; the names of those that were passed: 'web'",
    ],
  }
  for (const [what, [env, line]] of Object.entries(variables)) {
    it(`ends before the program starts, with one line and exit code 2: ${what}`, async () => {
      const { fd } = await listenOnLoopback()
      const { code, stdout, stderr } = await run([fd], env)
      assert.deepEqual({ code, stdout, stderr }, refused(`async-accept/inherit: ${line}\n`))
    })
  }

  it('ends with one line when the addon does not load', async () => {
    const { fd } = await listenOnLoopback()
    const { code, stdout, stderr } = await run([fd], { LISTEN_FDS: '1', ASYNC_ACCEPT_ADDON: '/no/such/addon.node' })
    assert.deepEqual({ code, stdout }, { code: 2, stdout: '' })
    assert.match(stderr, /^async-accept\/inherit: the native addon could not be loaded: .*\n$/)
  })

  it('ends with one line when an earlier preload has frozen the prototype of servers', async () => {
    const web = await listenOnLoopback()
    const frozen =
      "import net from 'node:net'; import 'node:http'; import 'node:http2'; Object.freeze(net.Server.prototype)"
    const flags = ['--import', `data:text/javascript,${encodeURIComponent(frozen)}`]
    const running = startPreloaded(program, { web }, { flags })
    assert.deepEqual([await running.ended, running.stdout], [2, ''])
    assert.equal(running.stderr, 'async-accept/inherit: an earlier preload has frozen net.Server.prototype\n')
  })

  it('ends with one line, or starts the program, whatever the variables contain', async function () {
    this.timeout(120_000)
    const { fd } = await listenOnLoopback()
    const names = ['INHERIT', 'MAX_CONNECTIONS', 'PROXY_PROTOCOL', 'TRUST', 'DRAIN_TIMEOUT', 'IDLE_TIMEOUT', 'NOTIFY']
    const ours = fc.constantFrom(...names.map((name) => `ASYNC_ACCEPT_${name}`))
    const text = fc.oneof(
      fc.string({ unit: fc.constantFrom(...'0123=,./:@ -web\n'.split('')) }),
      fc.constantFrom('require', 'optional', '10.0.0.0/8', '3000=unknown', '1', '1.5', 'off'),
      fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0')),
    )
    const variables = fc.dictionary(
      fc.oneof(ours, ours, fc.constantFrom('LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PID')),
      text,
      {
        maxKeys: 4,
        noNullPrototype: true,
      },
    )
    await fc.assert(
      fc.asyncProperty(variables, async (env) => {
        const { code, stdout, stderr } = await run([fd], { LISTEN_FDS: '1', ...env })
        if (code === 0) assert.equal(stdout, 'started\n')
        else assert.deepEqual([code, stdout], [2, ''])
        if (code === 2) assert.match(stderr, /^async-accept\/inherit: .*\n$/)
      }),
      { numRuns: 60 },
    )
  })

  it('leaves sockets and variables alone if no server can use the sockets', async () => {
    const path = join(temporaryDirectory(), 'file')
    const file = openSync(path, 'w')
    temporaryFd(file)
    const code = 'const { LISTEN_FDS, LISTEN_FDNAMES } = process.env; console.log(LISTEN_FDS, LISTEN_FDNAMES)'
    const result = await run([udpSocket(), file], { LISTEN_FDS: '2', LISTEN_FDNAMES: 'udp:file' }, code)
    assert.deepEqual({ ...result }, { code: 0, stdout: '2 udp:file\n', stderr: '' })
  })

  it('refuses a map to a socket that does not listen', async () => {
    const env = { LISTEN_FDS: '1', LISTEN_FDNAMES: 'udp', ASYNC_ACCEPT_INHERIT: '53=udp' }
    const { code, stderr } = await run([udpSocket()], env)
    assert.equal(code, 2)
    assert.match(stderr, /names 'udp', but no listening stream socket has this name; none was passed\n$/)
  })
})

describe('The preload, with a difficult program,', () => {
  leaveNoFds()

  const listens =
    "const server = require('node:http').createServer((_, response) => response.end('answer')).listen(process.env.PORT"

  const programs: Record<string, string> = {
    'that replaces listen() after the preload': `
      const { Server } = require('node:net')
      const { listen } = Server.prototype
      Server.prototype.listen = function (...args) { return listen.apply(this, args) }
      ${listens}, ready)`,
    'that makes listen() read-only': `
      const { Server } = require('node:net')
      Object.defineProperty(Server.prototype, 'listen', { writable: false, configurable: false })
      ${listens}, ready)`,
    'that removes all listeners': `
      process.removeAllListeners()
      ${listens}, () => { server.removeAllListeners('listening'); ready() })`,
    'that adds a property to Object.prototype': `
      Object.defineProperty(Object.prototype, 'get', { value() {}, configurable: true })
      ${listens}, ready)`,
    'that listens late': `setTimeout(() => { ${listens}, ready) }, 300)`,
    'that replaces process.emitWarning': `process.emitWarning = () => { throw new Error('mine') }; ${listens}, ready)`,
  }
  async function serves(web: Listener, running: RunningExample): Promise<void> {
    await running.says(/ready/)
    assert.equal(await (await fetch(`http://127.0.0.1:${web.port}`)).text(), 'answer')
    assert.equal(running.stderr, '')
    running.signal('SIGKILL')
    await running.ended
  }

  for (const [what, code] of Object.entries(programs)) {
    it(`serves a program ${what}`, async () => {
      const web = await listen({ port: 0 })
      const env = { PORT: String(web.port) }
      await serves(web, startPreloaded(`const ready = () => console.log('ready'); ${code}`, { web }, { env }))
    })
  }

  const earlierPreloads: Record<string, string> = {
    'replaces listen()': `
      const { listen } = net.Server.prototype
      net.Server.prototype.listen = function (...args) { return listen.apply(this, args) }`,
    'makes listen() read-only': `
      Object.defineProperty(net.Server.prototype, 'listen', { writable: false })`,
    'replaces net.Server by its own class': `
      const { Server } = net
      function Traced(...args) { Server.apply(this, args) }
      Traced.prototype = Object.create(Server.prototype)
      net.Server = Traced`,
  }
  for (const [what, code] of Object.entries(earlierPreloads)) {
    it(`serves when an earlier preload ${what}`, async () => {
      const web = await listen({ port: 0 })
      const flags = ['--import', `data:text/javascript,${encodeURIComponent(`import net from 'node:net'; ${code}`)}`]
      const env = { PORT: String(web.port) }
      await serves(web, startPreloaded(`${listens}, () => console.log('ready'))`, { web }, { env, flags }))
    })
  }

  for (const flag of [
    '--frozen-intrinsics',
    '--inspect=127.0.0.1:0',
    '--disable-proto=delete',
    '--stack-trace-limit=0',
    '--throw-deprecation',
    '--pending-deprecation',
  ]) {
    it(`serves with ${flag}`, async () => {
      const web = await listen({ port: 0 })
      const running = startPreloaded(
        `${listens}, () => console.log('ready'))`,
        { web },
        { env: { PORT: String(web.port) }, flags: [flag] },
      )
      await running.says(/ready/)
      assert.equal(await (await fetch(`http://127.0.0.1:${web.port}`)).text(), 'answer')
      running.signal('SIGTERM')
      assert.equal(await running.ended, 0)
    })
  }

  it('serves under the permission model, with the documented grants', async () => {
    const web = await listen({ port: 0 })
    const has = (flag: string) => process.allowedNodeEnvironmentFlags.has(flag)
    const model = has('--permission') ? '--permission' : '--experimental-permission'
    const network = has('--allow-net') ? ['--allow-net'] : []
    const readable = `--allow-fs-read=${fileURLToPath(new URL('../..', import.meta.url))}`
    const flags = [model, '--allow-addons', readable, ...network, '--no-warnings']
    const env = { PORT: String(web.port), NODE_OPTIONS: '' }
    await serves(web, startPreloaded(`${listens}, () => console.log('ready'))`, { web }, { env, flags }))
  })

  it("emits 'error' when the process has no free fd, and serves when it has", async () => {
    const { fd, port } = await listenOnLoopback()
    const code = `
      const fs = require('node:fs')
      const net = require('node:net')
      const log = (...what) => console.log(JSON.stringify(what))
      const open = () => fs.readdirSync('/proc/self/fd').length
      // libuv opens an fd with the first stream, and keeps it.
      process.stdout
      const before = open()
      const filled = []
      try { for (;;) filled.push(fs.openSync('/dev/null')) } catch {}
      const server = net.createServer().on('error', ({ code, syscall, port }) => {
        log(code, syscall, port, server.listening)
        for (const fd of filled) fs.closeSync(fd)
        log(open() - before)
        server.listen(port, () => { log(server.address().port); server.close() })
      })
      // Room for a part of what a server needs.
      for (let free = 0; free < 1; free++) fs.closeSync(filled.pop())
      server.listen(${port})
    `
    const { stdout, stderr } = await run([fd], { LISTEN_FDS: '1' }, code, 'ulimit -n 64')
    assert.equal(stdout, `["EMFILE","listen",${port},false]\n[0]\n[${port}]\n`, stderr)
  })

  it('lets a program end that never listens, with a warning', async () => {
    const web = await listenOnLoopback()
    const running = startPreloaded("console.log('done')", { web })
    assert.deepEqual([await running.ended, running.stdout], [0, 'done\n'])
    assert.match(
      running.stderr,
      /'web' \(fd 3, 127\.0\.0\.1 port \d+\). The program has listened on: nothing\. .*'3000=web'/,
    )
  })

  it('adds no warning to the error of a program that fails before it listens', async () => {
    const web = await listenOnLoopback()
    const running = startPreloaded("throw new Error('mine')", { web })
    assert.equal(await running.ended, 1)
    assert.doesNotMatch(running.stderr, /AsyncAccept/)
  })
})
