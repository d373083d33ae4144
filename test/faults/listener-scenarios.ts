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

/** Asserts that each client gets one connection. A fault may make a request fail, but does not lose a client. */
async function serveAll(listener: Listener, count: number): Promise<void> {
  const clients: net.Socket[] = []
  const connectAll = async () => {
    while (clients.length < count) clients.push(await connect(listener))
  }
  const served: (number | undefined)[] = []
  // Requests fail in the first round: it makes them before the clients connect.
  for (let round = 1; served.length < count; round++) {
    assert.ok(round <= 2, 'one fault made requests fail twice')
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
    // A permanent fault lasts until here.
    if (served.length < count) faults.clear()
  }
  // The clients of a unix socket have no names.
  const names = clients.map(({ localPort }) => localPort)
  assert.deepEqual(served.sort(), names.sort())
  for (const client of clients) await gone(client)
  assert.equal(listener.pending, 0)
}

const path = (): ListenOptions => ({ path: join(temporaryDirectory(), 'socket') })

const overTcp: Scenario = {
  name: 'TCP clients',
  async run() {
    const listener = await listen({ host: '127.0.0.1', noDelay: true, keepAlive: true })
    await serveAll(listener, ways.length)
    assert.equal(listener.backlog().queued, 0)
    await listener.close()
  },
}

const overIpv6: Scenario = {
  name: 'clients of all address families',
  // As on a host without IPv6.
  instead: { socket: ['EAFNOSUPPORT'] },
  async run() {
    await serveAll(await listen(), 2)
  },
}

const atPath: Scenario = {
  name: 'unix socket clients',
  // If the addon cannot find out whether the existing socket has a listener, it assumes that it has.
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
  name: 'a listening fd that was taken over',
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
  name: 'requests that time out',
  // Their timeout leaves no time to wait for fds or memory.
  instead: { accept4: ['ERR_ACCEPT_TIMEOUT'] },
  async run() {
    const listener = await listen({ host: '127.0.0.1' })
    const unserved = await connectionFor(listener, listener.asyncAccept(0)).catch((error) => error)
    if (codeOf(unserved) !== 'ERR_ACCEPT_TIMEOUT') blame(unserved)
    const clients = [await connect(listener), await connect(listener)]
    await queued(listener, clients.length)
    // The clients already wait, so even a request with timeout 0 gets one.
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
    // The clients of failed requests stay in the backlog.
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
        // A permanent fault lasts until here.
        if (faults.failed() > 1) faults.clear()
        return over
      })
      assert.equal(await outcome, 'served')
    }
  },
}

export const listenerScenarios = [overTcp, overIpv6, atPath, taken, timedOut, resetting, served]
