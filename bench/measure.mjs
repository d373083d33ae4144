// Processes to measure, and figures made of what they say.
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Of this directory, whoever the current one is. */
export const fileOf = (name) => fileURLToPath(new URL(name, import.meta.url))

let directory

/** A name for a compiled program or a unix socket, in a directory that goes when the process exits. */
export function scratch(name) {
  if (directory === undefined) {
    directory = mkdtempSync(join(tmpdir(), 'async-accept-bench-'))
    process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  }
  return join(directory, name)
}

/** Compiles bench/native/<name>.c and says where the program is. */
export function compile(name) {
  const program = scratch(name)
  const source = fileOf(`native/${name}.c`)
  const { status, error } = spawnSync('cc', ['-O2', '-Wall', '-Wextra', '-o', program, source], { stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) throw new Error(`cc ${source} failed`)
  return program
}

/** The CPUs that this process may use. */
export function cpus() {
  const [, list] = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return list.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

let chosen

/** Where servers and loads run; null when they cannot be kept apart. */
export function cores() {
  if (chosen === undefined) {
    const all = cpus()
    const apart = all.length > 1 && spawnSync('taskset', ['--version']).status === 0
    chosen = apart ? { server: all.at(-1), load: all[0] } : null
  }
  return chosen
}

const pinned = (role, command) => (cores() ? ['taskset', '-c', String(cores()[role]), ...command] : command)

const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** A contender in a process of its own, which speaks the protocol of serve.mjs. */
export class Server {
  static async start(command) {
    const [program, ...args] = pinned('server', command)
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    running.add(child)
    child.once('exit', () => running.delete(child))
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

  get pid() {
    return this.#child.pid
  }

  /** What it has used so far: { user, system, connections }. */
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
    if (done) throw new Error(`${this.#child.spawnargs.join(' ')} ended before its time`)
    return JSON.parse(value)
  }
}

/** Runs a program that makes load, and gives the JSON that it prints. */
export async function load(command) {
  const [program, ...args] = pinned('load', command.map(String))
  const { stdout } = await run(program, args)
  return JSON.parse(stdout)
}

/**
 * CPU per connection (us) and connections per second of a server under `makeLoad(server, connections)`, which returns
 * { connections, failures, seconds }.
 */
export async function underLoad(command, makeLoad, { warmUp, connections }) {
  const server = await Server.start(command)
  const expect = (what, { connections: count, failures = 0 }, wanted) => {
    if (count !== wanted || failures !== 0) {
      throw new Error(`${command.join(' ')}: ${what} ${count} of ${wanted} connections, ${failures} failures`)
    }
  }
  expect('warm-up made', await makeLoad(server, warmUp), warmUp)
  const before = await server.mark()
  const result = await makeLoad(server, connections)
  const after = await server.mark()
  await server.stop()
  expect('load made', result, connections)
  expect('server saw', { connections: after.connections - before.connections }, connections)
  const each = (name) => (after[name] - before[name]) / connections
  return {
    user: each('user'),
    system: each('system'),
    cpu: each('user') + each('system'),
    rate: connections / result.seconds,
  }
}

/** The middle, and the least and the most. */
export function summarize(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  return { median, least: sorted[0], most: sorted.at(-1) }
}

/**
 * `measure(contender)` for each contender in turn, round after round. The machine is not equally fast all the time; so a
 * ratio is one of two results of the same round, and what is reported is the median of such ratios.
 */
export async function inRounds(contenders, rounds, measure, progress) {
  const results = new Map(contenders.map(({ name }) => [name, []]))
  for (let round = 1; round <= rounds; round++) {
    for (const contender of contenders) {
      progress(`round ${round} of ${rounds}, ${contender.name}`)
      results.get(contender.name).push(await measure(contender))
    }
  }
  return {
    of: (name, figure) => summarize(results.get(name).map((result) => result[figure])),
    ratio: (name, to, figure = 'cpu') =>
      summarize(results.get(name).map((result, round) => result[figure] / results.get(to)[round][figure])),
  }
}
