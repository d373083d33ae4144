import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryDirectory, until } from '../helpers.js'
import { needs } from '../needs.js'
import { Supervised, type SupervisedOptions } from './supervised.js'

/** Answers with `text`. Fails if another process of the program runs, whose socket has the same name. */
const version = (text: string, name = 'watch-test') => `
  import http from 'node:http'
  import net from 'node:net'
  net.createServer().listen('\\0${name}-' + process.ppid)
  http.createServer((request, response) => response.end('${text}')).listen(3000)
`

/** Its current directory has the program, and no sockets of the supervisor. */
function start(code: string, { options = ['--watch'], ...more }: SupervisedOptions = {}) {
  const env = { ASYNC_ACCEPT_RUN_DIRECTORY: temporaryDirectory() }
  return new Supervised(code, { env, options, inDirectory: true, ...more })
}

describe('async-accept run --watch', function () {
  this.timeout(60_000)

  it('starts the program anew when a file changes, after the old process has ended, and refuses no client', async () => {
    // On a busy machine, the client may take longer than 1 s to send its request.
    const supervised = await start(version('1'), { options: ['--watch', '--drain-timeout', '30'] }).ready(1)
    supervised.write(version('2'))
    await until(async () => (await supervised.request()) === '2')
    await supervised.logs(/server\.mjs changed\n.*reloads, generation 2\n.*drains worker \d+: replaced\n/)
    await supervised.logs(/worker \d+ has ended\n.*starts worker \d+, generation 2\n/)
    assert.equal((await supervised.control('reload')).code, 0)
    assert.equal((await supervised.status()).generation, 3)
  })

  it('waits for the next change when a version fails, also the first one, while clients wait', async () => {
    const supervised = start('syntax error')
    await supervised.logs(/waits for a change or a reload/)
    const answer = supervised.request()
    supervised.write(version('1'))
    assert.equal(await answer, '1')
    supervised.write('process.exit(3)')
    await supervised.logs(/the reload failed: worker \d+ exited with code 3 before it was ready/)
    const { code, stderr } = await supervised.control('reload')
    assert.equal(code, 1)
    assert.match(stderr, /exited with code 3 before it was ready/)
    supervised.write(`${version('2')}; process.on('SIGUSR2', () => process.exit(4))`)
    assert.equal(await supervised.request(), '2')
    const [pid = 0] = await supervised.workers()
    process.kill(pid, 'SIGUSR2')
    await supervised.logs(/worker \d+ exited with code 4\n.*waits for a change or a reload/)
    supervised.run.signal('SIGHUP')
    assert.equal(await supervised.request(), '2')
    assert.match((await supervised.control('scale', '2')).stderr, /with --watch, there is one worker/)
  })

  it('does not wait for a version that is not ready yet, and watches only what matches a glob', async () => {
    const supervised = start('setInterval(() => {}, 1000)', { options: ['--watch=*.mjs'] })
    await supervised.logs(/starts worker/)
    writeFileSync(join(supervised.directory, 'data.json'), '')
    supervised.write(version('1'))
    assert.equal(await supervised.request(), '1')
    assert.doesNotMatch(supervised.run.stderr, /data\.json|more/)
  })

  it('is not started anew by its own log', async () => {
    const before = ['sh', '-c', 'exec "$@" 2>log', 'sh']
    const supervised = start(version('1'), { before })
    const path = join(supervised.directory, 'log')
    const log = () => (existsSync(path) ? readFileSync(path, 'utf8') : '')
    await until(() => /is ready/.test(log()))
    supervised.write(version('2'))
    await until(() => /has reloaded/.test(log()))
    assert.match(log(), /: server\.mjs changed\n.*reloads, generation 2\n/)
  })

  it('says in one line that the kernel permits no more watches, and serves', async function () {
    const limited = ['unshare', '-Ur', 'sh', '-c', 'echo 0 > /proc/sys/user/max_inotify_watches && exec "$@"', 'sh']
    const [program = '', ...args] = limited
    needs(this, program, ...args, 'true')
    const supervised = await start(version('1'), { before: limited }).ready(1)
    assert.equal(supervised.run.stderr.match(/does not see all changes: ENOSPC: .*\n/g)?.length, 1)
    assert.equal(await supervised.request(), '1')
  })
})
