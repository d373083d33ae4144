import type { Notification } from '../handover/notify.js'
import { hasNotified, sendState, watchdog } from '../handover/notify.js'
import type { InheritedSockets } from './inherited-sockets.js'

/** Notifies the service manager, unless the program does: READY=1, STOPPING=1 and the watchdog. */
export class ServiceState {
  readonly #sockets: InheritedSockets
  readonly #enabled: boolean
  #ready = false
  #stopping = false

  constructor(sockets: InheritedSockets, enabled: boolean) {
    this.#sockets = sockets
    this.#enabled = enabled
  }

  /** Called when a server listens on inherited sockets. Sends READY=1 when all of them are served. */
  onServed(): void {
    // After 'listening', whose handler may call notify().
    if (!this.#ready) setImmediate(() => this.#sendReady())
  }

  #sendReady(): void {
    if (this.#ready || this.#sockets.unserved.length > 0) return
    this.#ready = true
    if (!this.#enabled || hasNotified('ready')) return
    this.#send({ ready: true })
    if (!hasNotified('watchdog')) attempt(() => watchdog())
    // The program may end in its own way.
    process.once('exit', () => this.stopping())
  }

  /** Sends STOPPING=1, once, if READY=1 was sent. */
  stopping(): void {
    if (!this.#enabled || !this.#ready || this.#stopping || hasNotified('ready') || hasNotified('stopping')) return
    this.#stopping = true
    this.#send({ stopping: true })
  }

  #send(state: Notification): void {
    attempt(() => sendState(state))
  }
}

// The service manager is gone, or its variables are malformed. The program continues.
function attempt(run: () => unknown): void {
  try {
    run()
  } catch (error) {
    process.emitWarning(error as Error)
  }
}
