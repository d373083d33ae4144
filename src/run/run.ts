import { Sockets } from './addresses.js'
import { type RunOptions, UsageError } from './command-line.js'
import { type Answer, parseRequest, type Request, type Status } from './control-protocol.js'
import { ControlSocket } from './control-socket.js'
import { Fleet } from './fleet.js'
import { logTo } from './log.js'
import { reapOrphans } from './reaper.js'
import { recycle } from './recycling.js'
import { controlSocketIn, makeRunDirectory, removeLeftovers, removeRunDirectory } from './run-directory.js'
import { ServiceState } from './service-state.js'
import { handleSignals } from './signals.js'
import { reloadOnChange } from './source-watcher.js'
import { statusOf } from './status.js'
import { becomeUser } from './user.js'
import type { Worker } from './worker.js'
import { WorkerStarter } from './worker-starter.js'

/**
 * Binds the sockets, starts the workers, and resolves with the exit code when all have ended. Throws `UsageError`, and
 * the errors of the system.
 */
export async function run(options: RunOptions): Promise<number> {
  const log = logTo(process.stderr)
  let onRequest: (request: Request) => Promise<Answer> = async () => ({ ok: false, reason: 'it is starting' })
  let onClosed = () => {}
  const closed = new Promise<void>((resolve) => {
    onClosed = resolve
  })
  const { name, directory, control } = await openControl(options, (request) => onRequest(request))
  try {
    const sockets = await Sockets.open(options.addresses)
    try {
      if (sockets.all.length === 0) throw new UsageError('no address to listen on: use -l, $PORT or socket activation')
      if (options.user !== undefined) becomeUser(options.user, [directory, controlSocketIn(directory)])
      const service = new ServiceState()
      sockets.keepPaths = service.store(sockets)
      service.startWatchdog()
      const starter = await WorkerStarter.create(options, sockets, directory)
      const code = await new Promise<number>((resolve) => {
        let stopRecycling = () => {}
        let stopWatching = () => {}
        const fleet: Fleet<Worker> = new Fleet<Worker>({
          target: options.workers,
          settle: options.settle,
          single: options.watch !== undefined,
          start: (onChange) => starter.start(onChange),
          log,
          onChange: () => service.update(fleet),
          onEnd(code) {
            stopRecycling()
            stopWatching()
            resolve(code)
          },
        })
        stopRecycling = recycle(fleet, options)
        stopWatching = reloadOnChange(fleet, options.watch, log)
        onRequest = async (request) => {
          const result = await answer(request, fleet, () => statusOf(name, fleet, starter, sockets))
          // Afterwards another supervisor can have the addresses.
          if (request.command === 'stop') await closed
          return result
        }
        reapOrphans(() => new Set(fleet.workers.map(({ pid }) => pid)))
        handleSignals(fleet, options.termDelay, log)
        log(`${name} listens on ${sockets.all.map(({ name, address }) => `${name} (${address})`).join(', ')}`)
        fleet.start()
      })
      await starter.close()
      return code
    } finally {
      sockets.close()
      onClosed()
    }
  } finally {
    // While the control socket is open, no other supervisor uses the directory.
    removeRunDirectory(directory)
    await control.close()
  }
}

/** Opens the control socket, whose directory belongs to this supervisor alone while it listens. */
async function openControl({ name }: RunOptions, answer: (request: Request) => Promise<Answer>) {
  // A name that was not chosen must not keep a second program from starting.
  const names = name.chosen ? [name.text] : [name.text, `${name.text}-${process.pid}`]
  for (const each of names) {
    const directory = makeRunDirectory(each, process.env)
    const path = controlSocketIn(directory)
    try {
      // `status` and `stop` are answered beside many commands that wait for a reload.
      const control = await ControlSocket.open({ path, maxClients: 256, parse: parseRequest, answer })
      removeLeftovers(directory)
      return { name: each, directory, control }
    } catch (error) {
      if ((error as { code?: string }).code !== 'EADDRINUSE') throw error
    }
  }
  throw new UsageError(`a supervisor named ${name.text} runs already: choose another --name`)
}

async function answer(request: Request, fleet: Fleet<Worker>, status: () => Status): Promise<Answer> {
  if (request.command === 'reload') return fleet.reload()
  if (request.command === 'scale') return fleet.scale(request.target)
  if (request.command === 'stop') return fleet.stop()
  return { ok: true, status: status() }
}
