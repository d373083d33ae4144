import assert from 'node:assert/strict'
import type tty from 'node:tty'
import { logTo } from '../../src/run/log.js'
import { until } from '../helpers.js'
import { answering, onTerminal, Supervised } from './supervised.js'

describe('The log of async-accept run', function () {
  this.timeout(60_000)

  it('says which workers start, are ready, drain and end, and why, in plain lines', async () => {
    const supervised = await new Supervised(answering, { options: ['-n', '2', '--settle', '0'] }).ready(2)
    await supervised.control('scale', '1')
    await supervised.control('reload')
    await supervised.logs(/has ended/, 2)
    await supervised.control('stop')
    await supervised.run.ended
    const names = new Map<string, string>()
    const name = (pid: string) => names.get(pid) ?? names.set(pid, 'ABC'[names.size] ?? '?').get(pid)
    const lines = supervised.run.stderr.replace(/\(.*\)/, '(ADDRESS)').split('\n')
    const readable = lines.map((line) => line.replace(/\d{2,}/g, (pid) => name(pid) as string))
    // Which of the first two is ready first depends on the scheduler.
    readable.splice(2, 2, ...readable.slice(2, 4).sort())
    assert.deepEqual(readable, [
      'async-accept: server listens on web (ADDRESS)',
      'async-accept: starts workers A, B, generation 1',
      'async-accept: worker A is ready, generation 1',
      'async-accept: worker B is ready, generation 1',
      'async-accept: scales from 2 to 1',
      'async-accept: drains worker B: the target is 1',
      'async-accept: worker B has ended',
      'async-accept: reloads, generation 2',
      'async-accept: starts worker C, generation 2',
      'async-accept: worker C is ready, generation 2',
      'async-accept: drains worker A: replaced',
      'async-accept: has reloaded, generation 2',
      'async-accept: worker A has ended',
      'async-accept: drains worker C: the supervisor is stopping',
      'async-accept: worker C has ended',
      '',
    ])
  })

  it('has the time since the start and colours on a terminal', async () => {
    const env = { TERM: 'xterm', NO_COLOR: undefined }
    const { run } = new Supervised(answering, { options: ['-n', '1'], before: onTerminal, input: true, env })
    await until(() => run.stdout.includes('is ready'))
    const line = run.stdout.split('\r\n').find((each) => each.includes('is ready')) ?? ''
    assert.ok(line.includes(': \x1b[32mworker ') && line.endsWith('1\x1b[39m'), line)
    assert.match(line, /\d+\.\d s/)
    run.child.stdin?.end()
    await run.ended
  })

  it('has no colours on a terminal that shall not have them, as with NO_COLOR', () => {
    const lines: string[] = []
    const terminal = { isTTY: true, hasColors: () => false, write: (line: string) => lines.push(line) }
    logTo(terminal as unknown as tty.WriteStream)('has failed', 'bad')
    assert.match(lines.join(), /^async-accept \d+\.\d s: has failed\n$/)
  })
})
