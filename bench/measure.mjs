// Measured processes, and statistics of their results.
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Returns the path of a file in this directory. */
export const fileOf = (name) => fileURLToPath(new URL(name, import.meta.url))

let directory

/** Returns a path in a temporary directory, which is removed when the process exits. */
export function scratch(name) {
  if (directory === undefined) {
    directory = mkdtempSync(join(tmpdir(), 'async-accept-bench-'))
    process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  }
  return join(directory, name)
}

const compiled = new Set()

/** Compiles bench/native/<name>.c once, and returns the path of the program. */
export function compile(name) {
  const program = scratch(name)
  if (compiled.has(program)) return program
  const source = fileOf(`native/${name}.c`)
  const { status, error } = spawnSync('cc', ['-O2', '-Wall', '-Wextra', '-o', program, source, '-lm'], {
    stdio: 'inherit',
  })
  if (error) throw error
  if (status !== 0) throw new Error(`cc ${source} failed`)
  compiled.add(program)
  return program
}

/** Returns the numbers of the CPUs that this process may use. */
export function cpus() {
  const [, list] = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return list.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

let chosen

/** Returns the CPU for servers and the CPU for loads; null when they cannot be separated. */
export function cores() {
  if (chosen === undefined) {
    const all = cpus()
    const apart = all.length > 1 && spawnSync('taskset', ['--version']).status === 0
    chosen = apart ? { server: all.at(-1), load: all[0] } : null
  }
  return chosen
}

/** Returns a command that runs on the CPU of the servers or of the loads. */
export const pinned = (role, command) => (cores() ? ['taskset', '-c', String(cores()[role]), ...command] : command)

/** The prefix of a command that shall not be pinned: a server of several threads or processes. */
export const onAllCpus = () => (cores() ? ['taskset', '-c', cpus().join(',')] : [])

const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Kills the child process when this process exits. */
export function killAtExit(child) {
  running.add(child)
  child.once('exit', () => running.delete(child))
}

/** A contender in a separate process, which implements the protocol of serve.mjs. */
export class Server {
  static async start(command) {
    const [program, ...args] = pinned('server', command)
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    killAtExit(child)
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const server = new Server(child, lines)
    server.address = await server.#say()
    return server
  }

  #child
  #lines

  constructor(child, lines) {
    this.#child = child
    this.#lines = lines
  }

  get command() {
    return this.#child.spawnargs.join(' ')
  }

  get pid() {
    return this.#child.pid
  }

  /** Returns the totals since the start of the process: { user, system, connections }. */
  async mark() {
    this.#child.stdin.write('mark\n')
    return this.#say()
  }

  async stop() {
    const ended = once(this.#child, 'exit')
    this.#child.stdin.end()
    await ended
  }

  async #say() {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`${this.command} exited prematurely`)
    return JSON.parse(value)
  }
}

/** Runs a load generator, and returns the JSON that it prints. */
export async function load(command) {
  const [program, ...args] = pinned('load', command.map(String))
  const { stdout } = await run(program, args)
  return JSON.parse(stdout)
}

/** Loads a server, and returns its CPU per connection (us) and the connections per second. */
export async function underLoad(server, makeLoad, connections) {
  const expect = (what, { connections: count, failures = 0 }) => {
    if (count === connections && failures === 0) return
    throw new Error(`${server.command}: ${what} ${count} of ${connections} connections, ${failures} failures`)
  }
  const before = await server.mark()
  const result = await makeLoad(server, connections)
  const after = await server.mark()
  expect('load made', result)
  expect('server saw', { connections: after.connections - before.connections })
  return { ...cpuBetween(before, after), rate: connections / result.seconds }
}

/** Returns the CPU per connection (us) between two marks of a server. */
export function cpuBetween(before, after) {
  const each = (name) => (after[name] - before[name]) / (after.connections - before.connections)
  return { user: each('user'), system: each('system'), cpu: each('user') + each('system') }
}

/** Returns a percentile of sorted values. */
export const percentile = (sorted, percent) =>
  sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))]

/** Returns the median, the minimum (`least`) and the maximum (`most`). */
export function summarize(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  return { median, least: sorted[0], most: sorted.at(-1) }
}
