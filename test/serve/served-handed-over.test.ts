import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type TransferListItem, Worker } from 'node:worker_threads'
import { type ListenOptions, type Serving, serve } from '../../src/index.js'
import { cleanUp, codeOf, connect, listen, nodeEnvironment, target, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { skip } from '../needs.js'
import { addressOf, closing, countOf, dial, endLater, served, waysIn } from '../ways-in.js'

const host = '127.0.0.1'
const fixture = new URL('../fixtures/gets-handles.mjs', import.meta.url)

async function startChild(): Promise<ChildProcess> {
  const child = fork(fixture, { env: nodeEnvironment(), execArgv: [], stdio: 'ignore' })
  cleanUp(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'close')
  })
  await once(child, 'message')
  return child
}

async function startThread(): Promise<Worker> {
  const worker = new Worker(fixture)
  cleanUp(() => worker.terminate())
  // A thread that is terminated while it loads leaves open the files that Node was reading.
  await once(worker, 'message')
  return worker
}

/** Skips the test on versions of Node that cannot move sockets or servers to threads: before 24, and 26.0. */
function needsMoves(context: Mocha.Context): void {
  const symbols = Object.getOwnPropertySymbols(net.Server.prototype).map(({ description }) => description)
  if (!symbols.includes('messaging_transfer_symbol'))
    skip(context, 'this version of Node cannot move sockets to threads')
}

const move = (worker: Worker, what: 'server' | 'socket', object: object) =>
  worker.postMessage({ [what]: object }, [object as TransferListItem])

/** Connects until the answer is `word`: with several acceptors on one socket, any of them may answer. */
async function untilAnswer(address: net.NetConnectOpts, word: string): Promise<void> {
  await until(async () => {
    const client = net.connect(address)
    cleanUp(() => client.destroy())
    return (await text(client.resume()).catch(() => '')) === word
  })
}

describe('A served server that is sent to a child process', () => {
  leaveNoFds()

  const places: [name: string, where: () => ListenOptions][] = [
    ['TCP', () => ({ host })],
    ['a unix socket', () => ({ path: join(temporaryDirectory(), 'socket') })],
  ]
  for (const [name, where] of places) {
    it(`is served there, and also here until it closes; over ${name}`, async () => {
      const child = await startChild()
      const server = endLater(net.createServer((socket) => socket.resume().end('by us')))
      const serving = await served(server, { maxConnections: 5 }, where())
      const address = addressOf(server)
      const error = await new Promise((sent) => child.send('server', server, (failure) => sent(failure)))
      assert.equal(error, null)
      await once(child, 'message')
      await untilAnswer(address, 'by another')
      await untilAnswer(address, 'by us')
      // Closing the listener would remove the path of its unix socket.
      await serving.close()
      await untilAnswer(address, 'by another')
      assert.equal(serving.listener.pending, 0)
    })
  }
})

describe('A served server that is moved to a thread', () => {
  leaveNoFds()

  it('is served there, and has no pending accept requests here', async function () {
    needsMoves(this)
    const worker = await startThread()
    const server = endLater(net.createServer((socket) => socket.resume().end('by us')))
    const serving = await served(server)
    const address = target(serving.listener)
    move(worker, 'server', server)
    assert.equal(server.listening, false)
    assert.equal(serving.listener.pending, 0)
    await once(serving, 'close')
    assert.notEqual(serving.listener.fd, -1)
    for (let i = 0; i < 3; i++) {
      const client = net.connect(address)
      cleanUp(() => client.destroy())
      assert.equal(await text(client), 'by another')
    }
  })

  it('fails like a server that listens itself when Node cannot move it', async () => {
    const worker = await startThread()
    const codes: unknown[] = []
    for (const way of waysIn) {
      const server = endLater(http.createServer())
      await way.open(server, { path: join(temporaryDirectory(), 'socket') })
      try {
        move(worker, 'server', server)
        codes.push('moved')
      } catch (error) {
        codes.push(codeOf(error) ?? (error as Error).name)
      }
      assert.equal(server.listening, true)
      await closing(server)
    }
    assert.equal(codes[1], codes[0])
  })
})

