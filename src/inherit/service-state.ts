import type { CodedError } from '../core/errors.js'
import { warn } from '../core/warning.js'
import { hasNotified, sendState, watchdog } from '../handover/notify.js'
import type { InheritedSockets } from './inherited-sockets.js'

// ms until the next try when the queue of the service manager is full. sd_notify(3) waits for it, but a thread with an
// event loop must not.
const retryDelay = 100

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
    this.#try(
      () => sendState({ ready: true }),
      () => {
        if (!hasNotified('watchdog')) this.#try(() => watchdog())
      },
    )
    // The program may end in its own way.
    process.once('exit', () => this.stopping())
  }

  /** Sends STOPPING=1, once, if READY=1 was sent. */
  stopping(): void {
    if (!this.#enabled || !this.#ready || this.#stopping || hasNotified('ready') || hasNotified('stopping')) return
    this.#stopping = true
    this.#try(() => sendState({ stopping: true }))
  }

  #try(send: () => unknown, onSent?: () => void): void {
    try {
      send()
    } catch (error) {
      if ((error as CodedError).code === 'EAGAIN') setTimeout(() => this.#try(send, onSent), retryDelay).unref()
      // The service manager is gone, or its variables are malformed. The program continues.
      else warn(error as Error)
      return
    }
    onSent?.()
  }
}
