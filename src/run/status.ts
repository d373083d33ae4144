import type { Sockets } from './addresses.js'
import type { Status } from './control-protocol.js'
import type { Fleet } from './fleet.js'
import { rssOf } from './recycling.js'
import type { Worker } from './worker.js'
import type { WorkerStarter } from './worker-starter.js'

/** Collects the status of a supervisor. Waits for nothing, and does not throw if a worker ends meanwhile. */
export function statusOf(name: string, fleet: Fleet<Worker>, starter: WorkerStarter, sockets: Sockets): Status {
  const now = performance.now()
  const { phase, target, generation, reloading, failures } = fleet
  const ready = fleet.ready.length
  const workers = fleet.workers.map((worker) => ({
    pid: worker.pid,
    generation: worker.generation,
    state: worker.state,
    stale: worker.stale,
    uptime: Math.round((now - worker.startedAt) / 100) / 10,
    ...starter.loadOf(worker),
    rss: rssOf(worker.pid),
    status: worker.status,
    probe: worker.probeFailure || undefined,
  }))
  const { pid } = process
  return { name, pid, phase, target, ready, generation, reloading, failures, sockets: sockets.all, workers }
}
