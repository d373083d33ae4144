// A primary of bench/workers.mjs, as a careful user of `cluster` writes it: replaces one worker after the other at SIGHUP.
// Usage: node workers-primary.mjs <rr | none> <workers> <server>
import cluster from 'node:cluster'
import { once } from 'node:events'

// In ms. A worker with keep-alive connections does not end by itself.
const killAfter = 2000

const [policy, workers, exec] = process.argv.slice(2)
cluster.schedulingPolicy = policy === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE
cluster.setupPrimary({ exec, args: [] })

const startWorker = () => once(cluster.fork(), 'listening')

/** Resolves when the worker has ended. */
async function endWorker(worker) {
  const ended = once(worker, 'exit')
  worker.disconnect()
  const timer = setTimeout(() => worker.process.kill('SIGKILL'), killAfter)
  await ended
  clearTimeout(timer)
}

process.on('SIGHUP', async () => {
  const ends = []
  for (const old of Object.values(cluster.workers)) {
    await startWorker()
    ends.push(endWorker(old))
  }
  await Promise.all(ends)
  console.log('reloaded')
})
process.on('SIGTERM', () => process.exit(0))

for (let i = 0; i < Number(workers); i++) startWorker()
