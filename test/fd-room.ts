import assert from 'node:assert/strict'
import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs'
import { codeOf } from './helpers.js'

/** Keeps as many fds free as `of.room` says, by filling the others up to the limit of the process. */
export class FdRoom {
  readonly #fillers: number[] = []

  constructor(readonly of: { room: number }) {}

  get limited(): boolean {
    return this.of.room !== Number.POSITIVE_INFINITY
  }

  /** To be called when the room has changed. One that is next to all becomes all. */
  keep(): void {
    if (this.limited) this.#fill()
    if (this.limited && this.#fillers.length - this.of.room < 10) this.of.room = Number.POSITIVE_INFINITY
    this.#free(this.of.room)
  }

  /** With two fds more, for the caller; what it takes and frees is not of the room. */
  async with<T>(action: () => T | Promise<T>): Promise<T> {
    this.#free(2)
    const result = await action()
    this.keep()
    return result
  }

  /** With one more, which is given back at once. */
  withOne<T>(action: () => T): T {
    if (!this.limited) return action()
    this.#free(1)
    const result = action()
    this.#fillers.push(openSync('/dev/null', 'r'))
    return result
  }

  #fill(): void {
    try {
      for (;;) this.#fillers.push(openSync('/dev/null', 'r'))
    } catch (error) {
      assert.equal(codeOf(error), 'EMFILE')
    }
  }

  #free(count: number): void {
    for (const fd of this.#fillers.splice(0, count)) closeSync(fd)
  }
}

/** The fds of this process, with what they are. */
export function namedFds(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return `${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`
    } catch {
      return [] // readdir's own
    }
  })
}
