import { addAbortListener } from 'node:events'
import { runSafely } from './errors.js'

interface Waiting {
  readonly runs: Set<() => void>
  stop(): void
}

const signals = new WeakMap<AbortSignal, Waiting>()

/**
 * Calls `run` when the signal is aborted, unless the function that is returned was called before. Throws what the signal's
 * `addEventListener` throws, so it is called before anything has begun that would have to be undone.
 *
 * However many wait on one signal, it has one listener of ours: Node takes more than ten for a leak and warns of it, and
 * looks through all of them to remove one. `addAbortListener` is called also when an earlier listener has called
 * `stopImmediatePropagation()`.
 */
export function onAbort(signal: AbortSignal, run: () => void): () => void {
  const { runs, stop } = signals.get(signal) ?? listenTo(signal)
  runs.add(run)
  return () => {
    if (runs.delete(run) && runs.size === 0) stop()
  }
}

function listenTo(signal: AbortSignal): Waiting {
  const runs = new Set<() => void>()
  const listener = () => {
    signals.delete(signal)
    for (const run of runs) {
      runs.delete(run)
      runSafely(run)
    }
  }
  addAbortListener(signal, listener)
  const stop = () => {
    signals.delete(signal)
    // Not by Symbol.dispose, which Node 20 has in its main realm only. The signal may be of a class of the application.
    runSafely(() => signal.removeEventListener('abort', listener))
  }
  const waiting = { runs, stop }
  signals.set(signal, waiting)
  return waiting
}
