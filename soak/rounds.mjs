// The soak: rounds of clients and disturbances, and between them a look at what is left.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { behaviours } from './behaviours.mjs'
import { Child } from './child.mjs'
import { Outcomes, unexplained } from './outcomes.mjs'
import { mib, thousands } from './report.mjs'

const fileOf = (name) => fileURLToPath(new URL(name, import.meta.url))

// Few enough that they can be used up in no time, and enough for all clients at once and what the server needs itself.
const fdLimit = 400
const clientsAtOnce = 120

/** Of clients that a server never hears of. */
const unheardAt = {
  tagged: { class: 'refused', policy: 'reset at the fd limit' },
  threaded: { class: 'lost with its thread' },
}

class Soak {
  looks = []
  problems = []
  outcomes = new Outcomes(behaviours, unheardAt)
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

  /** Clients and disturbances for so many seconds, and then rest. */
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

  /** What was there before anything was opened, and when all of it is closed. */
  async close() {
    const closed = await this.#server.ask('close', 'closed')
    this.problems.push(...closed.problems)
    await Promise.all([this.#server.end(), this.#clients.end()])
    return closed
  }
}

/** Runs it, for so many rounds behind a warm-up, and gives what is to be reported. */
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
