// Disturbances while clients connect: limits change, servers are drained, threads are terminated, fds run out.
import { closeSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const limits = [0, 2, 10, 30, 100, Number.POSITIVE_INFINITY]

export class Disturbances {
  counts = { 'limits changed': 0, 'servers drained': 0, 'threads terminated': 0, 'fds run out': 0 }
  /** The disturbance in progress. */
  now = ''
  #services
  #chance
  #over = undefined
  #running = []
  #fds = []
  #freed = Promise.resolve()

  constructor(services, chance) {
    this.#services = services
    this.#chance = chance
  }

  begin() {
    this.#over = new AbortController()
    for (const service of this.#services) service.disturbed = true
    this.#running = [
      this.#again(50, 300, () => this.#changeLimit()),
      this.#again(1_500, 4_000, () => this.#restart()),
      this.#again(300, 2_000, () => this.#terminate()),
      this.#again(2_000, 5_000, () => this.#useUpFds()),
    ]
  }

  /** Stops all disturbances, and restores the limits. */
  async end() {
    this.#over?.abort()
    await Promise.all(this.#running)
    for (const service of this.#services) {
      service.disturbed = false
      if ('limit' in service) service.limit = Number.POSITIVE_INFINITY
    }
  }

  /** Resolves when fds are available, which a thread needs to start. */
  fdsAreFree() {
    return this.#freed
  }

  async #again(least, most, disturb) {
    const { signal } = this.#over
    while (!signal.aborted) {
      await sleep(this.#chance.between(least, most), undefined, { signal }).catch(() => {})
      if (!signal.aborted) await disturb()
    }
  }

  #changeLimit() {
    this.counts['limits changed']++
    this.#chance.of(this.#services.filter((service) => 'limit' in service)).limit = this.#chance.of(limits)
  }

  async #restart() {
    this.counts['servers drained']++
    await this.#chance.of(this.#services.filter((service) => 'restart' in service)).restart()
  }

  #terminate() {
    const terminated = this.#services.find((service) => 'terminate' in service).terminate(this.#chance)
    if (terminated) this.counts['threads terminated']++
  }

  async #useUpFds() {
    this.counts['fds run out']++
    this.now = 'no fds'
    let free
    this.#freed = new Promise((resolve) => {
      free = resolve
    })
    await this.#services.find((service) => 'started' in service).started
    // Repeats, to use up the fds that are closed in the meantime.
    const filling = setInterval(() => this.#fill(), 2)
    await sleep(this.#chance.between(200, 800))
    clearInterval(filling)
    for (const fd of this.#fds.splice(0)) closeSync(fd)
    this.now = ''
    free()
  }

  #fill() {
    try {
      for (;;) this.#fds.push(openSync('/dev/null'))
    } catch (error) {
      if (error.code !== 'EMFILE') throw error
    }
  }
}
