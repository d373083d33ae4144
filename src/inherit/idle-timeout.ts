import type { Serving } from '../serve/serving.js'
import type { InheritedSockets } from './inherited-sockets.js'
import type { Shutdown } from './shutdown.js'

// ms between two looks at the connections, at most.
const longestInterval = 1_000

/**
 * Ends the process when it had no connection for some time. The service manager still has the sockets, and starts the
 * process again for the next client.
 */
export class IdleTimeout {
  readonly #sockets: InheritedSockets
  readonly #shutdown: Shutdown
  readonly #timeout: number
  #timer: NodeJS.Timeout | undefined
  #accepted = 0
  /** The time of the first look that found no connection, since the last one that did. */
  #idleSince = 0

  /** `timeout` is in ms. */
  constructor(sockets: InheritedSockets, shutdown: Shutdown, timeout: number) {
    this.#sockets = sockets
    this.#shutdown = shutdown
    this.#timeout = timeout
  }

  /** Called when a server listens on inherited sockets. */
  onServed(): void {
    this.#idleSince = performance.now()
    const interval = Math.max(1, Math.min(longestInterval, this.#timeout / 4))
    this.#timer ??= setInterval(() => this.#look(), interval).unref()
  }

  // Looks at counters instead of events, because a program may remove all event listeners.
  #look(): void {
    const servings = this.#sockets.servings.filter(({ state }) => state === 'serving')
    const now = performance.now()
    // Without a server, the program is starting, or ends by itself.
    if (servings.length === 0 || this.#sockets.someTaken || this.#isActive(servings)) this.#idleSince = now
    if (now - this.#idleSince < this.#timeout) return
    // No client is accepted after the last look at the backlog. Those that come later wait for the next process.
    for (const serving of servings) serving.pause()
    if (this.#isActive(servings) || servings.some(hasWaitingClient)) {
      for (const serving of servings) serving.resume()
      this.#idleSince = now
      return
    }
    clearInterval(this.#timer)
    this.#shutdown.begin()
  }

  #isActive(servings: readonly Serving[]): boolean {
    const accepted = servings
      .flatMap(({ servedListeners }) => servedListeners)
      .reduce((sum, { stats }) => sum + stats.accepted, 0)
    const isNew = accepted !== this.#accepted
    this.#accepted = accepted
    // Connections of a closed server may still be open.
    return isNew || this.#sockets.servings.some(({ connections }) => connections > 0)
  }
}

function hasWaitingClient({ servedListeners }: Serving): boolean {
  return servedListeners.some((listener) => {
    try {
      return listener.backlog().queued > 0
    } catch {
      // The kernel cannot tell (unix_diag is missing), or the listener was closed. Clients wait for the next process.
      return false
    }
  })
}
