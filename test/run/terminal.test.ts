import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { temporaryDirectory, until } from '../helpers.js'
import { RunningExample } from '../running-example.js'
import { answering, command, isAlive, onTerminal, Supervised } from './supervised.js'

async function startOnTerminal(code: string) {
  const supervised = new Supervised(code, {
    options: ['-n', '1'],
    before: onTerminal,
    input: true,
  })
  await until(() => /is ready/.test(supervised.run.stdout))
  const [, pid] = await supervised.run.says(/pid (\d+)\./)
  return { supervised, pid: Number(pid), run: supervised.run }
}

describe('async-accept run on a terminal', function () {
  this.timeout(60_000)

  it('drains when the terminal goes away, and reloads at a SIGHUP that was sent', async () => {
    const { run, pid, supervised } = await startOnTerminal(answering)
    process.kill(pid, 'SIGHUP')
    await run.says(/has reloaded, generation 2/)
    const [worker = 0] = await supervised.workers()
    run.child.stdin?.end()
    assert.equal(await run.ended, 0)
    assert.ok(!isAlive(pid) && !isAlive(worker))
  })

  it('drains at Ctrl-C, and ends at once at the second', async () => {
    const { run, pid, supervised } = await startOnTerminal(
      `${answering}; process.on('SIGTERM', () => setInterval(() => {}, 1000))`,
    )
    const [worker = 0] = await supervised.workers()
    run.child.stdin?.write('\x03')
    await until(async () => (await supervised.status()).phase === 'stopping')
    assert.ok(isAlive(worker))
    run.child.stdin?.write('\x03')
    await until(() => !isAlive(worker) && !isAlive(pid))
    run.child.stdin?.end()
  })
})

describe('async-accept status --watch', function () {
  this.timeout(60_000)

  it('draws the status anew in place, cut to the size of the terminal, also after a reload', async () => {
    const options = ['-n', '2', '--settle', '0']
    const supervised = await new Supervised(answering, { options }).ready(2)
    const small = ['sh', '-c', 'stty rows 4 cols 20; exec "$@"', 'sh']
    const run = new RunningExample(supervised.startControl(['status', '--watch'], [...onTerminal, ...small]))
    const screens = () => run.stdout.split('\x1b[H')
    // Before the first one, the terminal is cleared.
    await until(() => screens().length > 3)
    const lines = screens()[2]?.split('\x1b[K\r\n') ?? []
    assert.deepEqual(
      [lines.length, lines[0], lines[1], lines[3]],
      [4, `server (pid ${supervised.pid}): running`.slice(0, 20), 'listens on web (127.', '\x1b[J'],
    )
    await supervised.control('reload')
    const { length } = run.stdout
    await until(() => run.stdout.length > length)
    run.child.stdin?.end()
  })

  it('prints one block after the other elsewhere, and ends with the supervisor or with its reader', async () => {
    const supervised = await new Supervised(answering, { options: ['-n', '1'] }).ready(1)
    const run = new RunningExample(supervised.startControl(['status', '--watch', '--json']))
    const pipe = new RunningExample(
      supervised.startControl(['status', '--watch'], ['sh', '-c', '"$@" | head -n 1', 'sh']),
    )
    assert.equal(await pipe.ended, 0)
    assert.deepEqual([pipe.stdout.split('\n').length, pipe.stderr], [2, ''])
    await until(() => run.stdout.split('\n').length > 2)
    await supervised.control('stop')
    assert.equal(await run.ended, 0)
    assert.equal(run.stderr, 'async-accept status: the supervisor has ended\n')
    for (const line of run.stdout.trimEnd().split('\n')) assert.equal(JSON.parse(line).pid, supervised.pid)
  })
})

describe('The standard output of async-accept', () => {
  it('is reported in one line if it cannot be written, and not if its reader has ended', () => {
    const help = (output: string) => {
      const script = `${output}; "$@" >&4; echo $? >&2`
      const words = ['-c', script, join(temporaryDirectory(), 'fifo'), process.execPath, command, '--help']
      return String(spawnSync('sh', words).stderr)
    }
    assert.equal(help('exec 4>/dev/full'), 'async-accept --help: ENOSPC: no space left on device, write\n1\n')
    // Closes the reading end before the program starts.
    assert.equal(help('mkfifo "$0" && exec 3<>"$0" 4>"$0" 3<&-'), '1\n')
  })
})
