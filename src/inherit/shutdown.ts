import type { InheritedSockets } from './inherited-sockets.js'
import type { ServiceState } from './service-state.js'

/** Drains the servers and ends the process: on SIGTERM, if the program has no handler of its own, and when idle. */
export class Shutdown {
  readonly #sockets: InheritedSockets
  readonly #state: ServiceState
  readonly #drainTimeout: number
  #watching = false
  /** Whether this class is removing its own handler of SIGTERM. */
  #removing = false
  /** Whether the program has removed all handlers, so that the signal ends the process. */
  #removedByProgram = false
  #ending = false

  /** `drainTimeout` is in ms. */
  constructor(sockets: InheritedSockets, state: ServiceState, drainTimeout: number) {
    this.#sockets = sockets
    this.#state = state
    this.#drainTimeout = drainTimeout
  }

  /** Called when a server listens on inherited sockets. From then on, SIGTERM drains. */
  onServed(): void {
    if (this.#watching) return
    this.#watching = true
    // When the program has a handler, ours is removed. So libraries that look whether theirs is the only one see what
    // they would see without us. Both changes wait for the next tick: Node stops catching a signal when its last
    // handler is removed, also while another is being added.
    process.on('newListener', (event, handler) => {
      if (event === 'SIGTERM' && handler !== this.#onSignal) process.nextTick(this.#update)
    })
    process.on('removeListener', (event, handler) => {
      if (event !== 'SIGTERM') return
      if (handler !== this.#onSignal) process.nextTick(this.#update)
      else if (!this.#removing) this.#removedByProgram = true
    })
    this.#update()
  }

  #update = (): void => {
    if (this.#removedByProgram) return
    const ours = process.listeners('SIGTERM').includes(this.#onSignal)
    const others = process.listenerCount('SIGTERM') - Number(ours)
    if (others === 0 && !ours) process.on('SIGTERM', this.#onSignal)
    if (others > 0 && ours) {
      this.#removing = true
      process.removeListener('SIGTERM', this.#onSignal)
      this.#removing = false
    }
  }

  #onSignal = (): void => {
    // A handler that was added in this tick.
    if (process.listenerCount('SIGTERM') === 1) void this.#end()
  }

  /** Ends the process. The program's own handler of SIGTERM does so if there is one. */
  begin(): void {
    if (process.listeners('SIGTERM').every((each) => each === this.#onSignal)) {
      void this.#end()
      return
    }
    this.#state.stopping()
    setTimeout(() => process.exit(), this.#drainTimeout).unref()
    process.kill(process.pid, 'SIGTERM')
  }

  async #end(): Promise<void> {
    if (this.#ending) return
    this.#ending = true
    this.#state.stopping()
    await Promise.all(this.#sockets.servings.map((serving) => serving.drain({ timeout: this.#drainTimeout })))
    process.exit()
  }
}
