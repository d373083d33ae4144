import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { spawnActivated } from '../../src/index.js'
import { path, serviceManager } from '../handover/notified.js'
import { cleanUp, listen, nodeEnvironment, temporaryDirectory, until } from '../helpers.js'
import { skip } from '../needs.js'
import { RunningExample } from '../running-example.js'
import { answering, isAlive, Supervised, start } from './supervised.js'

/** Sends one request after the other until `done` resolves. Resolves with the answers; rejects if one fails. */
async function requestsUntil(supervised: Supervised, done: Promise<unknown>): Promise<Set<string>> {
  const answers = new Set<string>()
  let isDone = false
  void done.finally(() => {
    isDone = true
  })
  while (!isDone) answers.add(await supervised.request())
  return answers
}

describe('async-accept run', function () {
  this.timeout(60_000)

  it('serves an unchanged program with several workers, until stop', async () => {
    const supervised = await start(3)
    const workers = await supervised.workers()
    assert.equal(workers.length, 3)
    assert.ok(workers.includes(Number(await supervised.request())))
    const { code, stdout, stderr } = await supervised.control('stop')
    assert.deepEqual({ code, stdout, stderr }, { code: 0, stdout: '', stderr: '' })
    assert.equal(await supervised.run.ended, 0)
    assert.deepEqual(workers.filter(isAlive), [])
    assert.deepEqual(readdirSync(join(supervised.directory, 'run')), [])
  })

  it('replaces all workers at reload, and every request is answered', async () => {
    const supervised = await start(2, answering, '--settle', '0')
    const before = await supervised.workers()
    const reload = supervised.control('reload')
    const answers = await requestsUntil(supervised, reload)
    assert.equal((await reload).code, 0)
    const after = await supervised.workers()
    assert.equal(after.length, 2)
    assert.ok(!after.some((pid) => before.includes(pid)))
    assert.ok(after.some((pid) => answers.has(String(pid))))
    await until(() => !before.some(isAlive))
    const { generation, workers } = await supervised.status()
    assert.deepEqual([generation, ...workers.map((each) => each.generation)], [2, 2, 2])
  })

  it('reloads at SIGHUP, and makes one reload of those that come meanwhile', async () => {
    const supervised = await start(1, answering, '--settle', '0')
    supervised.run.signal('SIGHUP')
    await supervised.logs(/reloads, generation 2/)
    const codes = await Promise.all(['reload', 'reload', 'reload'].map((word) => supervised.control(word)))
    assert.deepEqual(
      codes.map(({ code }) => code),
      [0, 0, 0],
    )
    // A client may arrive after another's reload has begun.
    assert.ok((await supervised.status()).generation <= 5)
    await supervised.logs(/has reloaded/, 2)
  })

  it('answers other commands while many wait for a reload', async () => {
    const supervised = new Supervised('setInterval(() => {}, 1000)', { options: ['-n', '1'] })
    await supervised.logs(/starts worker/)
    const waiting = Array.from({ length: 32 }, () =>
      net.connect(join(supervised.directory, 'run', 'server', 'control')),
    )
    for (const socket of waiting) socket.write('{"command":"reload"}\n')
    await Promise.all(waiting.map((socket) => once(socket, 'connect')))
    assert.equal((await supervised.status()).phase, 'starting')
    assert.equal((await supervised.control('stop')).code, 0)
    assert.match(await text(waiting[31] as net.Socket), /stopping/)
  })

  it('has no status while it is stopped by SIGSTOP, and status says so', async () => {
    const supervised = await new Supervised(answering, { options: ['-n', '1'] }).ready(1)
    process.kill(supervised.pid, 'SIGSTOP')
    try {
      const { code, stderr } = await supervised.control('status')
      assert.deepEqual([code, stderr], [1, 'async-accept status: the supervisor does not answer: no status for 3 s\n'])
    } finally {
      process.kill(supervised.pid, 'SIGCONT')
    }
    assert.equal((await supervised.control('status')).code, 0)
  })

  it('changes the number of workers by scale, SIGTTIN and SIGTTOU', async () => {
    const supervised = await start(1)
    assert.equal((await supervised.control('scale', '3')).code, 0)
    assert.equal((await supervised.workers()).length, 3)
    supervised.run.signal('SIGTTIN')
    await supervised.logs(/scales from 3 to 4/)
    await supervised.ready(4)
    supervised.run.signal('SIGTTOU')
    await supervised.logs(/scales from 4 to 3/)
    assert.equal((await supervised.control('scale', '1')).code, 0)
    assert.equal((await supervised.workers()).length, 1)
    supervised.run.signal('SIGTTOU')
    // There is always one.
    assert.equal((await supervised.control('scale', '1')).code, 0)
    assert.equal((await supervised.status()).target, 1)
  })

  it('starts another worker when one is killed', async () => {
    const supervised = await start(2)
    const [first = 0, second = 0] = await supervised.workers()
    process.kill(first, 'SIGKILL')
    await supervised.logs(new RegExp(`worker ${first} was ended by SIGKILL`))
    await supervised.ready(3)
    const workers = await supervised.workers()
    assert.ok(workers.length === 2 && workers.includes(second) && !workers.includes(first))
    assert.equal((await supervised.status()).failures, 1)
  })

  it('leaves workers that drain and end when the supervisor is killed', async () => {
    const slow = `
      import http from 'node:http'
      http.createServer((request, response) => {
        process.once('SIGUSR2', () => response.end('answer'))
        console.log('request', process.pid)
      }).listen(3000)
    `
    const supervised = await start(2, slow)
    const workers = await supervised.workers()
    const answer = supervised.request()
    const [, pid] = await supervised.run.says(/request (\d+)/)
    supervised.run.signal('SIGKILL')
    await until(() => workers.filter(isAlive).length === 1)
    process.kill(Number(pid), 'SIGUSR2')
    assert.equal(await answer, 'answer')
    await until(() => !workers.some(isAlive))
  })

  it('starts again in the directory that a killed supervisor has left', async () => {
    const supervised = await start(1)
    supervised.run.signal('SIGKILL')
    await supervised.run.ended
    const run = join(supervised.directory, 'run')
    const left = readdirSync(join(run, 'server')).filter((name) => name !== 'control')
    const [board = ''] = left.filter((name) => name.endsWith('-scoreboard'))
    // systemd-tmpfiles(8) removes no file that has the sticky bit.
    assert.equal(statSync(join(run, 'server', board)).mode & 0o7777, 0o1600)
    assert.equal((await supervised.control('status')).stderr, 'async-accept status: no supervisor runs\n')
    const again = new Supervised(answering, { env: { ASYNC_ACCEPT_RUN_DIRECTORY: run }, options: ['-n', '1'] })
    await again.ready(1)
    assert.equal((await again.status()).name, 'server')
    const names = readdirSync(join(run, 'server'))
    assert.deepEqual(
      left.filter((name) => names.includes(name)),
      [],
    )
  })

  it('needs a name where several run, and refuses one that is taken', async () => {
    const first = await start(1)
    const env = { ASYNC_ACCEPT_RUN_DIRECTORY: join(first.directory, 'run') }
    const second = await new Supervised(answering, { env, options: ['-n', '1'] }).ready(1)
    const { code, stderr } = await first.control('status')
    assert.deepEqual(
      [code, stderr],
      [1, `async-accept status: several supervisors run: choose one with --name: server, server-${second.pid}\n`],
    )
    const unnamed = await first.control('status', '--name=')
    assert.equal(unnamed.stderr, 'async-accept status: no supervisor runs\n')
    assert.equal((await first.control('status', '--name', `server-${second.pid}`)).code, 0)
    const third = new Supervised(answering, { env, options: ['-n', '1', '--name', 'server'] })
    assert.equal(await third.run.ended, 2)
    assert.equal(third.run.stderr, 'async-accept run: a supervisor named server runs already: choose another --name\n')
  })

  it('passes sockets at a port and at a path, whose mode stays, and removes the path', async () => {
    const path = join(temporaryDirectory(), 'app.sock')
    const both = `${answering}; http.createServer((request, response) => response.end('path')).listen(${JSON.stringify(path)})`
    const supervised = await new Supervised(both, {
      options: ['-n', '2'],
      addresses: ['web=127.0.0.1:0', `admin=${path}`],
    }).ready(2)
    const request = http.get({ socketPath: path, agent: false })
    const [response] = await once(request, 'response')
    assert.equal(await text(response), 'path')
    assert.notEqual(await supervised.request(), 'path')
    assert.equal((await supervised.control('reload')).code, 0)
    assert.ok(statSync(path).isSocket())
    assert.equal((await supervised.control('stop')).code, 0)
    await supervised.run.ended
    assert.ok(!existsSync(path))
  })

  it('prefers the socket of that name that a service manager has passed', async () => {
    const web = await listen({ host: '127.0.0.1' })
    const directory = temporaryDirectory()
    writeFileSync(join(directory, 'server.mjs'), answering)
    // The address is not free, so binding it would fail.
    const words = [
      'dist/run/main.js',
      'run',
      '-n',
      '1',
      '-l',
      `web=127.0.0.1:${web.port}`,
      join(directory, 'server.mjs'),
    ]
    const env = { ...nodeEnvironment(), ASYNC_ACCEPT_INHERIT: '3000=web', ASYNC_ACCEPT_RUN_DIRECTORY: directory }
    const child = spawnActivated(process.execPath, words, { web }, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    const run = new RunningExample(child)
    cleanUp(async () => {
      child.kill('SIGQUIT')
      await run.ended
    })
    await until(() => /is ready/.test(run.stderr))
    assert.match(await (await fetch(`http://127.0.0.1:${web.port}`)).text(), /^\d+$/)
  })

  it('notifies a service manager: ready, reloading, its status, and stopping', async () => {
    const manager = await serviceManager(path())
    const env = { NOTIFY_SOCKET: process.env.NOTIFY_SOCKET }
    const supervised = await new Supervised(answering, { env, options: ['-n', '2', '--settle', '0'] }).ready(2)
    await supervised.control('reload')
    await supervised.control('stop')
    await supervised.run.ended
    const states = manager.received().flatMap(({ text }) => /^(READY|RELOADING|STOPPING)=1/.exec(text)?.[1] ?? [])
    assert.deepEqual(states, ['READY', 'RELOADING', 'READY', 'STOPPING'])
    assert.ok(manager.received().some(({ text }) => text === 'STATUS=2 of 2 workers are ready'))
  })

  it('runs any program that speaks sd_listen_fds(3) and sd_notify(3), with --exec', async () => {
    const program = [
      'import os, select, signal, socket, sys',
      'assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDNAMES"] == "web:8:0"',
      'ending = []',
      'signal.signal(signal.SIGTERM, lambda *_: ending.append(True))',
      's = socket.socket(fileno=3)',
      'n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
      'n.sendto(b"STATUS=warm\\nREADY=1", os.environ["NOTIFY_SOCKET"])',
      'while not ending:',
      '    select.select([s], [], [], 0.05)',
      '    try: c = s.accept()[0]',
      '    except BlockingIOError: continue',
      '    c.setblocking(True)',
      '    c.recv(4096)',
      '    c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + sys.argv[1].encode())',
      '    c.close()',
    ]
    const supervised = await new Supervised('', {
      options: ['-n', '2', '--exec'],
      // The order of the fds is that of the options, also for names that are numbers.
      addresses: ['web=127.0.0.1:0', '8=127.0.0.1:0', '127.0.0.1:0'],
      program: ['--', 'python3', '-c', program.join('\n'), 'python'],
    }).ready(2)
    assert.equal(await supervised.request(), 'python')
    assert.deepEqual(
      (await supervised.status()).workers.map(({ status, connections, delay }) => [status, connections, delay]),
      [
        ['warm', undefined, undefined],
        ['warm', undefined, undefined],
      ],
    )
    assert.equal((await supervised.control('reload')).code, 0)
    assert.equal(await supervised.request(), 'python')
    assert.equal((await supervised.control('stop')).code, 0)
  })

  it('replaces a worker whose event loop stands still, with --watchdog', async () => {
    const hanging = `
      import http from 'node:http'
      http.createServer((request, response) => {
        if (request.url === '/hang') for (;;);
        response.end(String(process.pid))
      }).listen(3000)
    `
    const supervised = await start(1, hanging, '--watchdog', '1')
    const [pid] = await supervised.workers()
    await assert.rejects(supervised.request('/hang'), { code: 'ECONNRESET' })
    await supervised.logs(new RegExp(`worker ${pid} sent no watchdog notification for 1 s`))
    await supervised.ready(2)
    assert.notEqual(await supervised.request(), String(pid))
  })

  it('replaces workers one at a time with --max-age', async () => {
    const supervised = await start(2, answering, '--max-age', '1')
    const before = await supervised.workers()
    await supervised.logs(/replaces worker \d+, which has run for/, 3)
    const { target, ready, failures } = await supervised.status()
    assert.ok(target === 2 && ready >= 2 && failures === 0)
    assert.ok(!(await supervised.workers()).some((pid) => before.includes(pid)))
  })

  it('replaces a worker that uses too much memory with --max-rss, and it serves until another is ready', async () => {
    const growing = `
      import http from 'node:http'
      const kept = []
      http.createServer((request, response) => {
        if (request.url === '/grow') kept.push(Buffer.alloc(2 ** 28, 1))
        response.end(String(process.pid))
      }).listen(3000)
    `
    const supervised = await start(1, growing, '--max-rss', '256M')
    const pid = await supervised.request('/grow')
    const replaced = supervised.logs(new RegExp(`replaces worker ${pid}, which uses \\d+ MiB`))
    await requestsUntil(
      supervised,
      replaced.then(() => supervised.ready(2)),
    )
    assert.notEqual((await supervised.workers()).at(-1), Number(pid))
  })

  it('reads PROXY headers of trusted proxies with --proxy-protocol and --trust', async () => {
    const seeing = `
      import http from 'node:http'
      http.createServer((request, response) => response.end(request.socket.remoteAddress)).listen(3000)
    `
    const supervised = await start(1, seeing, '--proxy-protocol', 'require', '--trust', '127.0.0.1')
    const client = net.connect(supervised.port, '127.0.0.1')
    cleanUp(() => client.destroy())
    client.write('PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\nGET / HTTP/1.0\r\n\r\n')
    assert.match(await text(client), /192\.0\.2\.7$/)
  })

  it('goes on for the time of --term-delay after SIGTERM', async () => {
    const supervised = await start(1, answering, '--term-delay', '1')
    const since = performance.now()
    supervised.run.signal('SIGTERM')
    assert.match(await supervised.request(), /^\d+$/)
    assert.equal((await supervised.status()).phase, 'running')
    assert.equal(await supervised.run.ended, 0)
    assert.ok(performance.now() - since >= 1000)
  })

  it('runs as another user from the time when the sockets are bound, with --user', async function () {
    if (process.getuid?.() !== 0) skip(this, 'becoming another user requires root')
    const asNobody = { uid: 65534, gid: 65534 }
    if (spawnSync(process.execPath, ['dist/run/main.js', '--help'], asNobody).status !== 0) {
      skip(this, 'the user nobody may not read this directory')
    }
    const supervised = await start(2, answering, '--user', 'nobody')
    const pids = [supervised.pid, ...(await supervised.workers())]
    const users = pids.map((pid) => /^Uid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
    assert.deepEqual(new Set(users), new Set([[65534, 65534, 65534, 65534].join('\t')]))
    assert.equal((await supervised.control('reload')).code, 0)
    assert.match(await supervised.request(), /^\d+$/)
    assert.equal((await supervised.control('stop')).code, 0)
    assert.equal(await supervised.run.ended, 0)
    const run = join(supervised.directory, 'run')
    assert.deepEqual(readdirSync(join(run, 'server')), [])
    const env = { ASYNC_ACCEPT_RUN_DIRECTORY: run }
    const again = await new Supervised(answering, { env, options: ['-n', '1', '--user', 'nobody'] }).ready(1)
    assert.equal((await again.status()).name, 'server')
  })
})
