// Many threads on one listening socket: started, used, and terminated while clients connect.
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { memory } from './memory.mjs'
import { latency, timed, workOnce } from './scale-step.mjs'

const probes = 300
// The clients that connect one after another while the threads are terminated.
const lanes = 8

async function answerAll(listener) {
  for await (const connection of listener) {
    connection
      .toSocket()
      .on('error', () => {})
      .end('answer')
  }
}

/** Returns the time (ms) until the answer, or NaN if the connection ends without it. */
async function ask(port) {
  const start = performance.now()
  const client = net.connect({ host: '127.0.0.1', port })
  let took = Number.NaN
  client.on('data', () => {
    took = performance.now() - start
  })
  client.on('error', () => {})
  await new Promise((resolve) => client.on('close', resolve))
  return took
}

async function run(count) {
  const listener = await Listener.listen({ host: '127.0.0.1' })
  const { port } = listener
  await workOnce(listener.address(), async () => {
    const before = memory()
    const started = await timed(async () => {
      const shared = { workerData: { fd: listener.fd } }
      const workers = Array.from({ length: count }, () => new Worker(new URL(import.meta.url), shared))
      await Promise.all(workers.map((worker) => once(worker, 'message')))
      return workers
    })
    const { rss } = memory()
    const accept = await latency(probes, () => ask(port))
    const answers = []
    let stopped = false
    const load = Array.from({ length: lanes }, async () => {
      while (!stopped) answers.push(await ask(port))
    })
    await sleep(20)
    const terminated = await timed(() => Promise.all(started.result.map((worker) => worker.terminate())))
    answerAll(listener)
    stopped = true
    await Promise.all(load)
    await listener.close()
    return {
      start: started.ms / count,
      'start CPU': started.cpu / 1000 / count,
      rss: (rss - before.rss) / count,
      accept,
      terminate: terminated.ms / count,
      clients: answers.length,
      lost: answers.filter(Number.isNaN).length,
    }
  })
}

if (isMainThread) {
  await run(Number(process.argv[2]))
} else {
  answerAll(Listener.fromFd(workerData.fd, { dup: true, maxBatch: 1 }))
  parentPort.postMessage('ready')
}
