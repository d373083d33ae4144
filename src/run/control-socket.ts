import type net from 'node:net'
import type { Connection } from '../accept/connection.js'
import { Listener } from '../accept/listener.js'
import { serve } from '../serve/serve.js'
import type { Serving } from '../serve/serving.js'
import { type Answer, readLine } from './control-protocol.js'

// A request has less than 64 bytes.
const maxRequest = 1024
// ms from the connection to the request.
const requestTimeout = 5_000

export interface ControlSocketOptions<Request> {
  path: string
  /** Further clients wait in the accept queue. */
  maxClients: number
  /** Returns undefined if a line is not a request. Must not throw. */
  parse(line: string): Request | undefined
  /** Called with each request. Must not throw. */
  answer(request: Request): Promise<Answer>
}

/** A unix socket for this user. One request on each connection, and one answer. */
export class ControlSocket<Request> {
  readonly #listener: Listener
  readonly #options: ControlSocketOptions<Request>
  readonly #serving: Serving

  /** Errors: those of `Listener.listen`; `EADDRINUSE` if another process listens on the path. */
  static async open<Request>(options: ControlSocketOptions<Request>): Promise<ControlSocket<Request>> {
    const listener = await Listener.listen({ path: options.path, mode: 0o600, unlinkStale: true })
    return new ControlSocket(listener, options)
  }

  private constructor(listener: Listener, options: ControlSocketOptions<Request>) {
    this.#listener = listener
    this.#options = options
    const { maxClients } = options
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
    const { parse, answer } = this.#options
    const request = parse(line)
    const result: Answer = request === undefined ? { ok: false, reason: 'not a request' } : await answer(request)
    if (socket.destroyed) return
    // A client that does not read its answer, which fits into the buffer of the kernel, is not waited for.
    socket.end(`${JSON.stringify(result)}\n`, () => socket.destroy())
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
