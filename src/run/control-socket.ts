import type net from 'node:net'
import type { Connection } from '../accept/connection.js'
import { Listener } from '../accept/listener.js'
import { serve } from '../serve/serve.js'
import type { Serving } from '../serve/serving.js'
import { type Answer, type Request, readLine } from './control-protocol.js'

// Further clients wait in the accept queue.
const maxClients = 16
// A request has less than 64 bytes.
const maxRequest = 1024
// ms from the connection to the request.
const requestTimeout = 5_000

/** Called with each request. Must not throw. */
type Answerer = (request: Request) => Promise<Answer>

/** The unix socket that the other commands connect to. One request on each connection, and one answer. */
export class ControlSocket {
  readonly #listener: Listener
  readonly #answer: Answerer
  readonly #serving: Serving

  /** Errors: those of `Listener.listen`; `EADDRINUSE` if another process listens on the path. */
  static async open(path: string, answer: Answerer): Promise<ControlSocket> {
    const listener = await Listener.listen({ path, mode: 0o600, unlinkStale: true })
    return new ControlSocket(listener, answer)
  }

  private constructor(listener: Listener, answer: Answerer) {
    this.#listener = listener
    this.#answer = answer
    this.#serving = serve(listener, (connection) => this.#onConnection(connection), { maxConnections: maxClients })
  }

  /** Stops accepting. Clients that wait still get their answers. */
  async close(): Promise<void> {
    const closed = this.#serving.close()
    await this.#listener.close()
    await closed
  }

  #onConnection(connection: Connection): void {
    if (!isPermitted(connection)) {
      connection.close()
      return
    }
    const socket = connection.toSocket()
    const drop = () => socket.destroy()
    const timer = setTimeout(drop, requestTimeout)
    readLine(
      socket,
      maxRequest,
      (line) => {
        clearTimeout(timer)
        void this.#reply(socket, line)
      },
      () => {
        clearTimeout(timer)
        drop()
      },
    )
    socket.on('error', drop)
  }

  async #reply(socket: net.Socket, line: string): Promise<void> {
    const request = parseRequest(line)
    const answer: Answer = request === undefined ? { ok: false, reason: 'not a request' } : await this.#answer(request)
    if (socket.destroyed) return
    // A client that does not read its answer, which fits into the buffer of the kernel, is not waited for.
    socket.end(`${JSON.stringify(answer)}\n`, () => socket.destroy())
    setTimeout(() => socket.destroy(), requestTimeout).unref()
  }
}

// The mode of the path permits only this user, but root may have changed it.
function isPermitted(connection: Connection): boolean {
  try {
    const { uid } = connection.peerCredentials()
    return uid === 0 || uid === process.geteuid?.()
  } catch {
    return false
  }
}

function parseRequest(line: string): Request | undefined {
  let request: Partial<Request & { target: unknown }>
  try {
    request = Object(JSON.parse(line))
  } catch {
    return undefined
  }
  const { command, target } = request
  if (command === 'reload' || command === 'stop' || command === 'status') return { command }
  if (command !== 'scale' || !Number.isSafeInteger(target) || Number(target) < 1) return undefined
  return { command, target: Number(target) }
}
