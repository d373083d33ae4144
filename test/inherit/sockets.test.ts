import assert from 'node:assert/strict'
import { statSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { Listener } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { connect, listen, target, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsFamilyOf } from '../needs.js'
import { listenOnLoopback, startPlain, startPreloaded } from './preloaded.js'

/** What the server says to a new client of the listener. */
const answer = (listener: Listener) => text(net.connect(target(listener)))

const reusesPorts = Number.parseInt(process.versions.node, 10) > 20

const beginning = `
  const net = require('node:net')
  const log = (...what) => console.log(JSON.stringify(what))
  const serverOf = (name) => net.createServer((socket) => socket.end(name))
    .on('listening', function () { log(name, this.address()) })
    .on('error', ({ code }) => log(name, code))
  const [port, other] = process.argv.slice(1).map(Number);
`

/** Starts servers that answer with their names, and returns what they print. */
function startServers(
  code: string,
  passed: Record<string, Listener | Listener[]>,
  env: NodeJS.ProcessEnv = {},
  ...ports: number[]
) {
  return startPreloaded(beginning + code, passed, { env, args: ports.map(String) })
}

describe('A server with the preload', () => {
  leaveNoFds()

  it('gets the socket of its port, and another server gets that of another port', async () => {
    const [web, admin] = [await listenOnLoopback(), await listenOnLoopback()]
    const program = startServers(
      "serverOf('admin').listen(other); serverOf('web').listen(port)",
      { web, admin },
      {},
      web.port,
      admin.port,
    )
    await program.says(/"web"/)
    assert.equal(await answer(web), 'web')
    assert.equal(await answer(admin), 'admin')
    assert.equal(program.stderr, '')
  })

  it('serves clients that came before it listened', async () => {
    const web = await listenOnLoopback()
    const early = text(net.connect(target(web)))
    await until(() => web.backlog().queued === 1)
    startServers("setImmediate(() => serverOf('late').listen(port))", { web }, {}, web.port)
    assert.equal(await early, 'late')
  })

  it('serves every socket that matches, as IPv4 beside IPv6', async function () {
    needsFamilyOf(this, '::1')
    const ipv6 = await listen({ host: '::1', port: 0 })
    const ipv4 = await listen({ host: '127.0.0.1', port: ipv6.port })
    const program = startServers("serverOf('both').listen(port)", { web: [ipv4, ipv6] }, {}, ipv4.port)
    await program.says(/"both"/)
    assert.equal(await answer(ipv4), 'both')
    assert.equal(await answer(ipv6), 'both')
    assert.ok(program.stdout.includes(JSON.stringify(['both', ipv4.address()])), program.stdout)
  })

  it('gets only the socket of the host that it asks for', async function () {
    needsFamilyOf(this, '::1')
    const ipv6 = await listen({ host: '::1', port: 0 })
    const ipv4 = await listen({ host: '127.0.0.1', port: ipv6.port })
    const program = startServers(
      "serverOf('four').listen(port, '127.0.0.1'); serverOf('six').listen(port, '::1')",
      { web: [ipv4, ipv6] },
      {},
      ipv4.port,
    )
    await program.says(/"four".*"six"|"six".*"four"/s)
    assert.equal(await answer(ipv4), 'four')
    assert.equal(await answer(ipv6), 'six')
  })

  it('never gets a wider socket, which the warning names', async () => {
    const web = await listen({ host: '0.0.0.0', port: 0 })
    const program = startServers(
      "serverOf('narrow').listen(port, '127.0.0.1').on('error', () => process.exit(3))",
      { web },
      {},
      web.port,
    )
    assert.equal(await program.ended, 3)
    assert.match(program.stdout, /\["narrow","EADDRINUSE"\]/)
    assert.match(program.stderr, /\[ASYNC_ACCEPT_UNTAKEN_FD\] AsyncAcceptWarning: No listen\(\) has taken/)
    const expected = `'web' (fd 3, 0.0.0.0 port ${web.port}). The program has listened on: port ${web.port} of 127.0.0.1. `
    assert.ok(program.stderr.includes(expected), program.stderr)
    assert.ok(program.stderr.includes(`ASYNC_ACCEPT_INHERIT='${web.port}=web'`), program.stderr)
  })

  it('gets the sockets that ASYNC_ACCEPT_INHERIT maps to its port or path', async () => {
    const [web, more, admin] = [await listenOnLoopback(), await listenOnLoopback(), await listenOnLoopback()]
    const env = { ASYNC_ACCEPT_INHERIT: '3000=web,/no/such/path=admin' }
    const program = startServers(
      `const server = serverOf('web').listen(3000, '0.0.0.0', () => {
         serverOf('second').listen(3000)
         serverOf('admin').listen('/no/such/path')
       })`,
      { web: [web, more], admin },
      env,
    )
    await program.says(/"admin"/)
    assert.equal(await answer(web), 'web')
    assert.equal(await answer(more), 'web')
    assert.equal(await answer(admin), 'admin')
    await program.says(/\["second","EADDRINUSE"\]/)
    assert.ok(program.stdout.includes(JSON.stringify(['web', web.address()])), program.stdout)
  })

  it('gets mapped sockets also for a shared port', async () => {
    const web = await listenOnLoopback()
    const env = { ASYNC_ACCEPT_INHERIT: '3000=web' }
    startServers("serverOf('shared').listen({ port: 3000, reusePort: true })", { web }, env)
    assert.equal(await answer(web), 'shared')
  })

  it('gets the socket also with `exclusive`, which concerns only workers of a cluster', async () => {
    const [web, path] = [await listenOnLoopback(), join(temporaryDirectory(), 'app.sock')]
    const admin = await listen({ path })
    const program = startServers(
      `serverOf('web').listen({ port, exclusive: true })
       serverOf('admin').listen({ path: ${JSON.stringify(path)}, exclusive: true })`,
      { web, admin },
      {},
      web.port,
    )
    assert.deepEqual([await answer(web), await answer(admin)], ['web', 'admin'])
    assert.equal(program.stderr, '')
  })

  it('gets the socket of its unix path', async () => {
    const path = join(temporaryDirectory(), 'app.sock')
    const web = await listen({ path })
    const program = startServers(`serverOf('path').listen({ path: ${JSON.stringify(path)} })`, { web })
    await program.says(/"path"/)
    assert.equal(await answer(web), 'path')
    program.signal('SIGTERM')
    assert.equal(await program.ended, 0)
    assert.ok(await connect(web), 'the path is still there')
  })

  it('gets no socket whose path the program has removed, because no client could connect', async () => {
    const path = join(temporaryDirectory(), 'app.sock')
    const web = await listen({ path })
    const program = startServers(
      `require('node:fs').unlinkSync(${JSON.stringify(path)})
       process.on('SIGTERM', () => process.exit())
       serverOf('own').listen(${JSON.stringify(path)})`,
      { web },
    )
    await program.says(/"own"/)
    assert.equal(await text(net.connect(path)), 'own')
    program.signal('SIGTERM')
    await program.ended
    assert.ok(program.stderr.includes(`'web' (fd 3, ${path}, which was removed)`), program.stderr)
  })

  it('gets the socket that is mapped to its relative path', async () => {
    const web = await listenOnLoopback()
    startServers("serverOf('relative').listen('app.sock')", { web }, { ASYNC_ACCEPT_INHERIT: './app.sock=web' })
    assert.equal(await answer(web), 'relative')
  })

  it('leaves the mode of the path as it is', async () => {
    const path = join(temporaryDirectory(), 'app.sock')
    const web = await listen({ path, mode: 0o640 })
    const options = JSON.stringify({ path, readableAll: true, writableAll: true })
    const program = startServers(`serverOf('path').listen(${options})`, { web })
    await program.says(/"path"/)
    assert.equal(statSync(path).mode & 0o777, 0o640)
  })

  it('can be closed and listen again, with clients that connect between', async () => {
    const web = await listenOnLoopback()
    const program = startServers(
      `let round = 0
       const next = () => {
         const server = serverOf('round ' + ++round).listen(port)
         server.once('connection', () => server.close(next))
       }
       next()`,
      { web },
      {},
      web.port,
    )
    for (const round of [1, 2, 3, 4, 5]) assert.equal(await answer(web), `round ${round}`)
    assert.equal(program.stderr, '')
  })

  it('leaves no fd open when it listens and closes many times', async () => {
    const web = await listenOnLoopback()
    const program = startServers(
      `const { readdirSync } = require('node:fs')
       const open = () => readdirSync('/proc/self/fd').length
       let rounds = 0, before
       const next = () => {
         if (rounds === 10) before = open()
         if (rounds++ === 200) { log('fds', open() - before); process.exit() }
         const server = net.createServer().listen(port, () => server.close(() => setImmediate(next)))
       }
       next()`,
      { web },
      {},
      web.port,
    )
    assert.deepEqual([await program.ended, program.stdout], [0, '["fds",0]\n'])
  })

  it('can be replaced by another server while its connections are open', async () => {
    const web = await listenOnLoopback()
    const program = startServers(
      `const first = net.createServer((socket) => {
         socket.write('first')
         first.close(() => log('first closed'))
         serverOf('second').listen(port)
       }).listen(port)`,
      { web },
      {},
      web.port,
    )
    const held = await connect(web)
    let received = ''
    held.setEncoding('utf8').on('data', (data) => {
      received += data
    })
    await until(() => received === 'first')
    assert.equal(await answer(web), 'second')
    assert.doesNotMatch(program.stdout, /closed/)
    held.destroy()
    await program.says(/first closed/)
  })

  const untouched: Record<string, string> = {
    'port 0': 'serverOf("any").listen(0)',
    'listen() without arguments': 'serverOf("any").listen()',
    'another port': 'serverOf("any").listen(other)',
    // Node 20 has no such option, and ignores it.
    ...(reusesPorts ? { 'a shared port': 'serverOf("any").listen({ port, reusePort: true })' } : {}),
    'a path': 'serverOf("any").listen("/proc/none")',
  }
  for (const [what, code] of Object.entries(untouched)) {
    it(`does not get a socket for ${what}`, async () => {
      const web = await listenOnLoopback()
      const program = startServers(
        `${code}.on('listening', () => process.exit()).on('error', () => process.exit())`,
        { web },
        {},
        web.port,
        reservedPort(),
      )
      assert.equal(await program.ended, 0)
      assert.ok(!program.stdout.includes(`"port":${web.port}`), program.stdout)
      assert.match(program.stderr, /No listen\(\) has taken/)
    })
  }

  it('may listen on the passed fd by its number', async () => {
    const web = await listenOnLoopback()
    const program = startServers("serverOf('fd').listen({ fd: 3 }); process.on('SIGTERM', () => process.exit())", {
      web,
    })
    await program.says(/"fd"/)
    assert.equal(await answer(web), 'fd')
    program.signal('SIGTERM')
    assert.deepEqual([await program.ended, program.stderr], [0, ''])
  })

  it('may take the passed sockets with activatedListeners()', async () => {
    const web = await listenOnLoopback()
    const program = startServers(
      `import('async-accept').then(({ activatedListeners, serve }) => {
         const [listener] = activatedListeners('web')
         serve(listener, serverOf('activated'))
         process.on('SIGTERM', () => process.exit())
       })`,
      { web },
    )
    await program.says(/"activated"/)
    assert.equal(await answer(web), 'activated')
    program.signal('SIGTERM')
    assert.deepEqual([await program.ended, program.stderr], [0, ''])
  })

  for (const [what, start] of [
    ['a worker thread', "new (require('node:worker_threads').Worker)(file)"],
    ['a child process', "require('node:child_process').fork(file)"],
    [
      'a worker of a cluster',
      "require('node:cluster').setupPrimary({ exec: file, execArgv: ['--import', 'async-accept/inherit'] }); require('node:cluster').fork()",
    ],
  ]) {
    it(`gets no socket in ${what}`, async () => {
      const web = await listenOnLoopback()
      const file = join(temporaryDirectory(), 'listens.cjs')
      writeFileSync(
        file,
        `const names = Object.keys(process.env).filter((name) => name.startsWith('LISTEN_'))
         require('node:net').createServer().listen(${web.port})
           .on('error', ({ code }) => { console.log('inner', code, names.length); process.exit() })
           .on('listening', () => { console.log('inner listens'); process.exit() })`,
      )
      const program = startServers(
        `const file = ${JSON.stringify(file)}; ${start}.on?.('error', (error) => log(error.message))`,
        { web },
      )
      await program.says(/inner EADDRINUSE 0\n/)
    })
  }

  it('is served beside a worker thread and a child process that listen elsewhere', async () => {
    const web = await listenOnLoopback()
    const inner = "require('node:net').createServer().listen(0, function () { this.close(); console.log('inner') })"
    const program = startServers(
      `serverOf('outer').listen(port, () => {
         new (require('node:worker_threads').Worker)(${JSON.stringify(inner)}, { eval: true })
         require('node:child_process').spawn(process.execPath, [...process.execArgv, '-e', ${JSON.stringify(inner)}], { stdio: 'inherit' })
       })`,
      { web },
      {},
      web.port,
    )
    await program.says(/inner.*inner/s)
    assert.equal(await answer(web), 'outer')
    assert.equal(program.stderr, '')
  })

  it('can be sent to a child process', async () => {
    const web = await listenOnLoopback()
    const file = join(temporaryDirectory(), 'receives.cjs')
    writeFileSync(
      file,
      "process.on('message', (_, server) => server.on('connection', (socket) => socket.end('child')) && process.send('ready'))",
    )
    const program = startServers(
      `const child = require('node:child_process').fork(${JSON.stringify(file)})
       const server = net.createServer().listen(port, () => {
         child.send('server', server)
         child.on('message', () => server.close(() => log('closed')))
       })
       process.once('exit', () => child.kill())`,
      { web },
      {},
      web.port,
    )
    await program.says(/closed/)
    assert.equal(await answer(web), 'child')
    program.signal('SIGTERM')
    await program.ended
  })
})

describe('Without inherited sockets, the preload', () => {
  const inspect = `
    const net = require('node:net')
    console.log(JSON.stringify([
      net.Server.prototype.listen.toString().length, net.Server.prototype._listen2.name, process.eventNames().map(String),
      process._getActiveHandles().length, process.report.getReport().sharedObjects.some((file) => file.includes('async')),
      process.moduleLoadList.includes('NativeModule worker_threads'),
    ]))
  `
  const environments: Record<string, NodeJS.ProcessEnv> = {
    'no variables': {},
    'variables of another process': { LISTEN_PID: '1', LISTEN_FDS: '1' },
    'no sockets': { LISTEN_FDS: '0', LISTEN_PID: '1' },
    settings: { ASYNC_ACCEPT_IDLE_TIMEOUT: 'x', ASYNC_ACCEPT_INHERIT: '?' },
  }
  for (const [what, env] of Object.entries(environments)) {
    it(`changes nothing: ${what}`, async () => {
      const plain = startPlain(inspect, { env })
      const preloaded = startPlain(inspect, { env, flags: ['--import', 'async-accept/inherit'] })
      assert.deepEqual([await preloaded.ended, preloaded.stderr], [await plain.ended, ''])
      assert.equal(preloaded.stdout, plain.stdout)
    })
  }
})
