import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type Connection, Listener, type ListenOptions, serve } from '../../src/index.js'
import { connectionFor, queued } from '../backlog.js'
import { temporary, temporaryFd } from '../descriptors.js'
import { cleanUp, codeOf, connect, gone, listen, target, temporaryDirectory, until } from '../helpers.js'
import { allocation, faults } from './faults.js'
import { blame, type Scenario, takenBy } from './runs.js'

const ways: ((listener: Listener) => Promise<Connection>)[] = [
  (listener) => listener.accept(),
  (listener) => listener.accept({ timeout: 60_000 }),
  (listener) => listener.accept({ signal: new AbortController().signal }),
  async (listener) => connectionFor(listener, listener.asyncAccept()),
  async (listener) => (await listener[Symbol.asyncIterator]().next()).value,
]

/** Each client gets one connection. A request may fail because of the fault, and that costs no client. */
async function serveAll(listener: Listener, count: number): Promise<void> {
  const clients: net.Socket[] = []
  const connectAll = async () => {
    while (clients.length < count) clients.push(await connect(listener))
  }
  const served: (number | undefined)[] = []
  // Whatever fails does so in the first round: it makes the requests before the clients come.
  for (let round = 1; served.length < count; round++) {
    assert.ok(round <= 2, 'one fault has failed requests twice')
    const missing = count - served.length
    const outcomes = Promise.allSettled(ways.slice(0, missing).map((ask) => ask(listener)))
    await connectAll()
    for (const outcome of await outcomes) {
      if (outcome.status === 'rejected') blame(outcome.reason)
      else {
        served.push(outcome.value.remotePort)
        outcome.value.close()
      }
    }
    // What fails for ever does so until here.
    if (served.length < count) faults.clear()
  }
  // Of a unix socket no client has a name.
  const names = clients.map(({ localPort }) => localPort)
  assert.deepEqual(served.sort(), names.sort())
  for (const client of clients) await gone(client)
  assert.equal(listener.pending, 0)
}

const path = (): ListenOptions => ({ path: join(temporaryDirectory(), 'socket') })

const overTcp: Scenario = {
  name: 'clients over TCP',
  async run() {
    const listener = await listen({ host: '127.0.0.1', noDelay: true, keepAlive: true })
    await serveAll(listener, ways.length)
    assert.equal(listener.backlog().queued, 0)
    await listener.close()
  },
}

const overIpv6: Scenario = {
  name: 'clients of every address',
  // As of a host without IPv6.
  instead: { socket: ['EAFNOSUPPORT'] },
  async run() {
    await serveAll(await listen(), 2)
  },
}

const atPath: Scenario = {
  name: 'clients of a path',
  // Where nobody can find out that nobody listens there, somebody may.
  instead: { connect: ['EADDRINUSE'], socket: ['EADDRINUSE'], [allocation]: ['EADDRINUSE'] },
  async run() {
    const options = path()
    closeSync((await Listener.listen(options)).detach())
    const listener = await listen({ ...options, unlinkStale: true, mode: 0o600 })
    await serveAll(listener, ways.length)
    const client = await connect(listener)
    await queued(listener, 1)
    const connection = await listener.accept()
    cleanUp(() => connection.close())
    assert.equal(connection.peerCredentials().pid, process.pid)
    client.destroy()
  },
}

const taken: Scenario = {
  name: 'a listening fd of others',
  instead: { uv_poll_init: ['ERR_FD_IN_USE'] },
  async run() {
    const fd = temporaryFd((await Listener.listen({ host: '127.0.0.1' })).detach())
    const copy = Listener.fromFd(fd, { dup: true, noDelay: true })
    cleanUp(() => copy.close())
    await serveAll(copy, 2)
    await copy.close()
    const listener = takenBy(fd, (each) => Listener.fromFd(each))
    cleanUp(() => listener.close())
    await serveAll(listener, 2)
  },
}

const timedOut: Scenario = {
  name: 'requests that run out',
  // They have no time to wait for what the system lacks.
  instead: { accept4: ['ERR_ACCEPT_TIMEOUT'] },
  async run() {
    const listener = await listen({ host: '127.0.0.1' })
    const nobody = await connectionFor(listener, listener.asyncAccept(0)).catch((error) => error)
    if (codeOf(nobody) !== 'ERR_ACCEPT_TIMEOUT') blame(nobody)
    const clients = [await connect(listener), await connect(listener)]
    await queued(listener, clients.length)
    // They wait already, so not even a request with no time runs out.
    for (const _ of clients) {
      const connection = await connectionFor(listener, listener.asyncAccept(0))
      connection.close()
    }
    const cancelled = listener.asyncAccept(60_000)
    assert.ok(listener.cancel(cancelled))
    const closed = listener.accept().catch((error) => error)
    await listener.close()
    const error = await closed
    if (codeOf(error) !== 'ERR_LISTENER_CLOSED') blame(error)
  },
}

const resetting: Scenario = {
  name: 'resets at the fd limit',
  async run() {
    const listener = await listen({ host: '127.0.0.1', onFdLimit: 'reset' })
    let over = 0
    listener.on('accept', ({ connection, error }) => {
      over++
      connection?.close()
      if (error !== undefined) failures.push(error)
    })
    const failures: Error[] = []
    const count = 4
    const refs = Array.from({ length: count }, () => listener.asyncAccept())
    const clients = refs.map(() => temporary(net.connect(target(listener))))
    await until(() => over + listener.stats.reset >= count)
    failures.forEach(blame)
    const { accepted, reset } = listener.stats
    assert.equal(refs.filter((ref) => listener.cancel(ref)).length, reset)
    // The clients of requests that have failed wait.
    await until(() => accepted + reset + listener.backlog().queued === count)
    await listener.close()
    for (const client of clients) await gone(client)
  },
}

const served: Scenario = {
  name: 'a served server',
  async run() {
    const listener = await listen({ host: '127.0.0.1' })
    const server = net.createServer((socket) => socket.end('served'))
    const ended = once(server, 'error').then(([error]) => Promise.reject(error))
    ended.catch(() => {})
    const serving = serve(listener, server, { maxConnections: 1 })
    cleanUp(() => serving.close({ closeListener: true }))
    for (let round = 1; round <= 2; round++) {
      const answer = text(await connect(listener))
      let over = false
      const outcome = Promise.race([answer, ended]).finally(() => {
        over = true
      })
      outcome.catch(() => {})
      await until(() => {
        // What fails for ever does so until here.
        if (faults.failed() > 1) faults.clear()
        return over
      })
      assert.equal(await outcome, 'served')
    }
  },
}

export const listenerScenarios = [overTcp, overIpv6, atPath, taken, timedOut, resetting, served]
