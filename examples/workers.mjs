// Worker threads that accept from one listening socket, each only when it has room, so that a busy thread holds no
// waiting client: node examples/workers.mjs [port] [threads]
import { availableParallelism } from 'node:os'
import { finished } from 'node:stream/promises'
import { isMainThread, parentPort, threadId, Worker, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'

const clientsPerThread = 4

if (isMainThread) {
  // This listener makes no requests. It stays open, because threads that start now or later copy its fd.
  const listener = await Listener.listen({ port: process.argv[2] ?? 3000 })
  const threads = new Set()
  let ending = false
  const start = () => {
    const worker = new Worker(new URL(import.meta.url), { workerData: listener.fd }).on('error', console.error)
    threads.add(worker)
    worker.on('exit', () => threads.delete(worker) && !ending && start())
  }
  for (let i = Number(process.argv[3] ?? availableParallelism()); i > 0; i--) start()
  process.once('SIGINT', () => {
    ending = true
    for (const worker of threads) worker.postMessage('close')
  })
  console.log(`port ${listener.port}`)
} else {
  // With a batch of one, a thread that is terminated while it accepts loses at most one client.
  const listener = Listener.fromFd(workerData, { dup: true, maxBatch: 1 })
  parentPort.once('message', () => listener.close()) // ends the loops in serve()
  const serve = async () => {
    for await (const connection of listener) {
      const socket = connection.toSocket().resume()
      socket.end(`hello ${connection.remoteAddress}, this is thread ${threadId}\n`)
      await finished(socket).catch(() => {})
    }
  }
  for (let i = 0; i < clientsPerThread; i++) serve()
}
