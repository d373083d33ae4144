// A child process of the soak. It receives orders, and sends named messages.
import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { readFileSync } from 'node:fs'

/** Emits each message of the process as an event with its name. Emits 'error' when the process exits unexpectedly. */
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

  /** Sends an order, and resolves with the message named `answer`. */
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

  /** The resident memory of the process, in bytes. */
  get rss() {
    const [, kilobytes] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${this.#child.pid}/status`, 'utf8')) ?? []
    return Number(kilobytes) * 1024
  }
}
