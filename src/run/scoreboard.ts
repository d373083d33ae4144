import { closeSync, fstatSync, openSync, writeFileSync } from 'node:fs'
import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'

/** The maximum number of workers, those that drain included. */
export const maxSlots = 1023

// Words of 32 bits. The first line of the page is for all workers, each further one for one worker. So workers do not
// write to the same cache line, except for the number of places taken.
const wordsPerLine = 16
const size = (maxSlots + 1) * wordsPerLine * 4

const LIMIT = 0
const TAKEN = 1
const SLOTS = 2

const ASKING = 0
const CONNECTIONS = 1
const HELD = 2
const ACCEPTED = 3

/** What a worker knows of another. */
export interface Other {
  slot: number
  connections: number
  /** A number that changes when it accepts a connection. */
  accepted: number
}

/**
 * A file that the supervisor and its workers map into their memory. It says how many connections each worker has, and
 * how many places are taken if their number is limited.
 *
 * A place is taken before a connection is accepted, and given back after it was closed. The supervisor gives back the
 * places of a worker that has ended. If a worker is killed between two of its writes, a place may stay taken for ever;
 * it is never taken twice.
 */
export class Scoreboard {
  readonly #words: Int32Array
  /** Which slots have a worker. Only the supervisor knows. */
  readonly #used = new Array<boolean>(maxSlots).fill(false)

  /** Makes the file. `limit` is the maximum number of connections over all workers; 0: none. */
  static create(path: string, limit: number): Scoreboard {
    const fd = openSync(path, 'wx+', 0o600)
    try {
      // If the disk is full, this fails. A write to the memory of a file with holes would be a SIGBUS.
      writeFileSync(fd, Buffer.alloc(size))
      const board = new Scoreboard(fd)
      board.#words[LIMIT] = limit
      return board
    } finally {
      closeSync(fd)
    }
  }

  /** Maps the file that the supervisor has made. */
  static open(path: string): Scoreboard {
    const fd = openSync(path, 'r+')
    try {
      if (fstatSync(fd).size !== size) throw new Error(`${path} is not the scoreboard of this version`)
      return new Scoreboard(fd)
    } finally {
      closeSync(fd)
    }
  }

  private constructor(fd: number) {
    this.#words = new Int32Array(check(binding.mapShared(fd, size), 'mmap'))
  }

  /** Whether the number of connections is limited. */
  get isLimited(): boolean {
    return this.#words[LIMIT] !== 0
  }

  /** The number of places that are taken, if their number is limited. */
  get taken(): number {
    return Atomics.load(this.#words, TAKEN)
  }

  /** Takes a place for a worker. Returns false if none is free. */
  take(slot: number): boolean {
    const limit = this.#words[LIMIT] as number
    for (let taken = this.taken; taken < limit; ) {
      const before = Atomics.compareExchange(this.#words, TAKEN, taken, taken + 1)
      if (before === taken) {
        Atomics.add(this.#words, wordOf(slot, HELD), 1)
        return true
      }
      taken = before
    }
    return false
  }

  /** Gives back a place of a worker. */
  giveBack(slot: number): void {
    Atomics.sub(this.#words, wordOf(slot, HELD), 1)
    Atomics.sub(this.#words, TAKEN, 1)
  }

  /** A worker has that many connections, and may accept more or not. */
  set(slot: number, connections: number, isAsking: boolean): void {
    const before = Atomics.exchange(this.#words, wordOf(slot, CONNECTIONS), connections)
    if (connections > before) Atomics.add(this.#words, wordOf(slot, ACCEPTED), 1)
    Atomics.store(this.#words, wordOf(slot, ASKING), Number(isAsking))
  }

  connections(slot: number): number {
    return Atomics.load(this.#words, wordOf(slot, CONNECTIONS))
  }

  /** The other workers that may accept. */
  othersAsking(slot: number): Other[] {
    const others: Other[] = []
    const slots = Atomics.load(this.#words, SLOTS)
    for (let other = 0; other < slots; other++) {
      if (other === slot || Atomics.load(this.#words, wordOf(other, ASKING)) === 0) continue
      const accepted = Atomics.load(this.#words, wordOf(other, ACCEPTED))
      others.push({ slot: other, connections: this.connections(other), accepted })
    }
    return others
  }

  /** Called by the supervisor before it starts a worker. Throws if there are too many. */
  claim(): number {
    const slot = this.#used.indexOf(false)
    if (slot < 0) throw new Error(`at most ${maxSlots} workers can run at a time`)
    this.#used[slot] = true
    this.#words[SLOTS] = this.#used.lastIndexOf(true) + 1
    return slot
  }

  /** Called by the supervisor when the worker of a slot has ended, with all its connections. */
  clear(slot: number): void {
    this.#used[slot] = false
    this.set(slot, 0, false)
    const held = Atomics.exchange(this.#words, wordOf(slot, HELD), 0)
    Atomics.sub(this.#words, TAKEN, held)
  }
}

const wordOf = (slot: number, word: number) => (slot + 1) * wordsPerLine + word
