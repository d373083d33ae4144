import { Listener } from '../accept/listener.js'

/** The listeners of a Serving. At least one. */
export class ServedListeners {
  readonly all: readonly Listener[]
  /** The listener whose address a served server has. */
  readonly first: Listener
  /** Whether `keepAlive(false)` was called last. */
  #unreferenced = false
  #releases: (() => void)[] = []
  /** Every listener before this index is closed or detached. */
  #ended = 0

  constructor(listeners: readonly Listener[]) {
    this.all = Object.freeze([...listeners])
    this.first = listeners[0] as Listener
  }

  /** What `util.inspect()` shows. */
  get shown(): Record<string, unknown> {
    return this.all.length === 1 ? { listener: this.first } : { listeners: this.all }
  }

  /** Whether every listener is closed or detached. */
  get ended(): boolean {
    // A listener never opens again, so each is skipped once, however many end.
    for (let next = this.all[this.#ended]; next !== undefined && next.fd < 0; next = this.all[this.#ended]) {
      this.#ended++
    }
    return this.#ended === this.all.length
  }

  /** Makes the listeners keep the process alive until `release`. `onEnded` is called when one is closed or detached. */
  hold(onEnded: (listener: Listener) => void): void {
    this.#releases = this.all.map((each) => Listener.hold(each, () => onEnded(each)))
  }

  release(): void {
    for (const release of this.#releases.splice(0)) release()
  }

  keepAlive(keep: boolean): void {
    this.#unreferenced = !keep
    for (const listener of this.all) {
      if (keep) listener.ref()
      else listener.unref()
    }
  }

  /** Undoes `keepAlive(false)`, which must not affect the next Serving on the same listeners. */
  restore(): void {
    if (this.#unreferenced) this.keepAlive(true)
  }

  close(): void {
    for (const listener of this.all) listener.close()
  }
}
