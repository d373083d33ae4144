// Services that request single connections: with promises, with refs, and in threads that share a socket.
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { converse } from './conversation.mjs'

const threads = 3

const where = { host: '127.0.0.1', noDelay: true }

/** A listening socket that counts its requests. `room` requests are outstanding while no clients connect. */
class Asking {
  dialect = 'lines'
  disturbed = false
  asked = 0

  constructor(listener, journal, room) {
    this.listener = listener
    this.journal = journal
    this.room = room
  }

  /** Checks that every request has exactly one result, or is outstanding. */
  get problems() {
    const { stats, pending } = this.listener
    const { accepted, timedOut, cancelled, rejected } = stats
    const ended = accepted + timedOut + cancelled + rejected
    if (this.asked === ended + pending) return []
    return [`${this.name}: ${this.asked} requests, but ${ended} results and ${pending} outstanding`]
  }

  get unsteady() {
    return this.listener.pending === this.room ? [] : [`${this.name}: ${this.listener.pending} requests outstanding`]
  }

  converse(connection) {
    const entry = this.journal.of(connection.remoteAddress)
    const socket = connection.toSocket({ allowHalfOpen: true })
    converse(socket, entry, (policy) => this.journal.refuse(entry, policy))
    return new Promise((resolve) => {
      socket.once('close', () => {
        this.journal.end(entry)
        resolve()
      })
    })
  }

  async close() {
    await this.listener.close()
    await this.ended
  }
}

/** Loops over `accept()`, with timeouts and signals during disturbances. */
export class Promised extends Asking {
  name = 'promised'

  static async open(journal, chance) {
    const service = new Promised(await Listener.listen(where), journal, 64)
    service.ended = Promise.all(Array.from({ length: service.room }, () => service.#loop(chance)))
    return service
  }

  #options(chance) {
    const way = this.disturbed ? chance.below(3) : 0
    if (way === 1) return { timeout: chance.between(0, 50) }
    if (way === 2) return { signal: AbortSignal.timeout(chance.between(1, 50)) }
    return undefined
  }

  async #loop(chance) {
    while (this.listener.fd >= 0) {
      this.asked++
      try {
        await this.converse(await this.listener.accept(this.#options(chance)))
      } catch (error) {
        if (!['ERR_ACCEPT_TIMEOUT', 'ERR_LISTENER_CLOSED', 'ABORT_ERR'].includes(error.code)) throw error
      }
    }
  }
}

/** Uses `asyncAccept()` and `cancel()`. Resets its clients at the fd limit. */
export class Tagged extends Asking {
  name = 'tagged'
  #refs = new Set()

  static async open(journal, chance) {
    return new Tagged(await Listener.listen({ ...where, onFdLimit: 'reset' }), journal, 32, chance)
  }

  constructor(listener, journal, room, chance) {
    super(listener, journal, room)
    listener.on('accept', ({ ref, connection, error }) => {
      this.#refs.delete(ref)
      if (error && error.code !== 'ERR_ACCEPT_TIMEOUT' && error.code !== 'ERR_LISTENER_CLOSED') throw error
      if (connection) this.converse(connection)
      this.#ask(chance)
    })
    this.canceller = setInterval(() => this.disturbed && this.#cancelSome(chance), 50)
    this.#ask(chance)
  }

  #ask(chance) {
    while (this.listener.fd >= 0 && this.#refs.size < this.room) {
      this.asked++
      this.#refs.add(this.listener.asyncAccept(this.disturbed && chance.below(2) ? chance.between(0, 50) : -1))
    }
  }

  #cancelSome(chance) {
    for (const ref of [...this.#refs].slice(0, chance.below(this.room))) {
      if (this.listener.cancel(ref)) this.#refs.delete(ref)
    }
    this.#ask(chance)
  }

  async close() {
    clearInterval(this.canceller)
    await super.close()
  }
}

/** Threads that accept from one socket and are terminated at random. */
export class Threaded {
  name = 'threaded'
  dialect = 'lines'
  problems = []
  terminated = 0
  #held = new Map()
  #starts = new Set()
  #closing = false

  static async open(journal, mayStart) {
    const service = new Threaded()
    Object.assign(service, { listener: await Listener.listen(where), journal, mayStart })
    await Promise.all(Array.from({ length: threads }, () => service.#start()))
    return service
  }

  get unsteady() {
    return this.#held.size === threads ? [] : [`${this.name}: ${this.#held.size} of ${threads} threads are ready`]
  }

  /** Resolves when all threads that are starting now are ready. */
  get started() {
    return Promise.all(this.#starts)
  }

  async #start() {
    await this.mayStart()
    const starting = this.#startOne()
    this.#starts.add(starting)
    await starting
    this.#starts.delete(starting)
  }

  async #startOne() {
    const worker = new Worker(new URL('thread.mjs', import.meta.url), {
      workerData: { fd: this.listener.fd, room: 16 },
    })
    const held = new Set()
    const ready = Promise.race([once(worker, 'message'), once(worker, 'exit')])
    worker.on('message', ({ accepted, ended }) => {
      if (accepted) {
        this.journal.accept(this.name, accepted)
        held.add(this.journal.latest)
      }
      if (ended) {
        const entry = this.journal.live.get(ended.id)
        held.delete(entry)
        this.journal.end(Object.assign(entry, ended))
      }
    })
    worker.on('error', (error) => this.journal.problem(`${this.name}: ${error.stack}`))
    // Emitted after all messages of the thread, and after its fds are closed.
    worker.on('exit', () => {
      this.#held.delete(worker)
      for (const entry of held) {
        this.journal.refuse(entry, 'thread terminated')
        this.journal.end(entry)
      }
      if (!this.#closing) this.#start()
    })
    await ready
    this.#held.set(worker, held)
  }

  /** Terminates a ready thread at any point of its work. Returns false when none is ready. */
  terminate(chance) {
    const ready = [...this.#held.keys()]
    if (ready.length === 0) return false
    const worker = chance.of(ready)
    this.#held.delete(worker)
    this.terminated++
    worker.terminate()
    return true
  }

  async close() {
    this.#closing = true
    const exits = [...this.#held.keys()].map((worker) => once(worker, 'exit'))
    for (const worker of this.#held.keys()) worker.postMessage('close')
    await Promise.all(exits)
    await this.listener.close()
  }
}