describe('Sockets of a served server that move to another thread or process', () => {
  leaveNoFds()

  /** Connects `clients` one after the other, each of which is handed over. The drain must then end in time. */
  async function handOver(serving: Serving, clients: number): Promise<void> {
    for (let i = 0; i < clients; i++) {
      const client = await connect(serving.listener)
      assert.equal(await text(client), 'by another')
      client.destroy()
    }
    await until(() => serving.connections === 0)
    const report = await serving.drain({ timeout: 0, closeListener: true })
    assert.equal(report.destroyed, 0)
  }

  for (const what of ['server', 'function']) {
    for (const when of ['in the handler', 'later']) {
      it(`free their slots when they move to a thread ${when}; through a ${what}`, async function () {
        needsMoves(this)
        const worker = await startThread()
        const give = (socket: net.Socket) => {
          socket.removeAllListeners()
          const run = () => move(worker, 'socket', socket)
          if (when === 'later') setImmediate(run)
          else run()
        }
        const listener = await listen({ host })
        const subject =
          what === 'server'
            ? endLater(net.createServer({ pauseOnConnect: true }, give))
            : (connection: { toSocket(): net.Socket }) => give(connection.toSocket().pause())
        const serving = serve(listener, subject, { maxConnections: 1 })
        await handOver(serving, 3)
        if (subject instanceof net.Server) assert.equal(await countOf(subject), 0)
      })
    }
  }

  it('free their slots when they are sent to a child process', async () => {
    const child = await startChild()
    const server = endLater(
      net.createServer({ pauseOnConnect: true }, (socket) => {
        socket.removeAllListeners()
        child.send('socket', socket)
      }),
    )
    const serving = await served(server, { maxConnections: 1 })
    await handOver(serving, 3)
  })

  it('free their slots for the next Serving when they are sent to a child process', async () => {
    const child = await startChild()
    const sockets: net.Socket[] = []
    const server = endLater(net.createServer({ pauseOnConnect: true }, (socket) => sockets.push(socket)))
    server.maxConnections = 1
    const [one, two] = [await listen({ host }), await listen({ host })]
    const first = serve(one, server)
    await connect(one)
    await until(() => sockets.length === 1)
    const closed = first.close()
    const second = serve(two, server)
    await connect(two)
    assert.equal(second.connections, 0)
    child.send('socket', sockets[0])
    await until(() => second.connections === 1)
    await closed
    for (const socket of sockets) socket.destroy()
  })

  it('do not delay a drain beyond its deadline when the child process is stopped or dead', async () => {
    for (const signal of ['SIGSTOP', 'SIGKILL'] as const) {
      const child = await startChild()
      const sent: net.Socket[] = []
      const server = endLater(
        net.createServer({ pauseOnConnect: true }, (socket) => {
          child.send('socket', socket, () => {})
          sent.push(socket)
        }),
      )
      child.on('error', () => {})
      const serving = await served(server)
      child.kill(signal)
      const clients = [await dial(server), await dial(server)]
      await until(() => sent.length === 2)
      const report = await serving.drain({ timeout: 0, closeListener: true })
      assert.equal(report.idle + report.finished + report.destroyed, 2)
      assert.equal(serving.connections, 0)
      for (const client of clients) client.destroy()
      child.kill('SIGKILL')
    }
  })

  it('keep the limit exact: a server receives as many connections as it has handed over', async () => {
    const child = await startChild()
    let connections = 0
    const server = endLater(
      net.createServer({ pauseOnConnect: true }, (socket) => {
        connections++
        child.send('socket', socket)
      }),
    )
    server.maxConnections = 1
    let dropped = 0
    server.on('drop', () => dropped++)
    await served(server)
    const words = await Promise.all(Array.from({ length: 20 }, async () => text(await dial(server))))
    assert.deepEqual([new Set(words), connections, dropped], [new Set(['by another']), 20, 0])
  })
})
