// The server's record of its clients, each from accept to the end of its connection.
import { idOf } from './protocol.mjs'
import { starved } from './starved.mjs'

/** One open connection. */
class Entry {
  /** The reason why the server ended the connection; undefined for a normal end. */
  policy = undefined
  /** The number of answered requests. */
  answered = 0

  constructor(service, id) {
    this.service = service
    this.id = id
    this.starvedBefore = starved()
  }
}

export class Journal {
  /** Open connections by the number of the client. */
  live = new Map()
  /** The newest entry. A server receives its connection synchronously after the diagnostics channel's message. */
  latest = undefined
  /** The number of accepted connections, by service. */
  accepted = {}
  #ends = []
  #problems = []

  accept(service, address) {
    const id = idOf(address)
    if (this.live.has(id)) this.problem(`${service}: client ${id} was accepted twice`)
    this.latest = new Entry(service, id)
    this.live.set(id, this.latest)
    this.accepted[service] = (this.accepted[service] ?? 0) + 1
  }

  /** Returns the entry of a connected client. */
  of(address) {
    return address === undefined ? undefined : this.live.get(idOf(address))
  }

  /** Records the reason why the server ends a connection. The first reason counts. */
  refuse(entry, policy) {
    if (entry !== undefined) entry.policy ??= policy
  }

  end(entry) {
    if (!this.live.delete(entry.id)) this.problem(`${entry.service}: client ${entry.id} ended twice`)
    const { id, service, policy, answered, starvedBefore } = entry
    this.#ends.push({ id, service, policy, answered, starved: starved() - starvedBefore })
  }

  problem(text) {
    this.#problems.push(text)
  }

  /** Returns the ends and the problems since the last call. */
  take() {
    const taken = { ends: this.#ends, problems: this.#problems }
    this.#ends = []
    this.#problems = []
    return taken
  }
}
