import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'
import { onReady } from '../core/readiness.js'
import type { AcceptGate } from '../serve/accept-gate.js'
import { Serving } from '../serve/serving.js'
import type { Other, Scoreboard } from './scoreboard.js'

// ms between two looks while clients wait that this worker may not accept. An event loop that is not blocked accepts in
// less, unless all CPUs are busy.
const lookInterval = 5
// The number of looks, each with a client that waits, in which a worker accepts nothing until it counts as blocked.
// With 8 busy workers on 2 CPUs, the scheduler may keep one waiting for 20 ms.
const patience = 10
// ms for which this worker then does not wait for the blocked one, unless it accepts again.
const blockedTime = 2_000
// The same while all places are taken: a place becomes free less often.
const fullInterval = 10

/**
 * How much more than the least a worker may have before it stands back: a few, so that a difference of one connection
 * does not delay clients, and an eighth, which keeps the most within 1.5 times the least.
 */
const allowance = (least: number) => least + 2 + (least >> 3)

const isSame = (a: Other, b: Other) => a.slot === b.slot && a.accepted === b.accepted

/** The share of one worker in the clients of all. */
export class FairShare {
  readonly #board: Scoreboard
  readonly #slot: number
  readonly #gates = new Map<Serving, Gate>()
  #connections = 0
  #isAdmitted: boolean
  #isReading = false
  /** The number of connections that came by add() while no place was free. */
  #withoutPlace = 0
  /** The workers that do not accept, by slot, as they were, and the time until which they are ignored. */
  readonly #blocked = new Map<number, { other: Other; until: number }>()

  /** `isAdmitted`: whether it accepts before `admit()`. */
  constructor(board: Scoreboard, slot: number, isAdmitted: boolean) {
    this.#board = board
    this.#slot = slot
    this.#isAdmitted = isAdmitted
  }

  /** Whether this worker may accept. */
  get isAdmitted(): boolean {
    return this.#isAdmitted
  }

  /** Lets this worker accept from now on. */
  admit(): void {
    if (this.#isAdmitted) return
    this.#isAdmitted = true
    this.#adjust()
  }

  /** Whether the event loop has not yet had the time to read what the last client has sent. */
  get isReading(): boolean {
    return this.#isReading
  }

  #adjust(): void {
    for (const gate of this.#gates.values()) gate.adjust()
  }

  // A client that was accepted now would wait for the first request of the last one, also when another worker has
  // nothing to do. libuv polls the new fd in the next poll phase. The second of two immediates runs after that phase.
  #readFirst(): void {
    this.#isReading = true
    setImmediate(() =>
      setImmediate(() => {
        this.#isReading = false
        this.#adjust()
      }),
    )
  }

  /** Makes a Serving accept one client at a time, and only within the share. */
  limit(serving: Serving): void {
    const gate = new Gate(this, serving)
    this.#gates.set(serving, gate)
    gate.adjust = Serving.limitBy(serving, gate)
  }

