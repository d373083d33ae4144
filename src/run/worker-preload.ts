// What `async-accept run` makes a worker load before its program: the share of this worker in the clients of all, the
// drain, and the preload of inherited sockets.
import { subscribe } from 'node:diagnostics_channel'
import { fstatSync } from 'node:fs'
import net from 'node:net'
import { isMainThread } from 'node:worker_threads'
import { warn, warningOf } from '../core/warning.js'
import { sendAssignments } from '../handover/notify.js'
import { readSettings } from '../inherit/settings.js'
import { Serving, type ServingStateMessage } from '../serve/serving.js'
import { readLine } from './control-protocol.js'
import { FairShare } from './fair-share.js'
import { startHeartbeat } from './heartbeat.js'
import { Scoreboard } from './scoreboard.js'
import { attachmentPath, drainedField, scoreboardPath, type WorkerSettings } from './worker-settings.js'

const otherCopy =
  'the program serves a shared socket with another copy of async-accept than that of the command: its connections do not count'

const { ASYNC_ACCEPT_WORKER } = process.env
if (isMainThread && ASYNC_ACCEPT_WORKER !== undefined) {
  const { slot, prefix, inodes, probe: target }: WorkerSettings = JSON.parse(ASYNC_ACCEPT_WORKER)
  // Child processes are not workers.
  delete process.env.ASYNC_ACCEPT_WORKER
  const board = Scoreboard.open(scoreboardPath(prefix))
  startHeartbeat(board, slot)
  const share = new FairShare(board, slot, target === undefined)
  subscribe('async-accept.serving-state', (message) => {
    const { serving, before } = message as ServingStateMessage
    if (before !== undefined) share.stop(serving)
    // No other worker gets the clients of another socket.
    else if (serving.servedListeners.every(({ fd }) => !inodes.includes(fstatSync(fd).ino))) return
    else if (serving instanceof Serving) share.limit(serving)
    else warn(warningOf('ASYNC_ACCEPT_OTHER_COPY', otherCopy))
  })
  onRetire(attachmentPath(prefix), slot, () => void drain(share))
  if (target !== undefined) void (await import('./probe.js')).probe(share, target)
}
await import('../inherit/inherit.js')

// ms for which a worker that has drained waits for SIGTERM if nothing else keeps it alive.
const patience = 1_000

/** Drains. The supervisor then sends SIGTERM, so that the program ends in its own way. */
async function drain(share: FairShare): Promise<void> {
  const { drainTimeout } = readSettings(process.env)
  await Promise.all(share.servings.map((serving) => serving.drain({ timeout: drainTimeout })))
  setTimeout(() => {}, patience)
  try {
    sendAssignments([`${drainedField}=1`])
  } catch {
    // The queue of the supervisor is full. It sends SIGTERM after --drain-timeout.
    process.kill(process.pid, 'SIGTERM')
  }
}

/** Calls `run` when the supervisor wants this worker to drain. If the supervisor is killed, the kernel sends SIGTERM. */
function onRetire(path: string, slot: number, run: () => void): void {
  const socket = net.connect(path).unref()
  readLine(socket, 64, run, () => {})
  socket.write(`${JSON.stringify({ slot })}\n`)
}
