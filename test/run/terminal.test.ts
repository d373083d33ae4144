import assert from 'node:assert/strict'
import { until } from '../helpers.js'
import { answering, isAlive, Supervised } from './supervised.js'

/** Runs a command on a terminal of its own, whose name is printed. When standard input ends, the terminal goes away. */
const onTerminal = `
import os, pty, sys, select
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
print(f'pid {pid}.', flush=True)
while True:
    for each in select.select([0, fd], [], [])[0]:
        data = os.read(each, 4096)
        if each == 0 and not data:
            os.close(fd)
            os.waitpid(pid, 0)
            sys.exit(0)
        os.write(1 if each == fd else fd, data)
`

async function startOnTerminal(code: string) {
  const supervised = new Supervised(code, {
    options: ['-n', '1'],
    before: ['python3', '-c', onTerminal],
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