  /** Those that accept. */
  get servings(): readonly Serving[] {
    return [...this.#gates.keys()]
  }

  get gates(): readonly Gate[] {
    return [...this.#gates.values()]
  }

  /** The Serving accepts no more. */
  stop(serving: Serving): void {
    this.#gates.get(serving)?.stop()
    this.#gates.delete(serving)
  }

  /** Takes a place for a connection that will be accepted. */
  take(): boolean {
    return !this.#board.isLimited || this.#board.take(this.#slot)
  }

  /** Whether a place is free. */
  get hasRoom(): boolean {
    return this.#board.hasRoom
  }

  giveBack(): void {
    if (this.#board.isLimited) this.#board.giveBack()
  }

  accepted(hasPlace: boolean): void {
    // add() brings connections without a place. They count if one is free.
    if (!hasPlace && !this.take()) this.#withoutPlace++
    this.#connections++
    this.#readFirst()
    this.publish()
  }

  released(): void {
    if (this.#withoutPlace > 0) this.#withoutPlace--
    else this.giveBack()
    this.#connections--
    this.publish()
  }

  /** Whether other workers have so many fewer connections that they shall accept the next client. */
  get isAhead(): boolean {
    return this.othersBehind.length > 0
  }

  /** The workers that have so many fewer connections that they shall accept the next client. */
  get othersBehind(): Other[] {
    const others = this.#board.othersAsking(this.#slot)
    return others.filter((other) => this.#connections > allowance(other.connections) && !this.#isBlocked(other))
  }

  #isBlocked(other: Other): boolean {
    const blocked = this.#blocked.get(other.slot)
    if (blocked === undefined) return false
    if (isSame(blocked.other, other) && performance.now() < blocked.until) return true
    this.#blocked.delete(other.slot)
    return false
  }

  /** Clients waited while these workers accepted nothing. */
  noteBlocked(others: readonly Other[]): void {
    for (const other of others) this.#blocked.set(other.slot, { other, until: performance.now() + blockedTime })
  }

  publish(): void {
    this.#board.set(
      this.#slot,
      this.#connections,
      this.gates.some(({ isAsking }) => isAsking),
    )
  }
}

/** The gate of one Serving. */
class Gate implements AcceptGate {
  /** Whether no other limit of the Serving keeps it from accepting. */
  isAsking = false
  adjust = () => {}
  readonly #share: FairShare
  readonly #serving: Serving
  /** Whether a place is taken for the next connection. */
  #hasPlace = false
  /** Copies of the listening fds, to watch them while no request is outstanding. */
  readonly #copies: number[] = []
  #unwatch: (() => void) | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(share: FairShare, serving: Serving) {
    this.#share = share
    this.#serving = serving
  }

  room(isWanted: boolean): number {
    const asks = isWanted && this.#share.isAdmitted
    if (asks !== this.isAsking) {
      this.isAsking = asks
      this.#share.publish()
    }
    if (!asks) {
      this.#rest()
      this.#unwatch?.()
      return 0
    }
    if (this.#share.isReading) return 0
    if (this.#share.isAhead) this.#rest()
    else if (!this.#hasPlace) this.#hasPlace = this.#share.take() || this.#takeFromIdle()
    if (this.#hasPlace) {
      this.#unwatch?.()
      return 1
    }
    this.#watch()
    // Clients may wait already, and then none may arrive.
    this.#look()
    return 0
  }

  accepted(): void {
    const hasPlace = this.#hasPlace
    this.#hasPlace = false
    this.#share.accepted(hasPlace)
  }

  released(): void {
    this.#share.released()
  }

  get #isClientWaiting(): boolean {
    return this.#serving.servedListeners.some(({ fd }) => fd >= 0 && binding.poll(fd) > 0)
  }

  // A place that waits for a client of one server of this worker must not keep the clients of another one waiting.
  #takeFromIdle(): boolean {
    const idle = this.#share.gates.find((gate) => gate.#hasPlace && !gate.#isClientWaiting)
    if (idle === undefined || !this.#isClientWaiting) return false
    idle.#hasPlace = false
    idle.adjust()
    return true
  }

  /** Gives back the place for the next connection. */
  #rest(): void {
    if (this.#hasPlace) this.#share.giveBack()
    this.#hasPlace = false
  }

  /** Waits for clients without accepting them. Each one is a reason to compare again. */
  #watch(): void {
    if (this.#unwatch !== undefined) return
    const ends: (() => void)[] = []
    this.#unwatch = () => {
      for (const end of ends) end()
      this.#unwatch = undefined
    }
    try {
      if (this.#copies.length === 0) this.#copy()
      for (const fd of this.#copies) ends.push(onReady(fd, 'read', () => this.adjust()))
    } catch {
      // There are no more fds, or no memory. `#look` does not end then.
      this.#endWatch()
    }
  }

  #copy(): void {
    for (const { fd } of this.#serving.servedListeners) {
      if (fd >= 0) this.#copies.push(check(binding.duplicate(fd), 'fcntl'))
    }
  }

  #endWatch(): void {
    this.#unwatch?.()
    for (const fd of this.#copies.splice(0)) binding.close(fd)
  }

  /**
   * Looks again after some time, until no client waits. `before`: the workers that this one has waited for, while
   * `looks` times a client waited and a place was free.
   */
  #look(looks = 0, before = this.#share.othersBehind): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        const isWaiting = this.#isClientWaiting
        if (!isWaiting && this.#unwatch !== undefined) return
        // While all places are taken, no worker accepts.
        if (!isWaiting || !this.#share.isAhead || !this.#share.hasRoom) {
          this.adjust()
          return
        }
        const idle = before.filter((each) => this.#share.othersBehind.some((other) => isSame(other, each)))
        if (looks + 1 < patience) {
          this.#look(looks + 1, idle)
          return
        }
        this.#share.noteBlocked(idle)
        this.adjust()
      },
      this.#share.hasRoom ? lookInterval : fullInterval,
    ).unref()
  }

  /** Called once, when the Serving accepts no more. */
  stop(): void {
    clearTimeout(this.#timer)
    this.#endWatch()
    this.isAsking = false
    this.#rest()
    this.#share.publish()
  }
}
