import { randomBytes } from 'node:crypto'
import { fstatSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Listener } from '../accept/listener.js'
import type { Sockets } from './addresses.js'
import { type ProbeAddress, type RunOptions, UsageError } from './command-line.js'
import { type Attachment, parseAttachment, type WorkerLoad } from './control-protocol.js'
import { ControlSocket } from './control-socket.js'
import { eventLoopDelay } from './heartbeat.js'
import { maxSlots, Scoreboard } from './scoreboard.js'
import { Worker, type WorkerOptions } from './worker.js'
import { attachmentPath, type ProbeTarget, scoreboardPath, type WorkerSettings } from './worker-settings.js'

const preload = fileURLToPath(new URL('./worker-preload.js', import.meta.url))

/** Starts workers, each with a slot of the scoreboard and a path for its notifications. */
export class WorkerStarter {
  readonly #options: Omit<WorkerOptions, 'askToDrain'>
  readonly #isExec: boolean
  readonly #probe: ProbeTarget | undefined
  /** What the paths of this supervisor begin with. */
  readonly #prefix: string
  readonly #board: Scoreboard
  readonly #slots = new WeakMap<Worker, number>()
  /** The attached workers, by slot: how to ask each to drain. */
  readonly #attached = new Map<number, () => void>()
  #attachments: ControlSocket<Attachment> | undefined
  #started = 0

  /** Errors: those of the file of the scoreboard, and of `Listener.listen`. */
  static async create(options: RunOptions, sockets: Sockets, directory: string): Promise<WorkerStarter> {
    const starter = new WorkerStarter(options, sockets, directory)
    starter.#attachments = await ControlSocket.open({
      path: attachmentPath(starter.#prefix),
      maxClients: 2 * maxSlots,
      parse: parseAttachment,
      answer: ({ slot }) => new Promise((resolve) => starter.#attached.set(slot, () => resolve({ ok: true }))),
    })
    return starter
  }

  private constructor(options: RunOptions, sockets: Sockets, directory: string) {
    const { exec, command, args, startTimeout, drainTimeout, killAfter, watchdog, maxConnections, settings } = options
    const { probe, probeInterval } = options
    // Workers of a supervisor that was killed may still drain. They must not find the files of this one.
    this.#prefix = join(directory, `${randomBytes(4).toString('hex')}-`)
    this.#board = Scoreboard.create(scoreboardPath(this.#prefix), maxConnections ?? 0)
    this.#isExec = exec
    this.#probe = probe && targetOf(probe, probeInterval, sockets)
    this.#options = {
      command: exec ? command : process.execPath,
      args: exec ? args : ['--import', preload, command, ...args],
      listeners: sockets.named,
      env: { ...process.env, ...settings, ASYNC_ACCEPT_DRAIN_TIMEOUT: String(drainTimeout / 1000) },
      startTimeout,
      drainTimeout,
      killAfter,
      watchdog,
      probeInterval: probe && probeInterval,
    }
  }

  /** Errors: those of `spawnActivated` and bind(2); too many workers. */
  start(onChange: (worker: Worker) => void): Worker {
    const slot = this.#board.claim()
    const inodes = this.#options.listeners.map(([, listener]) => inodeOf(listener))
    const settings: WorkerSettings = { slot, prefix: this.#prefix, inodes, probe: this.#probe }
    const ASYNC_ACCEPT_WORKER = this.#isExec ? undefined : JSON.stringify(settings)
    const askToDrain = () => this.#askToDrain(slot)
    const options = { ...this.#options, askToDrain, env: { ...this.#options.env, ASYNC_ACCEPT_WORKER } }
    try {
      const notifyPath = `${this.#prefix}notify-${++this.#started}`
      const worker = new Worker(options, notifyPath, (changed) => {
        if (changed.state === 'gone') this.#free(slot)
        onChange(changed)
      })
      this.#slots.set(worker, slot)
      return worker
    } catch (error) {
      this.#free(slot)
      throw error
    }
  }

  /** Called when all workers have ended. */
  close(): Promise<void> | undefined {
    return this.#attachments?.close()
  }

  #askToDrain(slot: number): boolean {
    const ask = this.#attached.get(slot)
    ask?.()
    return ask !== undefined
  }

  #free(slot: number): void {
    this.#attached.delete(slot)
    this.#board.clear(slot)
  }

  /** What a worker has to do, if it is a file for Node. */
  loadOf(worker: Worker): WorkerLoad {
    const slot = this.#slots.get(worker)
    if (slot === undefined || this.#isExec) return {}
    const delay = eventLoopDelay(this.#board, slot)
    return { connections: this.#board.connections(slot), delay: delay === undefined ? undefined : delay / 1000 }
  }
}

const inodeOf = ({ fd }: Listener) => fstatSync(fd).ino

function targetOf({ name, path }: ProbeAddress, interval: number, { named }: Sockets): ProbeTarget {
  const [, listener] = named.find(([each]) => name === undefined || each === name) ?? []
  if (listener !== undefined) return { inode: inodeOf(listener), path, interval }
  throw new UsageError(`--probe names the socket ${name}, but there are ${named.map(([each]) => each).join(', ')}`)
}
