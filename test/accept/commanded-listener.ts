import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import net from 'node:net'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import type { Backlog, ListenerStats, ListenOptions } from '../../src/index.js'
import { cleanUp, startNode } from '../helpers.js'

/** A line that the process prints: see fixtures/commanded-listener.mjs. */
export interface Said {
  event: string
  ref?: number
  refs?: number[]
  outcomes?: boolean[]
  code?: string
  errno?: number
  syscall?: string
  delay?: number
  pending?: number
  own?: boolean
  cpu?: number
  wall?: number
  turns?: number
  port?: number
  backlog?: Backlog
  stats?: ListenerStats
}

export interface Look {
  backlog: Backlog
  pending: number
  stats: ListenerStats
}

/** A listener in another process. The clients are in this process, so they use no fds of the listener's process. */
export class CommandedListener {
  readonly said: Said[] = []
  readonly #child
  readonly #stderr: Promise<string>
  // Emits 'change' when there is new output, or when the process exits.
  readonly #news = new EventEmitter()
  #port = 0
  #clients = 0

  private constructor(options: ListenOptions, command: readonly string[]) {
    this.#child = startNode('commanded-listener.mjs', [JSON.stringify(options)], command)
    this.#stderr = text(this.#child.stderr as NodeJS.ReadableStream)
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      this.said.push(JSON.parse(line))
      this.#news.emit('change')
    })
    this.#child.once('exit', () => this.#news.emit('change'))
  }

  static async start(options: ListenOptions = {}, command: readonly string[] = []): Promise<CommandedListener> {
    const listener = new CommandedListener(options, command)
    listener.#port = (await listener.#next('listening')).port as number
    return listener
  }

  /** Every line with this event, in order. */
  all(event: string): Said[] {
    return this.said.filter((each) => each.event === event)
  }

  /** Resolves when the process has printed at least `count` lines with this event. */
  async has(count: number, event: string): Promise<Said[]> {
    // Not `until`: polling here would take the CPU from the process.
    while (this.all(event).length < count) {
      assert.equal(this.#child.exitCode ?? this.#child.signalCode, null, 'the process has exited')
      await once(this.#news, 'change')
    }
    return this.all(event)
  }

  /** Makes requests. Resolves with their refs. */
  async ask(count: number, timeout?: number): Promise<number[]> {
    return (await this.#answer('asked', { run: 'ask', count, timeout })).refs as number[]
  }

  async cancel(...refs: number[]): Promise<boolean[]> {
    return (await this.#answer('cancelled', { run: 'cancel', refs })).outcomes as boolean[]
  }

  async look(): Promise<Look> {
    return (await this.#answer('look', { run: 'look' })) as Look & Said
  }

  /** Uses up all free fds of the process. */
  async exhaust(): Promise<void> {
    assert.equal((await this.#answer('exhausted', { run: 'exhaust' })).code, 'EMFILE')
  }

  async free(count?: number): Promise<void> {
    await this.#answer('freed', { run: 'free', count })
  }

  tell(run: 'hold' | 'serve' | 'close'): void {
    this.#send({ run })
  }

  /** Ends the process as an operator would, and asserts that it exits cleanly. */
  async end(): Promise<void> {
    const closed = once(this.#child, 'close')
    this.#child.stdin?.end()
    assert.deepEqual(await closed, [0, null])
    assert.equal(await this.#stderr, '')
  }

  /**
   * Connects a client. Resolves when the client is in the backlog or was accepted. `outcome` is the text that it
   * receives, or the code of its error.
   */
  async connect(): Promise<{ outcome: Promise<string> }> {
    const socket = net.connect({ port: this.#port, host: '127.0.0.1' })
    cleanUp(() => socket.destroy())
    let received = ''
    socket.setEncoding('utf8').on('data', (chunk) => {
      received += chunk
    })
    const outcome = new Promise<string>((resolve) => {
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code as string))
      socket.on('close', () => resolve(received))
    })
    // A client that is reset at once may see the reset before the connect.
    await Promise.race([new Promise((resolve) => socket.once('connect', resolve)), outcome])
    this.#clients++
    // The kernel queues a connection slightly after the client sees it as connected.
    for (let there = 0; there < this.#clients; ) {
      const { backlog, stats } = await this.look()
      there = backlog.queued + stats.accepted + stats.reset
    }
    return { outcome }
  }

  /** Connects `count` clients, one after the other, so that the backlog has them in this order. */
  async connectMany(count: number): Promise<{ outcome: Promise<string> }[]> {
    const clients = []
    for (let i = 0; i < count; i++) clients.push(await this.connect())
    return clients
  }

  async #next(event: string): Promise<Said> {
    const before = this.all(event).length
    return (await this.has(before + 1, event))[before] as Said
  }

  #answer(event: string, command: object): Promise<Said> {
    const answer = this.#next(event)
    this.#send(command)
    return answer
  }

  #send(command: object): void {
    this.#child.stdin?.write(`${JSON.stringify(command)}\n`)
  }
}

/** The outcomes of all clients. */
export const outcomes = (clients: readonly { outcome: Promise<string> }[]): Promise<string[]> =>
  Promise.all(clients.map(({ outcome }) => outcome))
