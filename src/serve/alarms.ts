import { runSafely } from '../core/errors.js'

/** As ranch has them: an alarm sounds when a connection comes and there are `threshold` or more. */
export interface Alarm {
  threshold: number
  /** ms for which it is silent afterwards. Default: 5,000. */
  cooldown?: number
}

const defaultCooldown = 5_000

/** The alarms of a Serving, each with its cool-down. */
export class Alarms {
  readonly #alarms: { threshold: number; cooldown: number; silentUntil: number }[]
  readonly #sound: (threshold: number, connections: number) => void

  constructor(alarms: readonly Alarm[], sound: (threshold: number, connections: number) => void) {
    this.#alarms = alarms.map(({ threshold, cooldown = defaultCooldown }) => ({
      threshold,
      cooldown,
      silentUntil: Number.NEGATIVE_INFINITY,
    }))
    this.#sound = sound
  }

  /** A connection has come; with it there are so many. */
  check(connections: number): void {
    for (const alarm of this.#alarms) {
      if (connections < alarm.threshold) continue
      const now = performance.now()
      if (now < alarm.silentUntil) continue
      alarm.silentUntil = now + alarm.cooldown
      runSafely(() => this.#sound(alarm.threshold, connections))
    }
  }
}
