// Random steps with real workers: what happens to them in years, in minutes. Each look at the supervisor must find its
// promises kept.
import { setTimeout as sleep } from 'node:timers/promises'
import { table } from '../../bench/report.mjs'
import { random } from '../protocol.mjs'
import { thousands } from '../report.mjs'
import { isAlive, Supervisor, waitFor } from './supervisor.mjs'

const first = 3
const mostWorkers = 5
// So that hanging workers do not take long.
const options = [
  '--settle',
  '0',
  '--watchdog',
  '2',
  '--start-timeout',
  '3',
  '--drain-timeout',
  '1',
  '--kill-after',
  '1',
]
// Steps until everything must become ready.
const untilCalm = 100

const good = `
  import http from 'node:http'
  process.on('SIGUSR2', () => { for (;;); })
  for (const port of [3000, 3001, 3002, 3003]) http.createServer((request, response) => response.end()).listen(port)
`
const broken = [
  'throw new Error("broken")',
  'setInterval(() => {}, 1000)',
  'process.exit(3)',
  `${good}; process.exit(4)`,
]

class Steps {
  problems = []
  counts = {}
  mostProcesses = 0
  looks = 0
  #chance
  #supervisor
  #target = first
  /** Workers that were made to fail, and may not have ended yet. */
  #hurt = new Set()
  /** Whether fewer workers may be ready than the target: some were made to fail, or shall be more. */
  #mayLack = true
  /** The most workers that may drain or be killed at a time. */
  #mayDrain = first + 1
  /** The last look at the workers. */
  #workers = []
  /** Whether no worker is made to fail, so that the number of those that are ready is always checked. */
  #isGentle = false
  #asked = 0
  #answered = 0
  #logRead = 0

  constructor(seed) {
    this.#chance = random(seed)
  }

  async start() {
    this.#supervisor = await Supervisor.start(first, options, { code: good })
    this.#target = first
    this.#workers = []
    this.#mayLack = true
    this.#hurt.clear()
    this.#logRead = 0
  }

