/** @internal Returns a process warning of this package. */
export function warningOf(code: string, message: string): Error {
  return Object.assign(new Error(message), { name: 'AsyncAcceptWarning', code })
}

/** @internal Emits a process warning. Does not throw. */
export function warn(warning: Error): void {
  withoutFailure(() => process.emitWarning(warning))
}

/** @internal As `warn`, in a handler of 'exit', where the next tick does not come. Does not throw. */
export function warnAtExit(warning: Error): void {
  withoutFailure(() => process.emit('warning', warning))
}

// The application may have replaced process.emitWarning, or may handle 'warning', by a function that throws. The caller
// has more to do.
function withoutFailure(emit: () => unknown): void {
  try {
    emit()
  } catch {
    // The warning is lost.
  }
}
