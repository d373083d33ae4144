// One of the threads or processes that bench/spread.mjs compares. It keeps every connection that it accepts, and reports
// their number.
import cluster from 'node:cluster'
import net from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { Listener, serve } from 'async-accept'

// In ms. Holders above their share return after it, because the others may be busy while clients wait.
const longest = 10

const { way, fd, holders } = workerData ?? JSON.parse(process.argv[2])
const port = parentPort ?? process
const tell = (message) => (parentPort ? parentPort.postMessage(message) : process.send(message))

const held = []
let total = 0
let caughtUp = () => {}

port.on('message', (all) => {
  total = all
  if (!aboveShare()) caughtUp()
})

/** Whether this holder has more than its share, rounded up, of the connections of all holders. */
function aboveShare() {
  return held.length > Math.ceil(Math.max(total, held.length) / holders)
}

function hold(socket) {
  held.push(socket.on('error', () => {}))
  socket.write('held')
  tell(held.length)
}

const waysToWait = {
  'one request': () => {},
  'one turn later': () => (aboveShare() ? nextTurn() : undefined),
  'stands back': async () => {
    if (!aboveShare()) return
    const ended = new AbortController()
    const timer = sleep(longest, undefined, { signal: ended.signal }).catch(() => {})
    await Promise.race([timer, new Promise((resolve) => (caughtUp = resolve))])
    ended.abort()
  },
}

async function pull(listener, wait) {
  for (;;) {
    hold((await listener.accept()).toSocket())
    await wait()
  }
}

if (cluster.isWorker) {
  net.createServer(hold).listen({ host: '127.0.0.1', port: 0, backlog: 4096 })
} else {
  const options = parentPort ? { dup: true } : {}
  if (way === 'serve()') serve(Listener.fromFd(fd, options), net.createServer(hold))
  else pull(Listener.fromFd(fd, { ...options, maxBatch: 1 }), waysToWait[way])
  tell(0)
}

// A process that its parent no longer needs. Threads end with their process.
process.once('disconnect', () => process.exit(0))
