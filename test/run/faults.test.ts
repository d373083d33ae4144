import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'
import { needs, needsStrace, skip } from '../needs.js'
import { answering, isAlive, Supervised, start } from './supervised.js'

/** Answers with its pid, and does at a path what a fault does. */
const faulty = (path: string, what: string) => `
  import { spawn } from 'node:child_process'
  import http from 'node:http'
  const server = http.createServer((request, response) => {
    if (request.url === '${path}') ${what}
    response.end(String(process.pid))
  }).listen(3000)
`

/** A file system of that size with no free block. */
function fullDisk(context: Mocha.Context, size: number): string {
  const directory = join(temporaryDirectory(), 'full')
  mkdirSync(directory)
  const words = ['-t', 'tmpfs', '-o', `mode=755,size=${size}`, 'tmpfs', directory]
  if (spawnSync('mount', words).status !== 0) skip(context, 'mounting a file system is not permitted')
  cleanUp(() => spawnSync('umount', ['--lazy', directory]))
  writeFileSync(join(directory, 'fill'), Buffer.alloc(size))
  return directory
}

describe('async-accept run, when the system has no room', function () {
  this.timeout(60_000)

  it('starts a worker again as soon as it can open fds', async function () {
    needs(this, 'prlimit', '--version')
    const supervised = await start(1)
    const [worker = 0] = await supervised.workers()
    const limit = (files: string) => spawnSync('prlimit', ['--pid', String(supervised.pid), `--nofile=${files}`])
    limit('3:')
    process.kill(worker, 'SIGKILL')
    await supervised.logs(/cannot start a worker: .*EMFILE/)
    limit('1024:')
    await supervised.ready(2)
  })

  it('starts a worker again as soon as it can create processes', async function () {
    needsStrace(this)
    const supervised = await start(1)
    const [worker = 0] = await supervised.workers()
    const inject = 'inject=fork,vfork,clone,clone3:error=ENOMEM'
    const words = ['-f', '-qq', '-o', '/dev/null', '-e', inject, '-p', String(supervised.pid)]
    const strace = spawn('strace', words, { stdio: 'ignore' })
    cleanUp(() => strace.kill('SIGKILL'))
    await until(() => /^TracerPid:\s+[1-9]/m.test(readFileSync(`/proc/${supervised.pid}/status`, 'utf8')))
    process.kill(worker, 'SIGKILL')
    await supervised.logs(/cannot start a worker: spawn .*ENOMEM/)
    strace.kill('SIGTERM')
    await once(strace, 'exit')
    await supervised.ready(2)
  })

  it('ends with one line if the disk of its sockets is full', async function () {
    const env = { ASYNC_ACCEPT_RUN_DIRECTORY: fullDisk(this, 4096) }
    const supervised = new Supervised(answering, { env, options: ['-n', '1'] })
    assert.equal(await supervised.run.ended, 1)
    assert.equal(supervised.run.stderr, 'async-accept run: ENOSPC: no space left on device, write\n')
    assert.deepEqual(readdirSync(env.ASYNC_ACCEPT_RUN_DIRECTORY), ['fill'])
  })

  it('serves and reloads while the disk of its log is full', async () => {
    const before = ['sh', '-c', 'exec "$@" 2>/dev/full', 'sh']
    const supervised = new Supervised(answering, { before, options: ['-n', '1', '--settle', '0'] })
    await until(async () => (await supervised.status().catch(() => undefined))?.ready === 1)
    const { code, stderr } = await supervised.control('reload')
    assert.deepEqual([code, stderr], [0, ''])
    assert.equal((await supervised.status()).generation, 2)
    assert.equal((await supervised.control('stop')).code, 0)
  })

  it('serves, reloads and stops while its output is not read', async () => {
    const flood = `process.stdout.write('x'.repeat(2 ** 20)), process.stderr.write('x'.repeat(2 ** 20))`
    const supervised = await start(1, faulty('/flood', flood), '--settle', '0')
    const { stdout, stderr } = supervised.run.child
    const [worker] = await supervised.workers()
    for (const stream of [stdout, stderr]) stream?.pause()
    assert.equal(await supervised.request('/flood'), String(worker))
    assert.equal((await supervised.control('reload')).code, 0)
    assert.notEqual(await supervised.request(), String(worker))
    assert.equal((await supervised.control('stop')).code, 0)
    for (const stream of [stdout, stderr]) stream?.resume()
    assert.equal(await supervised.run.ended, 0)
  })
})

describe('A worker of async-accept run', function () {
  this.timeout(60_000)

  it('is replaced by a reload if it has stopped itself with SIGSTOP', async () => {
    const stopping = faulty('/stop', `process.kill(process.pid, 'SIGSTOP')`)
    const options = ['--settle', '0', '--drain-timeout', '0.1', '--kill-after', '0.1']
    const supervised = await start(1, stopping, ...options)
    const [worker = 0] = await supervised.workers()
    supervised.request('/stop').catch(() => {})
    await until(() => /^State:\s+T/m.test(readFileSync(`/proc/${worker}/status`, 'utf8')))
    assert.equal((await supervised.control('reload')).code, 0)
    await supervised.logs(new RegExp(`worker ${worker} has ended: it had not ended 0.1 s after SIGTERM`))
  })

  it('may leave children that keep the listening socket', async () => {
    const stdio = `['ignore', 'ignore', 'ignore', server._handle]`
    const keeping = faulty('/child', `return response.end(String(spawn('sleep', ['1000'], { stdio: ${stdio} }).pid))`)
    const supervised = await start(1, keeping, '--settle', '0')
    const child = Number(await supervised.request('/child'))
    cleanUp(() => process.kill(child, 'SIGKILL'))
    assert.equal((await supervised.control('reload')).code, 0)
    for (let i = 0; i < 10; i++) assert.match(await supervised.request(), /^\d+$/)
    assert.equal((await supervised.control('stop')).code, 0)
    assert.equal(await supervised.run.ended, 0)
    assert.ok(isAlive(child))
  })
})

describe('src/run', () => {
  it('does not depend on the time of day, which may jump', () => {
    for (const name of readdirSync('src/run')) {
      assert.doesNotMatch(readFileSync(join('src/run', name), 'utf8'), /\bDate\b|timeOrigin/, name)
    }
  })
})
