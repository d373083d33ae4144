// A thread that accepts up to `room` clients at a time from a shared socket. It reports each accepted and each ended
// connection, so the main thread knows the open connections when it terminates the thread.
import { subscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { converse } from './conversation.mjs'
import { idOf } from './protocol.mjs'
import { openWhatStays } from './state.mjs'

const { fd, room } = workerData
await openWhatStays()
// With maxBatch 1, a terminated thread takes along at most one client that it has not reported.
const listener = Listener.fromFd(fd, { dup: true, maxBatch: 1 })

subscribe('async-accept.connection', ({ connection }) => parentPort.postMessage({ accepted: connection.remoteAddress }))

async function pull() {
  for await (const connection of listener) {
    const entry = { id: idOf(connection.remoteAddress), answered: 0, policy: undefined }
    const socket = connection.toSocket({ allowHalfOpen: true })
    const closed = new Promise((resolve) => socket.once('close', resolve))
    converse(socket, entry, (policy) => {
      entry.policy ??= policy
    })
    await closed
    parentPort.postMessage({ ended: entry })
  }
}

const pulling = Array.from({ length: room }, pull)
parentPort.postMessage({ ready: true })
await once(parentPort, 'message')
listener.close()
await Promise.all(pulling)
