import { once } from 'node:events'
import net from 'node:net'
import { type ListenOptions, type ServeOptions, type Serving, serve } from '../src/index.js'
import { cleanUp, listen } from './helpers.js'

/** One of the two ways in which a server gets its clients. The server must not notice a difference. */
export interface WayIn {
  name: string
  /** Resolves when the server is listening. Closes it and its connections when the current test ends. */
  open(server: net.Server, where?: Pick<ListenOptions, 'host' | 'port' | 'path' | 'ipv6Only'>): Promise<void>
}

const here = { host: '127.0.0.1' }

export const ownListen: WayIn = {
  name: 'its own listen()',
  async open(server, where = here) {
    endLater(server)
    server.listen(where.path === undefined ? { port: 0, ...where } : where)
    await once(server, 'listening')
  },
}

export const throughServe: WayIn = {
  name: 'serve()',
  async open(server, where = here) {
    await served(server, undefined, where)
  },
}

export const waysIn = [ownListen, throughServe]

/** Serves a server over a new listener. Resolves when it is listening. */
export async function served(
  server: net.Server,
  options?: ServeOptions,
  where: ListenOptions = here,
): Promise<Serving> {
  const listener = await listen(where)
  endLater(server)
  const serving = serve(listener, server, options)
  await once(server, 'listening')
  return serving
}

/** Closes the server and its connections when the current test ends. */
export function endLater<Server extends net.Server>(server: Server): Server {
  const sockets = new Set<net.Socket>()
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
  })
  cleanUp(async () => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
  })
  return server
}

/** The `net.connect` options for a listening server. */
export function addressOf(server: net.Server): net.NetConnectOpts {
  const address = server.address()
  if (address === null) throw new Error('the server is not listening')
  if (typeof address === 'string') return { path: address }
  return { port: address.port, host: address.address === '::' ? '::1' : address.address }
}

/** Connects a client. Destroys it when the current test ends, and ignores its errors. */
export async function dial(server: net.Server, options?: Partial<net.TcpNetConnectOpts>): Promise<net.Socket> {
  const socket = net.connect({ ...addressOf(server), ...options } as net.NetConnectOpts)
  cleanUp(() => socket.destroy())
  await once(socket, 'connect')
  return socket.on('error', () => {})
}

/** The server's socket of a new connection, and the client. */
export async function connected<Socket extends net.Socket = net.Socket>(
  server: net.Server,
  options?: Partial<net.TcpNetConnectOpts>,
): Promise<{ socket: Socket; client: net.Socket }> {
  const [[socket], client] = await Promise.all([once(server, 'connection'), dial(server, options)])
  return { socket, client }
}

/** The result of `server.getConnections`. */
export function countOf(server: net.Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)))
  })
}

/** The callback argument of `server.close`. */
export function closing(server: net.Server): Promise<Error | undefined> {
  return new Promise((resolve) => void server.close(resolve))
}
