// The soak: rounds of clients and disturbances. After each round, it checks which resources are left.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { behaviours } from './behaviours.mjs'
import { Child } from './child.mjs'
import { Outcomes, unexplained } from './outcomes.mjs'
import { mib, thousands } from './report.mjs'

const fileOf = (name) => fileURLToPath(new URL(name, import.meta.url))

// Low enough to be used up quickly, and high enough for all concurrent clients and the server's own fds.
const fdLimit = 400
const clientsAtOnce = 120

/** The outcomes of clients that a service never reports. */
const unreportedAt = {
  tagged: { class: 'refused', policy: 'reset at the fd limit' },
  threaded: { class: 'lost with a terminated thread' },
}

class Soak {
  looks = []
  problems = []
  outcomes = new Outcomes(behaviours, unreportedAt)
  #began = performance.now()
  #tick = { open: 0, queued: 0, now: '' }
  #seed
  #server
  #clients

  constructor(seed) {
    this.#seed = seed
    const limit = ['prlimit', `--nofile=${fdLimit}:${fdLimit}`]
    this.#server = new Child(...limit, process.execPath, '--expose-gc', fileOf('server.mjs'), seed)
    this.#clients = new Child(process.execPath, fileOf('clients.mjs'))
    this.#server.on('journal', ({ ends, problems }) => {
      this.outcomes.fromServer(ends)
      this.problems.push(...problems)
    })
    this.#server.on('tick', (tick) => {
      this.#tick = tick
    })
    this.#clients.on('records', (records) => this.outcomes.fromClients(records))
    this.#clients.on('started', (started) => {
      this.outcomes.started = started
    })
  }

  async open() {
    const [services] = await once(this.#server, 'services')
    this.services = services
    await this.#look()
  }

  /** Runs clients and disturbances for `seconds`, and then waits until the server is idle. */
  async round(seconds, name) {
    const progress = setInterval(this.#progress(name), 3_000)
    this.#server.order('disturb')
    this.#clients.order('go', { services: this.services, count: clientsAtOnce, seed: ++this.#seed * 1_000 })
    await sleep(seconds * 1_000)
    this.#server.order('cease')
    await this.#clients.ask('rest', 'resting')
    await this.#look()
    clearInterval(progress)
  }

  #progress(name) {
    let { started } = this.outcomes
    let since = performance.now()
    return () => {
      const now = performance.now()
      const rate = ((this.outcomes.started - started) * 1_000) / (now - since)
      ;({ started } = this.outcomes)
      since = now
      const figures = [
        `${Math.round((now - this.#began) / 1_000)} s`,
        name,
        `${Math.round(rate)} clients/s`,
        `${thousands(started)} clients`,
        `${this.#tick.open} open`,
        `${this.#tick.queued} queued`,
        `rss ${mib(this.#server.rss)}`,
        `${this.outcomes.sums[unexplained]} unexplained`,
        this.#tick.now,
      ]
      process.stderr.write(`${figures.join('  ').trimEnd()}\n`)
    }
  }

  async #look() {
    const look = await this.#server.ask('calm', 'calm')
    this.outcomes.close()
    this.problems.push(...look.problems, ...this.outcomes.check(look.services), ...this.outcomes.problems.splice(0))
    this.looks.push({ ...look, clients: this.outcomes.started })
  }

  /** Closes everything. Returns the resources before anything was opened, and after everything has closed. */
  async close() {
    const closed = await this.#server.ask('close', 'closed')
    this.problems.push(...closed.problems)
    await Promise.all([this.#server.end(), this.#clients.end()])
    return closed
  }
}

/** Runs a warm-up and `rounds` rounds. Returns the data of the report. */
export async function soak({ seconds, rounds, seed }) {
  const began = performance.now()
  const run = new Soak(seed)
  await run.open()
  await run.round(seconds, 'warm-up')
  for (let round = 1; round <= rounds; round++) await run.round(seconds, `round ${round} of ${rounds}`)
  const closed = await run.close()
  const { outcomes, looks, problems } = run
  return { outcomes, looks, closed, problems, elapsed: (performance.now() - began) / 1_000 }
}
