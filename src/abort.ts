const waiting = new WeakMap<AbortSignal, Set<() => void>>()

function aborted(this: AbortSignal): void {
  const runs = waiting.get(this)
  waiting.delete(this)
  for (const run of runs ?? []) run()
}

/**
 * Calls `run`, which must not throw, when the signal is aborted, unless the function that is returned was called before.
 * However many wait on one signal, it has one listener of ours: Node takes more than ten for a leak and warns of it, and
 * looks through all of them to remove one.
 */
export function onAbort(signal: AbortSignal, run: () => void): () => void {
  const runs = waiting.get(signal) ?? new Set()
  if (runs.size === 0) {
    waiting.set(signal, runs)
    signal.addEventListener('abort', aborted, { once: true })
  }
  runs.add(run)
  return () => {
    if (!runs.delete(run) || runs.size > 0) return
    waiting.delete(signal)
    signal.removeEventListener('abort', aborted)
  }
}
