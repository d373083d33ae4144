import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { until } from '../helpers.js'
import { needs } from '../needs.js'
import { Supervised } from './supervised.js'

const namespace = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']

/** Answers with the pid of a grandchild that was orphaned, and has ended or ends soon. */
const orphaning = `
  import { spawn } from 'node:child_process'
  import http from 'node:http'
  http.createServer((request, response) => {
    const shell = spawn('sh', ['-c', '(sleep 0.1 & echo $!)'], { stdio: ['ignore', 'pipe', 'inherit'] })
    shell.stdout.once('data', (pid) => response.end(String(pid).trim()))
  }).listen(3000)
`

/** The states of the processes below a process, outside of its namespace. */
function statesBelow(pid: number): string[] {
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return all.flatMap((name) => {
    try {
      const [, state = '', parent] = /\) (\S) (\d+) /.exec(readFileSync(`/proc/${name}/stat`, 'utf8')) ?? []
      return Number(parent) === pid ? [state, ...statesBelow(Number(name))] : []
    } catch {
      return []
    }
  })
}

describe('async-accept run as PID 1', function () {
  this.timeout(60_000)

  it('releases the processes that are orphaned to it, and ends at SIGTERM', async function () {
    const [program = '', ...words] = namespace
    needs(this, program, ...words, 'true')
    const supervised = await new Supervised(orphaning, { options: ['-n', '1'], before: namespace }).ready(1)
    // Of unshare, the supervisor and the worker.
    for (let i = 0; i < 5; i++) assert.match(await supervised.request(), /^\d+$/)
    await until(() => statesBelow(supervised.pid).length === 2)
    assert.ok(!statesBelow(supervised.pid).includes('Z'))
    assert.equal((await supervised.status()).pid, 1)
    execFileSync('pkill', ['-TERM', '-P', String(supervised.pid)])
    assert.equal(await supervised.run.ended, 0)
  })
})
