import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Sockets } from './addresses.js'
import { type RunOptions, UsageError } from './command-line.js'
import type { Answer, Request, Status } from './control-protocol.js'
import { ControlSocket } from './control-socket.js'
import { Fleet } from './fleet.js'
import { controlSocketIn, makeRunDirectory, removeRunDirectory } from './run-directory.js'
import { Scoreboard } from './scoreboard.js'
import { ServiceState } from './service-state.js'
import { handleSignals } from './signals.js'
import { Worker, type WorkerOptions } from './worker.js'

const preload = fileURLToPath(new URL('./worker-preload.js', import.meta.url))

/**
 * Binds the sockets, starts the workers, and resolves with the exit code when all have ended. Throws `UsageError`, and
 * the errors of the system.
 */
export async function run(options: RunOptions): Promise<number> {
  let onRequest: (request: Request) => Promise<Answer> = async () => ({ ok: false, reason: 'it is starting' })
  const { name, directory, control } = await openControl(options, (request) => onRequest(request))
  try {
    const sockets = await Sockets.open(options.addresses)
    try {
      if (sockets.all.length === 0) throw new UsageError('no address to listen on: use -l, $PORT or socket activation')
      const service = new ServiceState()
      sockets.keepPaths = service.store(sockets)
      service.startWatchdog()
      return await new Promise((onEnd) => {
        const fleet = makeFleet(options, sockets, directory, service, onEnd)
        onRequest = (request) => answer(request, fleet, () => statusOf(name, fleet, sockets))
        handleSignals(fleet, log)
        log(`${name} listens on ${sockets.all.map(({ name, address }) => `${name} (${address})`).join(', ')}`)
        fleet.start()
      })
    } finally {
      sockets.close()
    }
  } finally {
    await control.close()
    removeRunDirectory(directory)
  }
}

function log(line: string): void {
  process.stderr.write(`async-accept: ${line}\n`)
}

/** Opens the control socket, whose directory belongs to this supervisor alone while it listens. */
async function openControl({ name }: RunOptions, onRequest: (request: Request) => Promise<Answer>) {
  // A name that was not chosen must not keep a second program from starting.
  const names = name.chosen ? [name.text] : [name.text, `${name.text}-${process.pid}`]
  for (const each of names) {
    const directory = makeRunDirectory(each, process.env)
    try {
      return { name: each, directory, control: await ControlSocket.open(controlSocketIn(directory), onRequest) }
    } catch (error) {
      if ((error as { code?: string }).code !== 'EADDRINUSE') throw error
    }
  }
  throw new UsageError(`a supervisor named ${name.text} runs already: choose another --name`)
}

function makeFleet(
  options: RunOptions,
  sockets: Sockets,
  directory: string,
  service: ServiceState,
  onEnd: (code: number) => void,
): Fleet<Worker> {
  const workerOptions = workerOptionsOf(options, sockets)
  // Workers of a supervisor that was killed may still drain, and notify at their paths.
  const id = randomBytes(4).toString('hex')
  const boardPath = join(directory, `scoreboard-${id}`)
  const board = Scoreboard.create(boardPath, options.maxConnections ?? 0)
  let started = 0
  const fleet: Fleet<Worker> = new Fleet<Worker>({
    target: options.workers,
    settle: options.settle,
    start(onChange) {
      const slot = board.claim()
      const env = { ...workerOptions.env, ASYNC_ACCEPT_SCOREBOARD: options.exec ? undefined : `${slot}:${boardPath}` }
      try {
        return new Worker({ ...workerOptions, env }, join(directory, `notify-${id}-${++started}`), (worker) => {
          if (worker.state === 'gone') board.clear(slot)
          onChange(worker)
        })
      } catch (error) {
        board.clear(slot)
        throw error
      }
    },
    log,
    onChange: () => service.update(fleet),
    onEnd,
  })
  return fleet
}

function workerOptionsOf(options: RunOptions, sockets: Sockets): WorkerOptions {
  const { exec, command, args, startTimeout, drainTimeout, killAfter, watchdog } = options
  return {
    command: exec ? command : process.execPath,
    args: exec ? args : ['--import', preload, command, ...args],
    listeners: sockets.byName,
    env: { ...process.env, ASYNC_ACCEPT_DRAIN_TIMEOUT: String(drainTimeout / 1000) },
    startTimeout,
    drainTimeout,
    killAfter,
    watchdog,
  }
}

async function answer(request: Request, fleet: Fleet<Worker>, status: () => Status): Promise<Answer> {
  if (request.command === 'reload') return fleet.reload()
  if (request.command === 'scale') return fleet.scale(request.target)
  if (request.command === 'stop') return fleet.stop()
  return { ok: true, status: status() }
}

function statusOf(name: string, fleet: Fleet<Worker>, sockets: Sockets): Status {
  const now = performance.now()
  const { phase, target, generation, reloading, failures } = fleet
  const workers = fleet.workers.map(({ pid, state, stale, startedAt, status }) => ({
    pid,
    state,
    stale,
    age: Math.round((now - startedAt) / 100) / 10,
    status,
  }))
  const ready = fleet.ready.length
  return {
    name,
    pid: process.pid,
    phase,
    target,
    ready,
    generation,
    reloading,
    failures,
    sockets: sockets.all,
    workers,
  }
}
