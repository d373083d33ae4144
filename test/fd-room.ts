import assert from 'node:assert/strict'
import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs'
import { codeOf } from './helpers.js'

/** Keeps `of.room` fds free. Opens files in all others, up to the fd limit of the process. */
export class FdRoom {
  readonly #fillers: number[] = []

  constructor(readonly of: { room: number }) {}

  get limited(): boolean {
    return this.of.room !== Number.POSITIVE_INFINITY
  }

  /** Applies a change of the room. Sets a room close to the limit to infinity. */
  keep(): void {
    if (this.limited) this.#fill()
    if (this.limited && this.#fillers.length - this.of.room < 10) this.of.room = Number.POSITIVE_INFINITY
    this.#free(this.of.room)
  }

  /** Runs `action` with two more free fds. What it opens and closes does not count for the room. */
  async with<T>(action: () => T | Promise<T>): Promise<T> {
    this.#free(2)
    const result = await action()
    this.keep()
    return result
  }

  /** Runs `action` with one more free fd, which it must close again. */
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

/** The fds of this process, with their targets. */
export function namedFds(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return `${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`
    } catch {
      return [] // the fd of readdir itself
    }
  })
}
