// A supervisor of the soak, and what can be seen of it from outside.
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Listener, spawnActivated } from 'async-accept'
import { generate } from 'selfsigned'

const fileOf = (name) => fileURLToPath(new URL(name, import.meta.url))
const command = fileOf('../../dist/run/main.js')

/** The sockets of app.mjs, by name, and the ports that it listens on. */
const sockets = { http: 3000, https: 3001, h2c: 3002, h2: 3003 }

const { private: KEY, cert: CERT } = await generate([{ name: 'commonName', value: 'localhost' }], { keyType: 'ec' })

/** Listeners for supervisors, by name. This process keeps them open, as a service manager does. */
export async function openSockets() {
  const opened = Object.keys(sockets).map(async (name) => [name, await Listener.listen({ host: '127.0.0.1' })])
  return Object.fromEntries(await Promise.all(opened))
}

export async function waitFor(what, condition) {
  const end = performance.now() + 120_000
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`)
    await sleep(20)
  }
}

const statusOf = (pid) => {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8')
  } catch {
    return ''
  }
}

/** Whether a process exists and has not ended. */
export const isAlive = (pid) => /^State:\s+[^Z]/m.test(statusOf(pid))

export class Supervisor {
  log = ''
  #child

  /**
   * Starts a supervisor. Resolves when all workers are ready. `code`: the program; default: app.mjs. `passed`: listeners
   * that it gets instead of binding them. `directory`: that of another supervisor, which has ended.
   */
  static async start(workers, options = [], { code, passed = {}, directory } = {}) {
    const supervisor = new Supervisor(['-n', String(workers), ...options], code, passed, directory)
    await waitFor('the workers', async () => (await supervisor.status()).ready === workers)
    return supervisor
  }

  constructor(options, code, passed, directory = mkdtempSync(join(tmpdir(), 'async-accept-soak-'))) {
    this.directory = directory
    if (code !== undefined) this.write(code)
    const program = code === undefined ? fileOf('app.mjs') : this.#program
    const listen = Object.keys(sockets).flatMap((name) => ['-l', `${name}=127.0.0.1:0`])
    const map = Object.entries(sockets).map(([name, port]) => `${port}=${name}`)
    const own = { ASYNC_ACCEPT_RUN_DIRECTORY: this.directory, ASYNC_ACCEPT_INHERIT: String(map), KEY, CERT }
    this.#child = spawnActivated(
      process.execPath,
      [command, 'run', '--name', 'soak', ...listen, ...options, program],
      passed,
      {
        env: { ...process.env, ...own },
        stdio: ['ignore', 'inherit', 'pipe'],
      },
    )
    this.#child.stderr.setEncoding('utf8').on('data', (data) => {
      this.log += data
    })
    this.ended = once(this.#child, 'exit').then(([code, signal]) => code ?? signal)
    const quit = () => this.#child.kill('SIGQUIT')
    process.on('exit', quit)
    this.#child.once('exit', () => process.off('exit', quit))
  }

  get #program() {
    return join(this.directory, 'server.mjs')
  }

  /** Replaces the program that `code` was. */
  write(code) {
    writeFileSync(this.#program, code)
  }

  get pid() {
    return this.#child.pid
  }

  signal(name) {
    this.#child.kill(name)
  }

  /** Sends a request to the control socket, as the commands do. Resolves with the answer. */
  async ask(request) {
    const socket = net.connect(join(this.directory, 'soak', 'control'))
    socket.write(`${JSON.stringify(request)}\n`)
    return JSON.parse(await text(socket))
  }

  async status() {
    try {
      const { status } = await this.ask({ command: 'status' })
      return status ?? { workers: [] }
    } catch {
      return { workers: [] }
    }
  }

  /** The port of each socket, by name. */
  async ports() {
    const { sockets } = await this.status()
    return Object.fromEntries(sockets.map(({ name, address }) => [name, Number(/port (\d+)$/.exec(address)[1])]))
  }

  /** The pids of its child processes, zombies included. */
  children() {
    const tasks = readdirSync(`/proc/${this.pid}/task`)
    return tasks.flatMap((task) =>
      readFileSync(`/proc/${this.pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    )
  }

  zombies() {
    return this.children().filter((pid) => /^State:\s+Z/m.test(statusOf(pid)))
  }

  fds() {
    return readdirSync(`/proc/${this.pid}/fd`).length
  }

  /** Bytes of resident memory. */
  rss() {
    return Number(/^VmRSS:\s+(\d+)/m.exec(statusOf(this.pid))?.[1]) * 1024
  }

  async stop() {
    const verdict = await this.ask({ command: 'stop' })
    await this.ended
    rmSync(this.directory, { recursive: true, force: true })
    return verdict
  }
}
