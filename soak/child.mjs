// A process of the soak: takes orders, and says things, each under one name.
import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'

/** Emits what it says by its name; 'error' when it ends and nobody has asked for that. */
export class Child extends EventEmitter {
  #child
  #ending = false

  constructor(command, ...args) {
    super()
    this.#child = spawn(command, args, { stdio: ['ignore', 2, 2, 'ipc'], serialization: 'advanced' })
    this.#child.on('message', (message) => {
      for (const [what, details] of Object.entries(message)) this.emit(what, details)
    })
    this.#child.on('exit', (code, signal) => {
      if (!this.#ending) this.emit('error', new Error(`${args.at(-1)} ended: ${signal ?? `exit code ${code}`}`))
    })
    process.on('exit', () => this.#child.kill('SIGKILL'))
  }

  /** Gives an order, and resolves with what it says under `answer`. */
  async ask(order, answer, details = {}) {
    const answered = once(this, answer)
    this.order(order, details)
    return (await answered)[0]
  }

  order(order, details = {}) {
    this.#child.send({ order, ...details })
  }

  async end() {
    this.#ending = true
    const exited = once(this.#child, 'exit')
    this.#child.disconnect()
    await exited
  }

  /** Bytes of memory that it has. */
  get rss() {
    const [, kilobytes] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${this.#child.pid}/status`, 'utf8')) ?? []
    return Number(kilobytes) * 1024
  }
}
