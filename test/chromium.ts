// A headless Chromium, controlled by the DevTools protocol over a pair of pipes.
// https://chromedevtools.github.io/devtools-protocol/
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable, Writable } from 'node:stream'
import { cleanUp, temporaryDirectory } from './helpers.js'
import { needs } from './needs.js'

const flags =
  '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking ' +
  '--disable-component-update --disable-sync --disable-dev-shm-usage --ignore-certificate-errors --remote-debugging-pipe'

type Value = Record<string, unknown>

interface Message {
  id?: number
  method?: string
  params?: Value
  result?: Value
  error?: { message: string }
}

/** A tab. */
export class Tab {
  /** What the tab has reported: console output, exceptions, failed requests, violations of the security policy. */
  readonly complaints: string[] = []
  /** The number of documents that it has loaded. */
  loads = 0
  readonly #toBrowser: Writable
  readonly #answers = new Map<number, (message: Message) => void>()
  #sessionId: unknown
  #id = 0

  constructor(toBrowser: Writable, fromBrowser: Readable) {
    this.#toBrowser = toBrowser.on('error', () => {})
    let rest = ''
    fromBrowser.setEncoding('utf8').on('data', (data) => {
      const messages = (rest + data).split('\0')
      rest = messages.pop() as string
      for (const message of messages) this.#receive(JSON.parse(message))
    })
    fromBrowser.once('close', () => {
      for (const answer of this.#answers.values()) answer({ error: { message: 'Chromium has exited' } })
    })
  }

  async open(): Promise<void> {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' })
    this.#sessionId = (await this.send('Target.attachToTarget', { targetId, flatten: true })).sessionId
    for (const domain of ['Page', 'Runtime', 'Log']) await this.send(`${domain}.enable`)
    this.loads = 0
  }

  #receive({ id, method, params, ...answer }: Message): void {
    if (id !== undefined) this.#answers.get(id)?.(answer)
    else if (method === 'Page.domContentEventFired') this.loads++
    else if (/^(Runtime\.(exceptionThrown|consoleAPICalled)|Log\.entryAdded)$/.test(`${method}`))
      this.complaints.push(JSON.stringify(params))
  }

  /** Sends a command, and resolves with its result. */
  async send(method: string, params: Value = {}): Promise<Value> {
    const id = ++this.#id
    const answered = new Promise<Message>((resolve) => this.#answers.set(id, resolve))
    this.#toBrowser.write(`${JSON.stringify({ id, method, params, sessionId: this.#sessionId })}\0`)
    const { result, error } = await answered
    this.#answers.delete(id)
    if (error) throw new Error(`${method}: ${error.message}`)
    return result as Value
  }

  /** Evaluates an expression, which may be a promise. */
  async evaluate<Result>(expression: string): Promise<Result> {
    const params = { expression, returnByValue: true, awaitPromise: true }
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', params)
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails))
    return (result as { value: Result }).value
  }

  /** Resolves with the value of an expression as soon as it is not falsy. */
  async waitFor<Result = boolean>(expression: string): Promise<Result> {
    const loop = `new Promise((resolve) => {
      const check = () => { const value = ${expression}; value ? resolve(value) : setTimeout(check, 10) }
      check()
    })`
    return this.evaluate(loop)
  }
}

/** Starts Chromium with one tab, until the current test ends. Skips the test if it is not installed. */
export async function chromium(context: Mocha.Context): Promise<Tab> {
  needs(context, 'chromium', '--version')
  const args = [...flags.split(' '), `--user-data-dir=${temporaryDirectory()}`]
  const child = spawn('chromium', args, { stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] })
  child.stderr?.resume()
  const closed = once(child, 'close')
  const tab = new Tab(child.stdio[3] as Writable, child.stdio[4] as Readable)
  cleanUp(async () => {
    child.kill()
    // All processes of Chromium inherit stderr. When it is closed, none of them writes to the directory any more.
    await closed
  })
  await tab.open()
  return tab
}
