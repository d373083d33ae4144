// The outcome of every client, from its own record and that of the server.

import { unusedGrace } from './protocol.mjs'

export const unexplained = 'unexplained'
export const classes = ['answered', 'refused', 'left', 'lost with a terminated thread', unexplained]

/** A drain ended the connection before the server received it. */
export const cutOff = 'closed by a drain'

// Policies that may end the connection of any client, regardless of its behaviour.
const unconditional = ['drained', 'thread terminated', cutOff]

/** Policies for clients that take too long. */
export const tooLate = ['idle timeout', 'ERR_HTTP_REQUEST_TIMEOUT', 'ERR_PEEK_TIMEOUT', 'ERR_TLS_HANDSHAKE_TIMEOUT']

// In ms, for both sides together: waiting for a CPU this long excuses a timeout of a well-behaved client. It is a fifth
// of a server's timeout.
const excusingStarvation = 1_000

const allows = (by, policy) =>
  by.some((each) => (each instanceof RegExp ? each.test(policy) : each === policy)) || unconditional.includes(policy)

/**
 * Returns the class of one client, and for 'refused' the policy.
 * `client`: `{ saw, detail, answered, lasted, starved }`.
 * `server`: `{ policy, answered, starved }`, or undefined without a record.
 * `by`: the policies that the behaviour of the client justifies.
 * `unreported`: the outcome without a server record; undefined where that is an error.
 */
export function outcome(client, server, { by = [], unreported } = {}) {
  const { saw, detail } = client
  const unexplainedBecause = (why) => ({ class: unexplained, why: `${why}: ${saw} ${detail}` })
  if (server === undefined && unreported === undefined) return unexplainedBecause('the server has no record')
  if (saw === 'left') return { class: 'left' }
  if (saw === 'answered') {
    if (server === undefined) return unexplainedBecause('the server has no record')
    if (server.policy === undefined || unconditional.includes(server.policy)) return { class: 'answered' }
    return unexplainedBecause(`refused by the server: ${server.policy}`)
  }
  if (saw !== 'cut') return unexplainedBecause('invalid end')
  if (server === undefined) return unreported
  const { policy } = server
  if (policy === undefined) return unexplainedBecause('the server recorded a normal end')
  if (!allows(by, policy)) {
    const waited = Math.round(client.starved + server.starved)
    if (tooLate.includes(policy) && waited > excusingStarvation)
      return { class: 'refused', policy: `${policy}, CPU shortage` }
    return unexplainedBecause(`refused without a reason: ${policy}, ${waited} ms without a CPU`)
  }
  // The drain cannot be the cause: the connection was refused earlier, without a 'refused' event.
  if (policy === cutOff && client.lasted < unusedGrace)
    return unexplainedBecause(`closed by a drain after ${client.lasted} ms`)
  if (policy === 'thread terminated') return { class: 'lost with a terminated thread' }
  if (policy === 'drained' && server.answered > client.answered + 1) {
    return unexplainedBecause(`drained, but ${server.answered} responses were sent and ${client.answered} received`)
  }
  return { class: 'refused', policy }
}

/** Matches the records of both sides, one client at a time, and keeps only sums. */
export class Outcomes {
  started = 0
  /** The number of clients by class. */
  sums = Object.fromEntries(classes.map((name) => [name, 0]))
  /** The number of refused clients by policy. */
  policies = {}
  /** By service: the number of clients, and the number of those without a server record. */
  arrived = {}
  unreported = {}
  problems = []
  #behaviours
  #clients = new Map()
  #ends = new Map()
  #unreportedAt

  /** `unreportedAt`: by service, the outcome of clients without a server record. */
  constructor(behaviours, unreportedAt) {
    this.#behaviours = new Map(behaviours.map((each) => [each.name, each]))
    this.#unreportedAt = unreportedAt
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

  /** Called when all records of both sides have arrived. Settles what is left. */
  close() {
    for (const client of this.#clients.values()) this.#settle(client, undefined)
    this.#clients.clear()
    for (const [id, { service }] of this.#ends) this.problems.push(`${service}: unknown client ${id}`)
    this.#ends.clear()
  }

  #settle(client, server) {
    const { service, behaviour } = client
    this.arrived[service] = (this.arrived[service] ?? 0) + 1
    const result = outcome(client, server, {
      by: this.#behaviours.get(behaviour).by,
      unreported: this.#unreportedAt[service],
    })
    if (server === undefined) this.unreported[service] = (this.unreported[service] ?? 0) + 1
    else if (server.service !== service)
      this.problems.push(`${service}: client ${client.id} was accepted by ${server.service}`)
    this.sums[result.class]++
    if (result.policy) this.policies[result.policy] = (this.policies[result.policy] ?? 0) + 1
    if (result.why) this.problems.push(`${service}, ${behaviour}, client ${client.id}: ${result.why}`)
  }

  /** Returns the counters that do not match. `server`: the counters of its services since the start. */
  check(server) {
    const problems = []
    const equal = (what, left, right) => {
      if (left !== right) problems.push(`${what}: ${left}, ${right}`)
    }
    equal('clients started, clients with an outcome', this.started, this.settled)
    for (const { name, accepted, terminated, stats } of server) {
      const arrived = this.arrived[name] ?? 0
      const unreported = this.unreported[name] ?? 0
      equal(`${name}: clients, accepted and unreported clients`, arrived, accepted + unreported)
      if (terminated === undefined) {
        equal(`${name}: accepted by the service, accepted by the listener`, accepted, stats.accepted)
        equal(`${name}: unreported, reset at the fd limit`, unreported, stats.reset)
      } else if (unreported > terminated) {
        problems.push(`${name}: ${unreported} unreported clients, but only ${terminated} terminated threads`)
      }
    }
    return problems
  }
}
