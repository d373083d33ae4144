import { type Notification, sendState, storeFds, watchdog } from '../handover/notify.js'
import type { Sockets } from './addresses.js'
import type { Fleet } from './fleet.js'
import type { Member } from './member.js'

/** Tells the service manager above the supervisor what the fleet does: sd_notify(3). Without one, does nothing. */
export class ServiceState {
  #ready = false
  #reloading = false
  #stopping = false
  #status = ''

  /** Called when something may have changed. */
  update(fleet: Fleet<Member>): void {
    const { phase, reloading, target } = fleet
    const ready = fleet.ready.length
    if (phase === 'stopping' && !this.#stopping) {
      this.#stopping = true
      this.#send({ stopping: true })
    }
    if (reloading && !this.#reloading) this.#send({ reloading: true })
    const reloaded = this.#reloading && !reloading
    this.#reloading = reloading
    // A failed reload ends with READY=1, too: the old workers serve on.
    if (phase === 'running' && (reloaded || (!this.#ready && ready >= target))) {
      this.#ready = true
      this.#send({ ready: true })
    }
    const status = `${ready} of ${target} workers are ready${reloading ? ', reloading' : ''}`
    if (status !== this.#status) this.#send({ status })
    this.#status = status
  }

  /** Starts the watchdog of this process. */
  startWatchdog(): void {
    attempt(() => watchdog())
  }

  /**
   * Stores the sockets that this process has bound, so that its next run gets them back by their names
   * (`FileDescriptorStoreMax=`). Returns whether there certainly is a store.
   */
  store(sockets: Sockets): boolean {
    for (const [name, { fd }] of sockets.bound) attempt(() => storeFds(name, [fd]))
    // Set by systemd 254 and later. A manager without a store ignores the fds.
    return Number(process.env.FDSTORE) > 0
  }

  #send(state: Notification): void {
    attempt(() => sendState(state))
  }
}

// The service manager is busy or gone, or its variables are malformed. The workers serve on.
function attempt(run: () => unknown): void {
  try {
    run()
  } catch (error) {
    process.emitWarning(error as Error)
  }
}
