// Threads that pull from one listening socket, each only when it has room, so that one that is busy holds no client:
// node examples/workers.mjs [port] [threads]
import { availableParallelism } from 'node:os'
import { finished } from 'node:stream/promises'
import { isMainThread, parentPort, threadId, Worker, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'

const roomInEach = 4

if (isMainThread) {
  // It asks for nobody itself, and stays open: a thread that starts now or later has yet to copy its fd.
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
  console.log(`port ${listener.address().port}`)
} else {
  // With a batch of one, a thread that dies in the midst of accepting takes one client along at the most.
  const listener = Listener.fromFd(workerData, { dup: true, maxBatch: 1 })
  parentPort.once('message', () => listener.close()) // ends the loops
  const serve = async () => {
    for await (const connection of listener) {
      const socket = connection.toSocket().resume()
      socket.end(`hello ${connection.remoteAddress}, this is thread ${threadId}\n`)
      await finished(socket).catch(() => {})
    }
  }
  for (let i = 0; i < roomInEach; i++) serve()
}
