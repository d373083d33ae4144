import type { ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import { deadlineAfterPoll } from '../core/deadline.js'
import { type Named, spawnDependent } from '../handover/spawn-activated.js'
import { NotifySocket } from './notify-socket.js'
import { drainedField, probeField, probeTimeout } from './worker-settings.js'
import { stateAfter, type WorkerEvent, type WorkerState } from './worker-states.js'

// A worker that fails so many probes, one after the other, is replaced.
const maxFailedProbes = 3

/** What all workers of a supervisor have in common. Times are in ms. */
export interface WorkerOptions {
  command: string
  args: readonly string[]
  listeners: Named
  env: NodeJS.ProcessEnv
  startTimeout: number
  /** The time for the drain, which the worker itself limits. */
  drainTimeout: number
  /** The time from the end of the drain to SIGKILL. */
  killAfter: number
  /** The longest time without WATCHDOG=1, from READY=1 on; undefined: no watchdog. */
  watchdog: number | undefined
  /** ms between two probes. It is ready only after a good answer. Undefined: it is not probed. */
  probeInterval: number | undefined
  /**
   * Asks the worker to drain and to send itself SIGTERM then. Returns false if it cannot be asked, because it is not a
   * file for Node, for example.
   */
  askToDrain(): boolean
}

/** One process that serves. Its parts, from `spawn` to the last signal, are known only here. */
export class Worker {
  readonly startedAt = performance.now()
  /** Whether another worker shall replace this one. The supervisor sets it. */
  stale = false
  generation = 0
  readonly #options: WorkerOptions
  readonly #onChange: (worker: Worker) => void
  readonly #notifySocket: NotifySocket
  #child: ChildProcess | undefined
  #state: WorkerState = 'starting'
  #readyAt: number | undefined
  /** Whether it has sent READY=1. */
  #isServing = false
  /** The time of the last result of a probe. */
  #probedAt: number | undefined
  /** The number of probes that have failed since the last good answer. */
  #failedProbes = 0
  /** What was wrong with the last probe; '' if nothing was. */
  #probeFailure = ''
  #status: string | undefined
  #retired = false
  #failure: string | undefined
  #exitCode = 1
  #stopTimer = () => {}

  /** Starts a process. `notifyPath` is the path for its notifications. Errors: those of `spawnActivated` and bind(2). */
  constructor(options: WorkerOptions, notifyPath: string, onChange: (worker: Worker) => void) {
    this.#options = options
    this.#onChange = onChange
    this.#notifySocket = new NotifySocket(notifyPath, (fields) => this.#onNotification(fields))
    const { command, args, listeners, env, watchdog } = options
    try {
      // In a session of its own, so that Ctrl-C in a terminal reaches the supervisor only.
      this.#child = spawnDependent(command, args, listeners, {
        detached: true,
        stdio: ['ignore', 'inherit', 'inherit'],
        env: {
          ...env,
          NOTIFY_SOCKET: notifyPath,
          WATCHDOG_USEC: watchdog === undefined ? undefined : String(watchdog * 1000),
          WATCHDOG_PID: undefined,
        },
      })
    } catch (error) {
      this.#notifySocket.close()
      throw error
    }
    this.#child.once('error', (error) => this.#onExit(127, `cannot start: ${error.message}`))
    this.#child.once('exit', (code, signal) => {
      // Its requests are lost. Only SIGTERM is the end of a drain.
      const isLost = this.#retired && this.#state === 'ending' && signal !== null && signal !== 'SIGTERM'
      if (isLost) this.#failure = `was ended by ${signal} while it drained`
      const [exitCode, why] = describeExit(code, signal)
      this.#onExit(exitCode, this.#readyAt === undefined ? `${why} before it was ready` : why)
    })
    this.#enter('starting')
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  get state(): WorkerState {
    return this.#state
  }

  /** The time of READY=1; undefined if it never came. */
  get readyAt(): number | undefined {
    return this.#readyAt
  }

  /** The last STATUS. */
  get status(): string | undefined {
    return this.#status
  }

  /** What was wrong with the last probe; '' if nothing was. */
  get probeFailure(): string {
    return this.#probeFailure
  }

  /** Whether the supervisor has retired it. */
  get retired(): boolean {
    return this.#retired
  }

  /** Why it has failed, as the end of a sentence that begins with the worker; undefined if it has not. */
  get failure(): string | undefined {
    if (this.#failure === undefined) return undefined
    const probe = this.#probeFailure && `; its last probe: ${this.#probeFailure}`
    const status = this.#status === undefined ? '' : `; its last status: ${JSON.stringify(this.#status)}`
    return `${this.#failure}${probe}${status}`
  }

  /** Why it shall be replaced although it is ready, as the end of a sentence; undefined if it is well. */
  get complaint(): string | undefined {
    const { probeInterval } = this.#options
    if (this.#probedAt === undefined || probeInterval === undefined) return undefined
    // If its event loop is blocked, no result comes.
    const isSilent = performance.now() - this.#probedAt >= maxFailedProbes * probeInterval + probeTimeout
    if (this.#failedProbes < maxFailedProbes && !isSilent) return undefined
    return `has failed its probe: ${this.#probeFailure || 'no answer'}`
  }

  /** The exit code that a shell would report; 1 if the supervisor has ended it because it has failed. */
  get exitCode(): number {
    return this.#exitCode
  }

  /** Drains the worker and ends it, with SIGKILL if it takes too long. */
  retire(): void {
    this.#on('retire')
  }

  /** Ends the worker at once. */
  kill(): void {
    this.#on('kill')
  }

  /** For the events that the supervisor has not caused. */
  #onEvent(event: WorkerEvent): void {
    if (this.#on(event)) this.#onChange(this)
  }

  /** Changes the state; no other method does. Returns whether it has changed. */
  #on(event: WorkerEvent): boolean {
    const next = stateAfter(this.#state, event)
    if (next === undefined) return false
    this.#state = next
    this.#stopTimer()
    this.#stopTimer = () => {}
    if (event === 'retire') this.#retired = true
    this.#enter(next)
    return true
  }

  /** Sets the timer of a state. */
  #enter(state: WorkerState): void {
    const { startTimeout } = this.#options
    if (state === 'starting') this.#fail(startTimeout, `was not ready after ${startTimeout / 1000} s`)
    if (state === 'ready') {
      this.#readyAt = performance.now()
      this.#expectPing()
    }
    if (state === 'ending') this.#enterEnding()
    if (state === 'killed') this.#killGroup()
  }

  // A program with its own handler of SIGTERM often exits at once. So it gets the signal when its requests are answered.
  #enterEnding(): void {
    const { drainTimeout, killAfter, askToDrain } = this.#options
    const isAsked = this.#retired && this.#readyAt !== undefined && askToDrain()
    if (isAsked) this.#stopTimer = deadlineAfterPoll(drainTimeout, () => this.#terminate(killAfter))
    else this.#terminate(drainTimeout + killAfter)
  }

  /** Sends SIGTERM, unless it ends by itself, and SIGKILL after `ms`. */
  #terminate(ms: number): void {
    this.#fail(ms, `had not ended ${ms / 1000} s after SIGTERM`)
    if (this.#retired) this.#child?.kill('SIGTERM')
  }

  // The timer waits for the poll phase: after a pause of this process, the message that has arrived in time is read.
  #fail(ms: number, why: string): void {
    this.#stopTimer()
    this.#stopTimer = deadlineAfterPoll(ms, () => {
      this.#failure = why
      this.#onEvent('kill')
    })
  }

  #expectPing(): void {
    const { watchdog } = this.#options
    if (watchdog !== undefined) this.#fail(watchdog, `sent no watchdog notification for ${watchdog / 1000} s`)
  }

  // With the processes that it has started, such as those of a shell or npm.
  #killGroup(): void {
    const { pid } = this
    if (pid === undefined) return
    try {
      process.kill(-pid, 'SIGKILL')
    } catch {
      // It has just ended, or its session does not exist yet.
      this.#child?.kill('SIGKILL')
    }
  }

  #onNotification(fields: ReadonlyMap<string, string>): void {
    const status = fields.get('STATUS')
    if (status !== undefined) this.#status = status.slice(0, 256)
    if (fields.get('READY') === '1') this.#isServing = true
    const probeFailure = fields.get(probeField)
    if (probeFailure !== undefined) this.#onProbe(probeFailure)
    const hasAnswered = this.#probedAt !== undefined && this.#failedProbes === 0
    if (this.#isServing && (this.#options.probeInterval === undefined || hasAnswered)) this.#onEvent('ready')
    if (fields.get('STOPPING') === '1') this.#onEvent('stopping')
    if (fields.get(drainedField) === '1' && this.#state === 'ending') this.#terminate(this.#options.killAfter)
    if (fields.get('WATCHDOG') === '1' && this.#state === 'ready') this.#expectPing()
    if (fields.get('WATCHDOG') === 'trigger' && this.#state === 'ready') {
      this.#failure = 'has reported a failure (WATCHDOG=trigger)'
      this.#onEvent('kill')
    }
  }

  #onProbe(failure: string): void {
    this.#probeFailure = failure
    this.#probedAt = performance.now()
    this.#failedProbes = failure === '' ? 0 : this.#failedProbes + 1
  }

  #onExit(code: number, why: string): void {
    if (this.#state === 'gone') return
    if (this.#failure === undefined) this.#exitCode = code
    if (!this.#retired) this.#failure ??= why
    this.#notifySocket.close()
    this.#onEvent('exit')
  }
}

function describeExit(code: number | null, signal: NodeJS.Signals | null): [number, string] {
  if (signal !== null) return [128 + constants.signals[signal], `was ended by ${signal}`]
  return [code ?? 1, `exited with code ${code}`]
}
