// One of the threads or processes that bench/skewed.mjs compares. It answers requests, some of which block it.
import cluster from 'node:cluster'
import net from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { blockedFor } from './skewed.mjs'

const nothing = new Int32Array(new SharedArrayBuffer(4))

/** Answers the single request of a connection. Resolves when the thread has no more work for it. */
function answer(socket) {
  return new Promise((resolve) => {
    socket.on('error', () => {})
    socket.once('close', resolve)
    socket.once('data', (request) => {
      // Blocks like a synchronous call, but uses no CPU time, so that the test works with more threads than cores.
      if (String(request) === 'slow') Atomics.wait(nothing, 0, 0, blockedFor)
      socket.end('answer')
      resolve()
    })
  })
}

async function pullFrom(listener) {
  for (;;) await answer((await listener.accept()).toSocket())
}

if (cluster.isWorker) {
  net.createServer(answer).listen({ host: '127.0.0.1', port: 0 })
} else {
  const { fd, port } = workerData
  const shared = fd !== undefined
  pullFrom(
    shared
      ? Listener.fromFd(fd, { dup: true, maxBatch: 1 })
      : await Listener.listen({ host: '127.0.0.1', port, reusePort: true }),
  )
  parentPort.postMessage('ready')
}
