import { cleanUp, until } from './helpers.js'

export type Warning = Error & { code?: string }

/** The process warnings of the current test, which are not printed to stderr. */
export function takeWarnings(): Warning[] {
  const warnings: Warning[] = []
  const usual = process.listeners('warning')
  process.removeAllListeners('warning')
  process.on('warning', (warning) => warnings.push(warning))
  cleanUp(() => {
    process.removeAllListeners('warning')
    for (const listener of usual) process.on('warning', listener)
  })
  return warnings
}

const collectGarbage = (globalThis as unknown as { gc: () => void }).gc

/** Resolves when `condition` holds. Collects garbage before each check. */
export function untilCollected(condition: () => unknown): Promise<void> {
  return until(() => {
    collectGarbage()
    return condition()
  })
}
