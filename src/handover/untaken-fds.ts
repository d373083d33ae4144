import type { AddressInfo } from 'node:net'

/** A file descriptor of the activation, as a warning names it. */
interface PassedFd {
  fd: number
  name: string
  kind: string
  address?: AddressInfo | string
}

// A program may take its sockets one after the other while it starts, so each step begins the time anew.
const patience = 1_000

/**
 * The fds of an activation that the program has not taken. It is warned of them: a program that asks for another name
 * than the socket unit has gets none, and often listens elsewhere then, while the clients of its socket wait.
 */
export class UntakenFds {
  readonly #fds: Map<number, PassedFd>
  readonly #asked = new Set<string>()
  readonly #missed = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(passed: readonly PassedFd[]) {
    this.#fds = new Map(passed.map((each) => [each.fd, each]))
  }

  /** The program has taken it. */
  took(fd: number): void {
    this.#fds.delete(fd)
  }

  /** The program has the list of them all, and may take them in ways that are not seen here, `dgram` for instance. */
  listed(): void {
    this.#fds.clear()
  }

  /** The program has asked for something: it gets time to ask for the rest. Keeps no process alive. */
  wait(): void {
    clearTimeout(this.#timer)
    if (this.#fds.size === 0) return
    this.#timer = setTimeout(() => {
      if (this.#fds.size === 0) return
      const asked = this.#asked.size === 0 ? '' : `, and has asked for ${quoted(this.#asked)}`
      const remedy = 'Take them with activatedListeners() or activation(), or remove them from the unit'
      this.#warn(`This process has not taken what was passed to it: ${this.#list()}${asked}. ${remedy}`, emitWarning)
    }, patience).unref()
  }

  /**
   * The program has asked for the listeners of a name. Where there are none, it is warned on the next tick, unless it has
   * taken every listener by then: a name may be optional.
   */
  asked(name: string, passed: boolean): void {
    this.#asked.add(name)
    if (passed) return
    if (this.#missed.size === 0) {
      // It may listen on the same address next, and end with EADDRINUSE before the tick.
      process.once('exit', () => this.#warnOfNames((warning) => process.emit('warning', warning)))
    }
    this.#missed.add(name)
    process.nextTick(() => this.#warnOfNames(emitWarning))
  }

  #warnOfNames(emit: (warning: Error) => void): void {
    if (![...this.#fds.values()].some(({ kind }) => kind === 'listener')) return
    const remedy = 'Ask for one of these names, or change FileDescriptorName= in the socket unit'
    this.#warn(
      `No listener with the name ${quoted(this.#missed)} was passed to this process, but ${this.#list()}. ${remedy}`,
      emit,
    )
  }

  #list(): string {
    return [...this.#fds.values()].map(describe).join(', ')
  }

  // Each fd is named once.
  #warn(message: string, emit: (warning: Error) => void): void {
    this.#fds.clear()
    const warning = Object.assign(new Error(message), { name: 'AsyncAcceptWarning', code: 'ASYNC_ACCEPT_UNTAKEN_FD' })
    try {
      emit(warning)
    } catch {
      // Something has replaced emitWarning, and fails. The program goes on.
    }
  }
}

const quoted = (names: Iterable<string>) => [...names].map((name) => `'${name}'`).join(', ')
const emitWarning = (warning: Error) => process.emitWarning(warning)

function describe({ name, kind, fd, address }: PassedFd): string {
  const at = typeof address === 'object' ? `${address.address} port ${address.port}` : address?.replace('\0', '@')
  return `'${name}' (${[kind, `fd ${fd}`, ...(at ? [at] : [])].join(', ')})`
}
