// Many listeners in one process: opened, used, closed, left to the garbage collector, and served together.
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Listener, serve } from 'async-accept'
import { gc, memory } from './memory.mjs'
import { latency, timed, workOnce } from './scale-step.mjs'

const probes = 200

const [kind, text] = process.argv.slice(2)
const count = Number(text)
const directory = mkdtempSync(join(tmpdir(), 'async-accept-bench-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))

// The warnings about unclosed listeners are expected. Printing them would cost more than closing the listeners.
process.removeAllListeners('warning')

let names = 0
const optionsOf = { tcp: () => ({ host: '127.0.0.1' }), unix: () => ({ path: join(directory, String(names++)) }) }
const targetOf = (listener) => (kind === 'unix' ? { path: listener.address() } : listener.address())
const connectTo = (listener) => {
  const { path, port, address } = targetOf(listener)
  return net.connect(path === undefined ? { port, host: address } : { path })
}

async function openAll() {
  const listeners = []
  for (let i = 0; i < count; i++) listeners.push(await Listener.listen(optionsOf[kind]()))
  return listeners
}

const closeAll = (listeners) => Promise.all(listeners.map((each) => each.close()))
const each = ({ ms }) => (ms * 1000) / count

async function acceptOne(listener) {
  const start = performance.now()
  const accepted = listener.accept()
  const client = connectTo(listener).resume()
  const connection = await accepted
  const took = performance.now() - start
  connection.close()
  await once(client, 'close')
  return took
}

async function requestOne(listener) {
  const start = performance.now()
  const client = connectTo(listener).resume()
  client.write('GET / HTTP/1.0\r\n\r\n')
  await once(client, 'close')
  return performance.now() - start
}

const openFds = () => readdirSync('/proc/self/fd').length

async function untilCollected(fdsBefore) {
  while (openFds() > fdsBefore + count / 100) {
    gc()
    await sleep(1)
  }
}

await workOnce(null, async () => {
  await closeAll([await Listener.listen(optionsOf[kind]())])
  const before = memory()
  const opened = await timed(openAll)
  let listeners = opened.result
  const after = memory()
  const last = () => listeners.at(-1)
  // All but the last have an outstanding request.
  const requests = listeners.slice(0, -1).map((listener) => listener.accept().catch(() => {}))
  const accept = await latency(probes, () => acceptOne(last()))
  const pending = await timed(() => listeners.reduce((sum, listener) => sum + listener.pending, 0))
  const closed = await timed(() => closeAll(listeners))
  await Promise.all(requests)
  requests.length = 0

  listeners = await openAll()
  const served = memory()
  const server = http.createServer((_, response) => response.end('ok'))
  const serving = serve(listeners, server)
  const withRequests = memory()
  const request = await latency(probes, () => requestOne(last()))
  const closedServed = await timed(() => closeAll(listeners))
  if (serving.state !== 'closed') await once(serving, 'close')

  opened.result = listeners = undefined
  const fdsBefore = openFds()
  await openAll()
  const collected = await timed(() => untilCollected(fdsBefore))
  return {
    open: each(opened),
    rss: (after.rss - before.rss) / count,
    heap: (after.heapUsed - before.heapUsed) / count,
    accept,
    pending: each(pending),
    close: each(closed),
    collect: each(collected),
    'served heap': (withRequests.heapUsed - served.heapUsed) / count,
    'served rss': (withRequests.rss - served.rss) / count,
    request,
    'served close': each(closedServed),
  }
})
