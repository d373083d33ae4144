import { closeSync, fstatSync, openSync, writeFileSync } from 'node:fs'
import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'

/** The maximum number of workers, those that drain included. */
export const maxSlots = 1023

// Words of 32 bits. The first line of the page is for all workers, each further one for one worker. So workers do not
// write to the same cache line. The places follow.
const wordsPerLine = 16
const bytesPerWord = 4
/** The first word of the places. */
const firstPlace = (maxSlots + 1) * wordsPerLine

/** The largest limit: 40 MB of memory. */
export const maxPlaces = 10_000_000

const SLOTS = 0

const ASKING = 0
const CONNECTIONS = 1
const ACCEPTED = 2
const BEAT = 3
const DELAY = 4

/** What a worker knows of another. */
export interface Other {
  slot: number
  connections: number
  /** A number that changes when it accepts a connection. */
  accepted: number
}

/**
 * A file that the supervisor and its workers map into their memory. It says how many connections each worker has, and
 * when its event loop ran. If the number of connections is limited, it has a word for each of them, a place, with the
 * slot of the worker that holds it.
 *
 * A place is taken before a connection is accepted, and given back after it was closed. Both are one atomic operation,
 * so a worker that is killed at any moment loses none: the supervisor gives back the places with its slot.
 */
export class Scoreboard {
  readonly #words: Int32Array
  /** One word for each connection of the limit: 1 + the slot of the worker that holds it; 0 if it is free. */
  readonly #places: Int32Array
  /** The places that this worker holds. */
  readonly #held: number[] = []
  /** Where the next search for a free place begins. */
  #next = 0
  /** Which slots have a worker. Only the supervisor knows. */
  readonly #used = new Array<boolean>(maxSlots).fill(false)

  /** Makes the file. `limit` is the maximum number of connections over all workers; 0: none. */
  static create(path: string, limit: number): Scoreboard {
    // Written, so that a full disk is an error now, and not a SIGBUS later. The sticky bit keeps systemd-tmpfiles(8)
    // from removing it from a temporary directory after 10 days.
    writeFileSync(path, new Uint8Array((firstPlace + limit) * bytesPerWord), { flag: 'wx', mode: 0o1600 })
    return Scoreboard.open(path)
  }

  /** Maps a file that `create` has made. */
  static open(path: string): Scoreboard {
    const fd = openSync(path, 'r+')
    try {
      return new Scoreboard(fd)
    } finally {
      closeSync(fd)
    }
  }

  private constructor(fd: number) {
    this.#words = new Int32Array(check(binding.mapShared(fd, fstatSync(fd).size), 'mmap'))
    this.#places = this.#words.subarray(firstPlace)
  }

  /** Whether the number of connections is limited. */
  get isLimited(): boolean {
    return this.#places.length > 0
  }

  /** Whether another connection is within the limit. */
  get hasRoom(): boolean {
    return !this.isLimited || this.#findFree() >= 0
  }

  /** Takes a place for a worker. Returns false if none is free. */
  take(slot: number): boolean {
    for (let place = this.#findFree(); place >= 0; place = this.#findFree()) {
      if (Atomics.compareExchange(this.#places, place, 0, slot + 1) !== 0) continue
      this.#held.push(place)
      return true
    }
    return false
  }

  /** Gives back a place that this worker has taken. */
  giveBack(): void {
    const place = this.#held.pop() as number
    Atomics.store(this.#places, place, 0)
    this.#next = place
  }

  /** Returns a free place, or -1. */
  #findFree(): number {
    const { length } = this.#places
    for (let i = 0; i < length; i++) {
      const place = (this.#next + i) % length
      if (Atomics.load(this.#places, place) !== 0) continue
      this.#next = place
      return place
    }
    return -1
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

  /** The event loop of a worker runs: see heartbeat.ts. Times are in ms. */
  beat(slot: number, now: number, delay: number): void {
    Atomics.store(this.#words, wordOf(slot, DELAY), delay)
    Atomics.store(this.#words, wordOf(slot, BEAT), now)
  }

  /** What a worker has written last; zeros if nothing. */
  heartbeat(slot: number): { last: number; delay: number } {
    const word = (index: number) => Atomics.load(this.#words, wordOf(slot, index))
    return { last: word(BEAT), delay: word(DELAY) }
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
    this.beat(slot, 0, 0)
    // The worker has ended, so no other process changes its places.
    for (const [place, holder] of this.#places.entries()) if (holder === slot + 1) Atomics.store(this.#places, place, 0)
  }
}

const wordOf = (slot: number, word: number) => (slot + 1) * wordsPerLine + word
