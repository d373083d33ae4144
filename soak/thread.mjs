// A thread that pulls from a socket that it shares, with room for so many clients at a time, and tells of each as it comes
// and goes: what it holds when it is terminated is known.
import { subscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import { Listener } from 'async-accept'
import { converse } from './conversation.mjs'
import { idOf } from './protocol.mjs'
import { openWhatStays } from './state.mjs'

const { fd, room } = workerData
await openWhatStays()
// So one that is terminated takes along one client at the most of which it has not told.
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
