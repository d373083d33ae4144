import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Sockets } from './addresses.js'
import type { RunOptions } from './command-line.js'
import { Scoreboard } from './scoreboard.js'
import { Worker, type WorkerOptions } from './worker.js'

const preload = fileURLToPath(new URL('./worker-preload.js', import.meta.url))

/** Starts workers, each with a slot of the scoreboard and a path for its notifications. */
export class WorkerStarter {
  readonly #options: WorkerOptions
  readonly #directory: string
  // Workers of a supervisor that was killed may still drain, and notify at their paths.
  readonly #id = randomBytes(4).toString('hex')
  readonly #boardPath: string | undefined
  readonly #board: Scoreboard
  readonly #slots = new WeakMap<Worker, number>()
  #started = 0

  /** Errors: those of the file of the scoreboard. */
  constructor(options: RunOptions, sockets: Sockets, directory: string) {
    const { exec, command, args, startTimeout, drainTimeout, killAfter, watchdog, maxConnections } = options
    this.#directory = directory
    const path = join(directory, `scoreboard-${this.#id}`)
    this.#board = Scoreboard.create(path, maxConnections ?? 0)
    this.#boardPath = exec ? undefined : path
    this.#options = {
      command: exec ? command : process.execPath,
      args: exec ? args : ['--import', preload, command, ...args],
      listeners: sockets.byName,
      env: { ...process.env, ASYNC_ACCEPT_DRAIN_TIMEOUT: String(drainTimeout / 1000) },
      startTimeout,
      drainTimeout,
      killAfter,
      watchdog,
    }
  }

  /** Errors: those of `spawnActivated` and bind(2); too many workers. */
  start(onChange: (worker: Worker) => void): Worker {
    const slot = this.#board.claim()
    const ASYNC_ACCEPT_SCOREBOARD = this.#boardPath && `${slot}:${this.#boardPath}`
    const options = { ...this.#options, env: { ...this.#options.env, ASYNC_ACCEPT_SCOREBOARD } }
    try {
      const notifyPath = join(this.#directory, `notify-${this.#id}-${++this.#started}`)
      const worker = new Worker(options, notifyPath, (changed) => {
        if (changed.state === 'gone') this.#board.clear(slot)
        onChange(changed)
      })
      this.#slots.set(worker, slot)
      return worker
    } catch (error) {
      this.#board.clear(slot)
      throw error
    }
  }

  /** The number of open connections of a worker; 0 if it is not a file for Node. */
  connectionsOf(worker: Worker): number {
    const slot = this.#slots.get(worker)
    return slot === undefined ? 0 : this.#board.connections(slot)
  }
}
