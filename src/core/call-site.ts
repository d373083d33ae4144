import { setStack } from './errors.js'

/**
 * The stack of the code that called an asynchronous operation. The error of an event loop callback has no such stack.
 * V8 formats it at the first access.
 */
export interface CallSite {
  readonly stack?: unknown
}

// The beginning of each line of a stack after the message.
const frame = '\n    at '

/**
 * Captures the stack of the code that called `entry`, a public method that is running. This takes longer than a
 * request, and as much memory. So it is called only if the operation has a deadline or a signal.
 */
export function callSite(entry: (...args: never[]) => unknown): CallSite {
  const site = {} // an Error would capture its stack twice
  try {
    Error.captureStackTrace(site, entry)
  } catch {
    // Some hardened environments remove the method.
  }
  return site
}

/**
 * Replaces the frames of `error`, which was created in an event loop callback, by those of the call. Changes nothing if
 * the error has no code: it is an exception of other code. Returns the error.
 */
export function leadTo<E>(site: CallSite | undefined, error: E): E {
  if (site === undefined || !(error instanceof Error) || !('code' in error)) return error
  try {
    const { stack } = error
    const { stack: caller } = site
    // Error.prepareStackTrace of the application may have returned any value.
    if (typeof stack !== 'string' || typeof caller !== 'string') return error
    const [message] = stack.split(frame)
    const start = caller.indexOf(frame)
    if (start >= 0) setStack(error, message + caller.slice(start))
  } catch {
    // Error.prepareStackTrace of the application has thrown.
  }
  return error
}

/** Returns whether no frame of an error is code outside of Node. Such frames lead to a callback of the application. */
export function isFromNode(error: Error): boolean {
  try {
    return String(error.stack)
      .split(frame)
      .slice(1)
      .every((each) => /\(node:|^node:/.test(each))
  } catch {
    return false
  }
}
