// The ways to run several processes of a server that bench/workers.mjs compares.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { fileOf, killAtExit, scratch } from './measure.mjs'
import { cpuOf, family, memoryOf } from './processes.mjs'
import { install } from './runtimes.mjs'

const run = promisify(execFile)
const server = fileOf('workers-server.cjs')
const main = fileOf('../dist/run/main.js')
const primary = fileOf('workers-primary.mjs')

/** A process that may have child processes, and serves on `port`. */
export class Group {
  #child
  #lines = []
  #onLine = () => {}
  #fail = () => {}
  #environment

  constructor([program, ...args], port, environment) {
    this.address = { port }
    this.#environment = { ...process.env, PORT: String(port), ...environment }
    this.#child = spawn(program, args, { env: this.#environment, stdio: ['ignore', 'pipe', 'pipe'] })
    killAtExit(this.#child)
    let errors = ''
    this.#child.stderr.setEncoding('utf8').on('data', (data) => {
      errors += data
    })
    createInterface({ input: this.#child.stdout })
      .on('line', (line) => {
        this.#lines.push(line)
        this.#onLine()
      })
      .on('close', () => this.#fail(new Error(`${args.join(' ')} has ended:\n${errors}`)))
  }

  get pid() {
    return this.#child.pid
  }

  /** Resolves when the process and its children have printed a line `count` times since the last call. */
  async said(line, count = 1) {
    await new Promise((resolve, reject) => {
      this.#fail = reject
      this.#onLine = () => {
        if (this.#lines.filter((each) => each === line).length >= count) resolve()
      }
      this.#onLine()
    })
    this.#lines = []
  }

  /** Runs a command with the environment of the process. Rejects if it fails. */
  async command([program, ...args]) {
    await run(program, args, { env: this.#environment })
  }

  kill(signal) {
    this.#child.kill(signal)
  }

  /** Returns the CPU time of all processes, in us. */
  get cpu() {
    return cpuOf(family(this.pid))
  }

  /** Returns the memory of the first process. */
  memory() {
    return memoryOf(this.pid)
  }

  /** Returns the memory of all processes, none of which may end meanwhile, as PSS. */
  memoryOfAll() {
    return family(this.pid).reduce((sum, pid) => sum + memoryOf(pid).pss, 0)
  }

  async stop() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const ended = once(this.#child, 'exit')
    this.kill('SIGTERM')
    await ended
  }
}

async function freePort() {
  const listener = net.createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address()
  await once(listener.close(), 'close')
  return port
}

/** Resolves when `count` processes have answered a request. */
async function answered({ address: { port } }, count) {
  const pids = new Set()
  while (pids.size < count) {
    const request = http.get({ host: '127.0.0.1', port, agent: false })
    const response = await once(request, 'response').catch(() => [])
    if (response.length > 0) pids.add(await text(response[0]))
  }
}

async function startNode({ node }) {
  const group = new Group([node, server], await freePort(), {})
  await group.said('listening')
  return group
}

async function startOurs({ node, workers }) {
  const port = await freePort()
  const options = ['-n', workers, '-l', `127.0.0.1:${port}`, '--settle', '0'].map(String)
  const environment = { ASYNC_ACCEPT_RUN_DIRECTORY: scratch(`run-${port}`) }
  const group = new Group([node, main, 'run', ...options, server], port, environment)
  group.reload = () => group.command([node, main, 'reload'])
  await group.said('listening', workers)
  return group
}

const startCluster =
  (policy) =>
  async ({ node, workers }) => {
    const group = new Group([node, primary, policy, String(workers), server], await freePort(), {})
    group.reload = () => {
      group.kill('SIGHUP')
      return group.said('reloaded')
    }
    await group.said('listening', workers)
    return group
  }

const startPm2 =
  (directory, more = {}) =>
  async ({ node, workers }) => {
    const port = await freePort()
    const home = scratch(`pm2-${port}`)
    mkdirSync(home)
    const environment = { PM2_HOME: home, PM2_DISABLE_VERSION_CHECK: 'true', PM2_DISCRETE_MODE: 'true', ...more }
    // What `pm2 start` starts in the background if it does not run yet.
    const group = new Group([node, join(directory, 'lib/Daemon.js')], port, environment)
    const command = (...words) => group.command([node, join(directory, 'bin/pm2'), ...words.map(String)])
    group.reload = () => command('reload', 'server')
    await connected(join(home, 'rpc.sock'))
    await command('start', server, '--name', 'server', '-i', workers)
    await answered(group, workers)
    return group
  }

/** Resolves when a unix socket accepts connections. */
async function connected(path) {
  for (;;) {
    const socket = net.connect(path)
    const isOpen = await once(socket, 'connect').catch(() => false)
    socket.destroy()
    if (isOpen) return
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export const plain = { name: 'node server.js', start: startNode }
export const ours = { name: 'async-accept run', start: startOurs }
export const roundRobin = { name: 'cluster, round robin', start: startCluster('rr') }
export const noPolicy = { name: 'cluster, SCHED_NONE', start: startCluster('none') }

/**
 * Returns { unchanged, handled }: pm2 with the unchanged server, and with a server that handles SIGINT. Or
 * { missing: why } if pm2 cannot be installed.
 */
export function pm2() {
  try {
    const directory = install('pm2')
    const { version } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
    const name = `pm2 ${version}`
    const handled = { name: `${name}, SIGINT handled`, start: startPm2(directory, { HANDLE_SIGINT: '1' }) }
    return { unchanged: { name, start: startPm2(directory) }, handled }
  } catch (error) {
    return { missing: error.message }
  }
}
