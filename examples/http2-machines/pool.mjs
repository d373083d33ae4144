// The machines: `size` of them always wait for a connection.
import { Machine } from './machine.mjs'

const states = ['listening', 'handshake', 'connected', 'closing']

export class Pool {
  /** All machines by their ref, which is unique: a machine makes one request. */
  machines = new Map()
  listener
  server
  #size
  #last = [] // the machines that got a connection most recently, newest first
  #drained // set during a drain

  constructor(listener, server, size) {
    this.listener = listener
    this.server = server
    this.#size = size
  }

  /** Adds machines until `size` of them wait. */
  fill() {
    while (this.#drained === undefined && this.listener.pending < this.#size) {
      const machine = new Machine(this)
      this.machines.set(machine.ref, machine)
    }
  }

  /** Gives a connection to the machine that requested it. */
  accepted(ref, connection) {
    const machine = this.machines.get(ref)
    if (machine === undefined) return connection.close() // stopped after the connection had been accepted
    this.fill() // first, because the handshake can take long or fail
    this.#last.unshift(machine)
    this.#last.splice(15)
    machine.accepted(connection)
  }

  /** A machine calls this when its connection has closed, or when it was stopped. */
  ended(machine) {
    this.machines.delete(machine.ref)
    this.fill()
    if (this.machines.size === 0) this.#drained?.()
  }

  /** Stops all machines, each after its pending HTTP requests. Calls `drained` after the last one. */
  drain(drained) {
    this.#drained = drained
    for (const machine of [...this.machines.values()]) machine.stop() // removes a waiting machine at once
    this.listener.close()
  }

  /** Destroys all connections. */
  kill() {
    for (const machine of this.machines.values()) machine.kill()
  }

  status() {
    const all = [...this.machines.values()].map((machine) => machine.status())
    const pool = { size: this.#size }
    for (const name of states) pool[name] = all.filter(({ state }) => state === name).length
    return {
      pool,
      machines: all.map(({ ref, state }) => ({ ref, state })),
      refs: all.filter(({ state }) => state === 'listening').map(({ ref }) => ref),
      backlog: this.#drained ? { queued: 0, limit: 0 } : this.listener.backlog(),
      stats: this.listener.stats,
      connections: this.#last.map((machine) => machine.status()),
    }
  }
}
