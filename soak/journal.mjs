// What the server knows of its clients: each from its accept to the end of its connection.
import { idOf } from './protocol.mjs'
import { starved } from './starved.mjs'

/** One connection while it is there. */
class Entry {
  /** Why the server ended it, if not because all was said. */
  policy = undefined
  /** Requests. */
  answered = 0

  constructor(service, id) {
    this.service = service
    this.id = id
    this.starvedBefore = starved()
  }
}

export class Journal {
  /** By the client's number. */
  live = new Map()
  /** The newest. A server gets its connection in the same call as the channel tells of it. */
  latest = undefined
  /** How many connections each service has had. */
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

  /** Of a client that is there. */
  of(address) {
    return address === undefined ? undefined : this.live.get(idOf(address))
  }

  /** The server has decided; the first reason counts. */
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

  /** What has happened since the last time. */
  take() {
    const taken = { ends: this.#ends, problems: this.#problems }
    this.#ends = []
    this.#problems = []
    return taken
  }
}
