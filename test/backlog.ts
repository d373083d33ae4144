import { once } from 'node:events'
import net from 'node:net'
import type { Connection, Listener } from '../src/index.js'
import { cleanUp, connect, until } from './helpers.js'

/** Connects clients one after the other, and waits until the backlog has them in this order. */
export async function fillBacklog(
  listener: Listener,
  count: number,
  dial: (index: number) => Promise<net.Socket> = () => connect(listener),
): Promise<net.Socket[]> {
  const before = listener.backlog().queued
  const clients: net.Socket[] = []
  while (clients.length < count) {
    clients.push(await dial(clients.length))
    await queued(listener, before + clients.length)
  }
  return clients
}

/** The kernel queues a connection slightly after the client sees it as connected. */
export async function queued(listener: Listener, count: number): Promise<void> {
  await until(() => listener.backlog().queued === count)
}

/** Like `connect`, for a listener that clients can reach by several addresses. */
export async function dial(to: net.NetConnectOpts): Promise<net.Socket> {
  const client = net.connect({ ...to, allowHalfOpen: true } as net.NetConnectOpts)
  cleanUp(() => client.destroy())
  await once(client, 'connect')
  client.on('error', () => {})
  return client
}

/** Sends `text` to the peer, then closes the connection. */
export function answer(connection: Connection, text: string): void {
  const socket = connection.toSocket()
  cleanUp(() => socket.destroy())
  socket.on('error', () => {})
  socket.end(text)
}

/** Resolves with the connection of a request that `asyncAccept` made. */
export function connectionFor(listener: Listener, ref: number): Promise<Connection> {
  return new Promise((resolve, reject) => {
    const settle = (result: { ref: number; connection?: Connection; error?: Error }) => {
      if (result.ref !== ref) return
      listener.off('accept', settle)
      if (result.connection) resolve(result.connection)
      else reject(result.error)
    }
    listener.on('accept', settle)
  })
}
