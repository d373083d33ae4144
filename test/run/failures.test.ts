import assert from 'node:assert/strict'
import { until } from '../helpers.js'
import { answering, isAlive, Supervised } from './supervised.js'

/** Versions of a program that must not replace one that works, and what the reload says. */
const broken: Record<string, { code: string; options?: readonly string[]; reason: RegExp }> = {
  throws: { code: `throw new Error('broken')`, reason: /^worker \d+ exited with code 1 before it was ready$/ },
  'exits with its own code': { code: 'process.exit(7)', reason: /^worker \d+ exited with code 7 before it was ready$/ },
  'ends by a signal': {
    code: `process.kill(process.pid, 'SIGKILL')`,
    reason: /^worker \d+ was ended by SIGKILL before it was ready$/,
  },
  'never listens': {
    code: 'setInterval(() => {}, 1000)',
    options: ['--start-timeout', '2'],
    reason: /^worker \d+ was not ready after 2 s$/,
  },
  'listens on another port only': {
    code: answering.replace('3000', '0'),
    options: ['--start-timeout', '2'],
    reason: /^worker \d+ was not ready after 2 s$/,
  },
  'listens and exits soon': {
    code: `${answering}; setTimeout(() => process.exit(3), 1000)`,
    reason: /^worker \d+ exited with code 3$/,
  },
  'says why it fails': {
    code: `import { notify } from 'async-accept'; notify({ status: 'no database' }); process.exitCode = 1`,
    reason: /^worker \d+ exited with code 1 before it was ready; its last status: "no database"$/,
  },
}

describe('async-accept reload, to a version that fails', function () {
  this.timeout(60_000)

  for (const [how, { code, options = [], reason }] of Object.entries(broken)) {
    it(`leaves the workers as they are: a version that ${how}`, async () => {
      const supervised = new Supervised(answering, { options: ['-n', '2', ...options], inPackage: true })
      await supervised.ready(2)
      const before = await supervised.workers()
      supervised.write(code)
      const reload = await supervised.control('reload')
      assert.equal(reload.code, 1)
      assert.match(reload.stderr.replace('async-accept reload: ', '').trim(), reason)
      const { workers, ready, target } = await supervised.status()
      assert.deepEqual(
        workers.map(({ pid }) => pid),
        before,
      )
      assert.ok(ready === target && workers.every(({ stale }) => !stale))
      assert.equal(supervised.run.stderr.match(/starts worker.*, generation 2/g)?.length, 1)
      assert.ok(before.includes(Number(await supervised.request())))
    })
  }

  it('reloads to a version that works again', async () => {
    const supervised = await new Supervised(answering, { options: ['-n', '1'] }).ready(1)
    supervised.write('process.exit(1)')
    assert.equal((await supervised.control('reload')).code, 1)
    supervised.write(answering)
    const [before] = await supervised.workers()
    assert.equal((await supervised.control('reload')).code, 0)
    const [after] = await supervised.workers()
    assert.notEqual(after, before)
    await until(() => !isAlive(before as number))
  })
})

describe('async-accept run, at the first start', function () {
  this.timeout(60_000)

  it('exits with the code of the worker if none gets ready', async () => {
    const supervised = new Supervised('process.exit(7)', { options: ['-n', '2'] })
    assert.equal(await supervised.run.ended, 7)
    assert.match(supervised.run.stderr, /worker \d+ exited with code 7 before it was ready/)
  })

  it('exits with 1 if the worker exits with 0, and if no worker is ready in time', async () => {
    assert.equal(await new Supervised('', { options: ['-n', '1'] }).run.ended, 1)
    const idle = new Supervised('setInterval(() => {}, 1000)', { options: ['-n', '1', '--start-timeout', '0.5'] })
    assert.equal(await idle.run.ended, 1)
    assert.equal(idle.run.stderr.match(/was not ready after 0.5 s/g)?.length, 1)
  })

  it('exits with 127 if the program does not exist, or with 1 if a file for Node does not', async () => {
    const supervised = new Supervised('', { options: ['-n', '1'], program: ['--exec', '--', '/does/not/exist'] })
    assert.equal(await supervised.run.ended, 127)
    assert.match(supervised.run.stderr, /: worker cannot start: spawn \S+ ENOENT\n$/)
    const file = new Supervised('', { options: ['-n', '1'], program: ['does-not-exist.mjs'] })
    assert.equal(await file.run.ended, 1)
    assert.match(file.run.stderr, /does-not-exist.mjs(.|\n)*worker \d+ exited with code 1 before it was ready\n$/)
  })

  it('prints one line and exits with 2 if it has no address, or with 1 if the address is in use', async () => {
    const supervised = await new Supervised(answering, { options: ['-n', '1'] }).ready(1)
    const options = { addresses: [], options: ['-n', '1'], env: { PORT: '' } }
    const without = new Supervised(answering, options)
    assert.equal(await without.run.ended, 2)
    assert.equal(without.run.stderr, 'async-accept run: no address to listen on: use -l, $PORT or socket activation\n')
    const used = new Supervised(answering, { addresses: [`127.0.0.1:${supervised.port}`] })
    assert.equal(await used.run.ended, 1)
    assert.match(used.run.stderr, /^async-accept run: bind EADDRINUSE: .* 127\.0\.0\.1:\d+\n$/)
  })

  it('serves with those that are ready, and starts the others again', async () => {
    const flaky = `
      import { mkdirSync } from 'node:fs'
      let first = false
      try { mkdirSync(process.argv[1] + '.once'); first = true } catch {}
      if (first) process.exit(1)
      ${answering}
    `
    const supervised = await new Supervised(flaky, { options: ['-n', '2'] }).ready(2)
    assert.equal((await supervised.status()).failures, 1)
    assert.equal((await supervised.workers()).length, 2)
  })
})
