// What became of every client: what it saw itself, against what the server has noted of it.

import { unusedGrace } from './protocol.mjs'

export const unexplained = 'unexplained'
export const classes = ['answered', 'refused', 'itself', 'lost with its thread', unexplained]

/** A drain ended it, before the server got it. */
export const cutOff = 'cut off by a drain'

// A server may do these to any client, whatever it does.
const anybody = ['drained', 'its thread was terminated', cutOff]

/** For those that take too long. */
export const tooLate = ['silent too long', 'ERR_HTTP_REQUEST_TIMEOUT', 'ERR_PEEK_TIMEOUT', 'ERR_TLS_HANDSHAKE_TIMEOUT']

// ms without a CPU, of either side, that excuse a client that means well and is late: a fifth of a server's patience.
const muchStarved = 1_000

const allows = (by, policy) =>
  by.some((each) => (each instanceof RegExp ? each.test(policy) : each === policy)) || anybody.includes(policy)

/**
 * The class of one client, and within 'refused' the policy. `client`: `{ saw, detail, answered, lasted, starved }`. `server`:
 * `{ policy, answered, starved }`, or undefined when the server never had it. `by`: the policies by which it had it coming.
 * `unheard`: what becomes at this service of clients of which nobody says anything, if that can be.
 */
export function outcome(client, server, { by = [], unheard } = {}) {
  const { saw, detail } = client
  const no = (why) => ({ class: unexplained, why: `${why}: ${saw} ${detail}` })
  if (server === undefined && unheard === undefined) return no('the server never had it')
  if (saw === 'itself') return { class: 'itself' }
  if (saw === 'answered') {
    if (server === undefined) return no('the server never had it')
    if (server.policy === undefined || anybody.includes(server.policy)) return { class: 'answered' }
    return no(`the server had refused it: ${server.policy}`)
  }
  if (saw !== 'cut') return no('not a way to end')
  if (server === undefined) return unheard
  const { policy } = server
  if (policy === undefined) return no('the server believes that it has answered')
  if (!allows(by, policy)) {
    const waited = Math.round(client.starved + server.starved)
    if (tooLate.includes(policy) && waited > muchStarved)
      return { class: 'refused', policy: `${policy}, for want of CPU` }
    return no(`refused without a reason: ${policy}, ${waited} ms without a CPU`)
  }
  // Not by the drain: it had been refused before, and nobody was told.
  if (policy === cutOff && client.lasted < unusedGrace) return no(`cut off by a drain after ${client.lasted} ms`)
  if (policy === 'its thread was terminated') return { class: 'lost with its thread' }
  if (policy === 'drained' && server.answered > client.answered + 1) {
    return no(`drained, but ${server.answered} answers were sent and ${client.answered} came`)
  }
  return { class: 'refused', policy }
}

/** Brings together what the two sides say, one client at a time, and forgets it. */
export class Outcomes {
  started = 0
  /** By class. */
  sums = Object.fromEntries(classes.map((name) => [name, 0]))
  /** Of refused clients. */
  policies = {}
  /** By service: clients that came, and those of which the server said nothing. */
  came = {}
  unheard = {}
  problems = []
  #behaviours
  #clients = new Map()
  #ends = new Map()
  #unheardAt

  /** `unheardAt`: by service, the outcome of clients of which the server cannot say anything. */
  constructor(behaviours, unheardAt) {
    this.#behaviours = new Map(behaviours.map((each) => [each.name, each]))
    this.#unheardAt = unheardAt
  }

  get settled() {
    return Object.values(this.sums).reduce((sum, count) => sum + count, 0)
  }

  fromClients(records) {
    for (const record of records) {
      const server = this.#ends.get(record.id)
      this.#ends.delete(record.id)
      if (server) this.#settle(record, server)
      else this.#clients.set(record.id, record)
    }
  }

  fromServer(ends) {
    for (const end of ends) {
      const client = this.#clients.get(end.id)
      this.#clients.delete(end.id)
      if (client) this.#settle(client, end)
      else this.#ends.set(end.id, end)
    }
  }

  /** Both sides have said all that they had to say. */
  close() {
    for (const client of this.#clients.values()) this.#settle(client, undefined)
    this.#clients.clear()
    for (const [id, { service }] of this.#ends) this.problems.push(`${service}: a client ${id} that nobody started`)
    this.#ends.clear()
  }

  #settle(client, server) {
    const { service, behaviour } = client
    this.came[service] = (this.came[service] ?? 0) + 1
    const result = outcome(client, server, {
      by: this.#behaviours.get(behaviour).by,
      unheard: this.#unheardAt[service],
    })
    if (server === undefined) this.unheard[service] = (this.unheard[service] ?? 0) + 1
    else if (server.service !== service) this.problems.push(`${service}: client ${client.id} came to ${server.service}`)
    this.sums[result.class]++
    if (result.policy) this.policies[result.policy] = (this.policies[result.policy] ?? 0) + 1
    if (result.why) this.problems.push(`${service}, ${behaviour}, client ${client.id}: ${result.why}`)
  }

  /** What does not add up. `server`: the counters of its services, since the beginning. */
  check(server) {
    const problems = []
    const equal = (what, left, right) => {
      if (left !== right) problems.push(`${what}: ${left} and ${right}`)
    }
    equal('started, and with an outcome', this.started, this.settled)
    for (const { name, accepted, terminated, stats } of server) {
      const came = this.came[name] ?? 0
      const unheard = this.unheard[name] ?? 0
      equal(`${name}: came, and accepted or never heard of`, came, accepted + unheard)
      if (terminated === undefined) {
        equal(`${name}: accepted by its account, and by the listener's`, accepted, stats.accepted)
        equal(`${name}: never heard of, and reset at the fd limit`, unheard, stats.reset)
      } else if (unheard > terminated) {
        problems.push(`${name}: ${unheard} never heard of, by ${terminated} terminated threads`)
      }
    }
    return problems
  }
}
