import { runSafely } from '../core/errors.js'
import type { Names } from '../core/validate.js'

/** An alarm on the number of connections, like the alarms of ranch (Erlang). */
export interface Alarm {
  /** The alarm fires when a connection is accepted and at least this many connections are open. Minimum: 1. */
  threshold: number
  /** ms after firing during which the alarm does not fire again. Minimum: 0. Default: 5,000. */
  cooldown?: number
}

/** @internal */
export const alarmNames: Names<Alarm> = { threshold: true, cooldown: true }

const defaultCooldown = 5_000

/** @internal The alarms of a Serving. Each has its own cool-down. */
export class Alarms {
  readonly #alarms: { threshold: number; cooldown: number; silentUntil: number }[]
  readonly #onAlarm: (threshold: number, connections: number) => void

  constructor(alarms: readonly Alarm[], onAlarm: (threshold: number, connections: number) => void) {
    this.#alarms = alarms.map(({ threshold, cooldown = defaultCooldown }) => ({
      threshold,
      cooldown,
      silentUntil: Number.NEGATIVE_INFINITY,
    }))
    this.#onAlarm = onAlarm
  }

  /** Called when a connection is accepted. `connections` is the number of open connections, including the new one. */
  check(connections: number): void {
    for (const alarm of this.#alarms) {
      if (connections < alarm.threshold) continue
      const now = performance.now()
      if (now < alarm.silentUntil) continue
      alarm.silentUntil = now + alarm.cooldown
      runSafely(() => this.#onAlarm(alarm.threshold, connections))
    }
  }
}
