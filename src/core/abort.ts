import { addAbortListener } from 'node:events'
import { runSafely } from './errors.js'

interface SharedListener {
  readonly callbacks: Set<() => void>
  stop(): void
}

const sharedListeners = new WeakMap<AbortSignal, SharedListener>()

/**
 * Calls `run` when the signal is aborted, unless the returned function is called first. Throws what the signal's
 * `addEventListener` throws, so call this function before starting work that would have to be undone.
 *
 * All waits on one signal share one listener. Node warns of a leak when a signal has more than ten listeners, and
 * removes a listener by linear search. A listener of `addAbortListener` runs even if an earlier one calls
 * `stopImmediatePropagation()`.
 */
export function onAbort(signal: AbortSignal, run: () => void): () => void {
  const { callbacks, stop } = sharedListeners.get(signal) ?? listenTo(signal)
  callbacks.add(run)
  return () => {
    if (callbacks.delete(run) && callbacks.size === 0) stop()
  }
}

function listenTo(signal: AbortSignal): SharedListener {
  const callbacks = new Set<() => void>()
  const listener = () => {
    sharedListeners.delete(signal)
    for (const run of callbacks) {
      callbacks.delete(run)
      runSafely(run)
    }
  }
  addAbortListener(signal, listener)
  const stop = () => {
    sharedListeners.delete(signal)
    // Symbol.dispose would do the same, but Node 20 defines it in the main realm only. removeEventListener may be
    // application code.
    runSafely(() => signal.removeEventListener('abort', listener))
  }
  const shared = { callbacks, stop }
  sharedListeners.set(signal, shared)
  return shared
}