  /** Sends a command. Every command must be answered. */
  async #command(request) {
    this.#asked++
    const answer = await this.#supervisor.ask(request)
    this.#answered++
    return answer
  }

  #scale(target, run) {
    if (target < 1 || target > mostWorkers) return
    if (target > this.#target) this.#mayLack = true
    else this.#mayDrain += this.#target - target
    this.#target = target
    run()
  }

  #scaleTo(target) {
    this.#scale(target, () => void this.#command({ command: 'scale', target }))
  }

  // Only a worker whose program runs. A process that is stopped before would keep spawn(), which waits for the program.
  #injure(signal) {
    if (this.#isGentle || this.#workers.length === 0) return
    const { pid } = this.#chance.of(this.#workers)
    this.#hurt.add(pid)
    this.#mayLack = true
    this.#mayDrain++
    try {
      process.kill(pid, signal)
    } catch {}
  }

  #steps = {
    reload: [10, () => void this.#command({ command: 'reload' })],
    HUP: [4, () => this.#supervisor.signal('SIGHUP')],
    TTIN: [4, () => this.#scale(this.#target + 1, () => this.#supervisor.signal('SIGTTIN'))],
    TTOU: [4, () => this.#scale(this.#target - 1, () => this.#supervisor.signal('SIGTTOU'))],
    scale: [6, () => this.#scaleTo(this.#chance.between(1, mostWorkers))],
    crash: [10, () => this.#injure('SIGKILL')],
    'end by SIGTERM': [3, () => this.#injure('SIGTERM')],
    'stop by SIGSTOP': [2, () => this.#injure('SIGSTOP')],
    'endless loop': [2, () => this.#injure('SIGUSR2')],
    'broken version': [3, () => this.#supervisor.write(this.#chance.of(broken))],
    'good version': [5, () => this.#supervisor.write(good)],
    pause: [20, () => sleep(this.#chance.below(300))],
    stop: [0.2, () => this.#restart()],
  }

  async step() {
    const choices = Object.entries(this.#steps).map(([name, [weight]]) => [name, weight])
    const name = this.#chance.weighed(choices)
    this.counts[name] = (this.counts[name] ?? 0) + 1
    await this.#steps[name][1]()
    await this.#look()
  }

  async #look() {
    const before = await this.#supervisor.status()
    const children = this.#supervisor.children()
    const status = await this.#supervisor.status()
    const { workers, ready } = status
    this.looks++
    this.#workers = workers
    this.mostProcesses = Math.max(this.mostProcesses, children.length)
    const known = new Set([...before.workers, ...workers].map(({ pid }) => pid))
    const strangers = children.filter((pid) => !known.has(pid))
    if (strangers.length > 0) this.#problem(`unknown children ${strangers}`, status)
    const live = workers.filter(({ state }) => state === 'starting' || state === 'ready').length
    // A signal may not have arrived yet.
    const target = Math.max(this.#target, status.target)
    if (live > target + 1) this.#problem(`${live} workers for a target of ${target}`, status)
    const draining = workers.length - live
    if (draining > this.#mayDrain) this.#problem(`${draining} workers drain`, status)
    if (draining === 0) this.#mayDrain = 0
    this.#mayDrain = Math.max(this.#mayDrain, target + 1)
    this.#readLog()
    for (const pid of this.#hurt) if (!workers.some((worker) => worker.pid === pid)) this.#hurt.delete(pid)
    if (ready < status.target && !this.#mayLack) this.#problem(`${ready} of ${status.target} are ready`, status)
    if (ready >= status.target && this.#hurt.size === 0 && status.target === this.#target) this.#mayLack = false
  }

  // A worker that had no CPU for the time of the watchdog counts as one that fails.
  #readLog() {
    const text = this.#supervisor.log.slice(this.#logRead)
    this.#logRead += text.length
    if (/sent no watchdog notification/.test(text)) this.#mayLack = true
  }

  #problem(what, status) {
    const log = this.#supervisor.log.split('\n').slice(-12).join('\n  ')
    this.problems.push(`${what}: ${JSON.stringify(status)}\n  ${log}`)
  }

  /** With a good version, everything becomes ready, and every command is answered. */
  async calm() {
    this.#supervisor.write(good)
    // One that begins before the last may fail because of a worker that was hurt.
    let verdict
    for (let i = 0; i < 5 && !verdict?.ok; i++) verdict = await this.#command({ command: 'reload' })
    if (!verdict.ok) this.#problem(`does not reload to a good version: ${verdict.reason}`)
    const isCalm = async () => {
      const { workers, target, ready, reloading } = await this.#supervisor.status()
      return ready === target && workers.length === target && !reloading && this.#asked === this.#answered
    }
    await waitFor('calm', isCalm).catch(({ message }) => this.#problem(message))
    this.#isGentle = !this.#isGentle
    if (this.#supervisor.zombies().length > 0) this.#problem('zombies')
    await this.#look()
  }

  async #restart() {
    const children = this.#supervisor.children()
    await this.stop()
    if (children.some(isAlive)) this.#problem(`left ${children.filter(isAlive)}`)
    await this.start()
  }

  async stop() {
    await this.#supervisor.stop()
    await waitFor('answers', () => this.#asked === this.#answered)
  }
}

/** Does `count` random steps. Prints a report, and returns whether all went well. */
export async function steps(count, seed) {
  const run = new Steps(seed)
  await run.start()
  for (let i = 1; i <= count; i++) {
    await run.step()
    if (i % untilCalm !== 0) continue
    await run.calm()
    process.stderr.write(`step ${i} of ${count}  ${run.problems.length} problems\n`)
  }
  await run.stop()
  const rows = Object.entries(run.counts).sort(([, a], [, b]) => b - a)
  console.log(
    table({ title: 'Steps', columns: ['step', 'count'], rows: rows.map(([name, n]) => [name, thousands(n)]) }),
  )
  console.log(`${thousands(run.looks)} looks at the supervisor; at most ${run.mostProcesses} processes\n`)
  for (const problem of run.problems.slice(0, 10)) console.log(`soak: ${problem}`)
  const { length } = run.problems
  console.log(`soak: ${length === 0 ? 'passed: the supervisor has kept its promises' : `failed: ${length} problems`}`)
  return length === 0
}
