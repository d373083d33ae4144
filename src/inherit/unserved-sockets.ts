import { warn, warnAtExit, warningOf } from '../core/warning.js'
import { type Asked, describeAsked, mapKey } from './asked-address.js'
import { describeSocket, type InheritedSockets } from './inherited-sockets.js'

// ms from the start, or from the last listen() on another address, to the warning. A program may first connect to a
// database.
const delay = 10_000

// Some programs listen on a new path or port again and again.
const longestList = 10

/** Emits a process warning about inherited sockets that no listen() has taken. Their clients wait in vain. */
export class UnservedSockets {
  readonly #sockets: InheritedSockets
  readonly #asked = new Map<string, Asked>()
  #timer: NodeJS.Timeout
  #warned = false

  constructor(sockets: InheritedSockets) {
    this.#sockets = sockets
    this.#timer = this.#startTimer()
    // A program whose own listen() fails with EADDRINUSE often exits before the timer.
    process.once('exit', (code) => {
      if (code === 0 || this.#asked.size > 0) this.#warn(warnAtExit)
    })
  }

  /** Called when the program listens. */
  note(asked: Asked): void {
    const text = describeAsked(asked)
    if (this.#asked.has(text) || this.#asked.size === longestList) return
    this.#asked.set(text, asked)
    clearTimeout(this.#timer)
    this.#timer = this.#startTimer()
  }

  #startTimer(): NodeJS.Timeout {
    return setTimeout(() => this.#warn(warn), delay).unref()
  }

  #warn(emit: (warning: Error) => void): void {
    const { unserved } = this.#sockets
    const [first] = unserved
    if (first === undefined || this.#warned) return
    this.#warned = true
    const asked = [...this.#asked.keys()].join(', ')
    const [key = '3000'] = [...this.#asked.values()].map(mapKey).filter((each) => each !== '0')
    const message =
      `No listen() has taken these inherited sockets: ${unserved.map(describeSocket).join(', ')}. ` +
      `The program has listened on: ${asked || 'nothing'}. ` +
      `Listen on the address of the socket, or map a port to its name: ASYNC_ACCEPT_INHERIT='${key}=${first.name}'`
    emit(warningOf('ASYNC_ACCEPT_UNTAKEN_FD', message))
  }
}
