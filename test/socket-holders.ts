import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { codeOf, nodeEnvironment } from './helpers.js'

const fixture = new URL('fixtures/socket-holder.mjs', import.meta.url)

/** Whether `postMessage(socket, [socket])` can move a socket to a thread: since Node 24. */
export const movesSockets = Object.getOwnPropertySymbols(net.Socket.prototype).some(
  ({ description }) => description === 'messaging_transfer_symbol',
)

/** A thread, a child process and a dead child process that receive sockets. They serve many runs. */
export class SocketHolders {
  readonly #worker: Worker
  readonly #child: ChildProcess
  readonly #dead: ChildProcess
  #inWorker = 0
  #inChild = 0

  private constructor(worker: Worker, child: ChildProcess, dead: ChildProcess) {
    this.#worker = worker
    this.#child = child
    this.#dead = dead
    // Node adds a listener for each server and each close of it.
    child.setMaxListeners(0)
  }

  static async start(): Promise<SocketHolders> {
    const dead = await startChild()
    dead.kill('SIGKILL')
    await once(dead, 'close')
    const worker = new Worker(fixture, { execArgv: [] })
    await once(worker, 'message')
    const holders = new SocketHolders(worker, await startChild(), dead)
    await holders.#moveFirst()
    return holders
  }

  // With the first socket, a thread loads modules, which may open an fd permanently.
  async #moveFirst(): Promise<void> {
    if (!movesSockets) return
    const server = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1').on('error', () => {})
    const [socket] = await once(server, 'connection')
    assert.ok(this.moveToThread(socket))
    await this.end()
    client.destroy()
    server.close()
    await once(server, 'close')
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGKILL')
    await Promise.all([once(this.#child, 'close'), this.#worker.terminate()])
  }

  /** Returns false if Node rejects the transfer: the socket has been read from, or is not a TCP socket. */
  moveToThread(socket: net.Socket): boolean {
    try {
      this.#worker.postMessage({ socket }, [socket as never])
    } catch (error) {
      assert.equal(codeOf(error), 'ERR_WORKER_HANDLE_NOT_TRANSFERABLE')
      return false
    }
    this.#inWorker++
    return true
  }

  sendToChild(socket: net.Socket): void {
    this.#child.send('take', socket)
    this.#inChild++
  }

  /** Sends to a child that has exited. Resolves when Node reports that. */
  async sendToDeadChild(socket: net.Socket): Promise<void> {
    const error = await new Promise((resolve) => this.#dead.send('take', socket, resolve))
    assert.equal(codeOf(error), 'ERR_IPC_CHANNEL_CLOSED')
  }

  /** Sends to a child that dies before this process knows. Resolves when it does. */
  async sendToDyingChild(socket: net.Socket): Promise<void> {
    const child = await startChild()
    child.on('error', () => {})
    const closed = once(child, 'close')
    child.kill('SIGKILL')
    child.send('take', socket, () => {})
    await closed
  }

  /** Closes all sockets that they hold. */
  async end(): Promise<void> {
    if (this.#inWorker > 0) {
      const ended = once(this.#worker, 'message')
      this.#worker.postMessage({})
      assert.deepEqual(await ended, [this.#inWorker])
    }
    if (this.#inChild > 0) {
      const ended = once(this.#child, 'message')
      this.#child.send('end')
      assert.deepEqual((await ended)[0], this.#inChild)
    }
    this.#inWorker = 0
    this.#inChild = 0
  }
}

async function startChild(): Promise<ChildProcess> {
  const child = fork(fileURLToPath(fixture), { execArgv: [], env: nodeEnvironment() })
  await once(child, 'message')
  return child
}
