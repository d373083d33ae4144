import type { AddressInfo } from 'node:net'
import { warn, warnAtExit, warningOf } from '../core/warning.js'

/** The description of a passed fd in a warning. */
interface PassedFd {
  fd: number
  name: string
  kind: string
  address?: AddressInfo | string
}

// ms between the last call and the warning. A program may take its sockets one by one while it starts.
const warningDelay = 1_000

/**
 * Tracks the passed fds that the program has not taken, and emits a warning about them. A program that requests a name
 * that the socket unit does not have receives no listener. It often listens elsewhere then, and the clients of the
 * socket unit wait.
 */
export class UntakenFds {
  readonly #fds: Map<number, PassedFd>
  readonly #requestedNames = new Set<string>()
  readonly #missingNames = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(passed: readonly PassedFd[]) {
    this.#fds = new Map(passed.map((each) => [each.fd, each]))
  }

  /** Called when the program has taken an fd. */
  markTaken(fd: number): void {
    this.#fds.delete(fd)
  }

  /**
   * Called when the program has the whole list. It may take fds in ways that are not tracked, for example with `dgram`.
   */
  markAllTaken(): void {
    this.#fds.clear()
  }

  /** Called when the program requests fds. Restarts the timer of the warning, which does not keep the process alive. */
  restartTimer(): void {
    clearTimeout(this.#timer)
    if (this.#fds.size === 0) return
    this.#timer = setTimeout(() => {
      if (this.#fds.size === 0) return
      const asked = this.#requestedNames.size === 0 ? '' : `; it has asked for ${quoted(this.#requestedNames)}`
      const untaken = `This process has not taken fds that were passed to it: ${this.#describeFds()}${asked}`
      const remedy = 'Take them with activatedListeners() or activation(), or remove them from the socket unit'
      this.#warn(`${untaken}. ${remedy}`, warn)
    }, warningDelay).unref()
  }

  /**
   * Called when the program requests the listeners of a name. `passed`: whether there are any. If not, emits the
   * warning in the next tick. Omits it if the program has taken every listener by then, because the name may be
   * optional.
   */
  noteRequest(name: string, passed: boolean): void {
    this.#requestedNames.add(name)
    if (passed) return
    if (this.#missingNames.size === 0) {
      // The program may now listen on the same address and exit with EADDRINUSE before the next tick.
      process.once('exit', () => this.#warnOfNames(warnAtExit))
    }
    this.#missingNames.add(name)
    process.nextTick(() => this.#warnOfNames(warn))
  }

  #warnOfNames(emit: (warning: Error) => void): void {
    if (![...this.#fds.values()].some(({ kind }) => kind === 'listener')) return
    const remedy = 'Ask for one of these names, or change FileDescriptorName= in the socket unit'
    const missing = `No listener named ${quoted(this.#missingNames)} was passed to this process`
    this.#warn(`${missing}. The fds that it has not taken are ${this.#describeFds()}. ${remedy}`, emit)
  }

  #describeFds(): string {
    return [...this.#fds.values()].map(describe).join(', ')
  }

  // Warns about each fd once.
  #warn(message: string, emit: (warning: Error) => void): void {
    this.#fds.clear()
    emit(warningOf('ASYNC_ACCEPT_UNTAKEN_FD', message))
  }
}

const quoted = (names: Iterable<string>) => [...names].map((name) => `'${name}'`).join(', ')

function describe({ name, kind, fd, address }: PassedFd): string {
  const at = typeof address === 'object' ? `${address.address} port ${address.port}` : address?.replace('\0', '@')
  return `'${name}' (${[kind, `fd ${fd}`, ...(at ? [at] : [])].join(', ')})`
}
