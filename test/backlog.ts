import { once } from 'node:events'
import net from 'node:net'
import type { Connection, Listener } from '../src/index.js'
import { cleanUp, connect, until } from './helpers.js'

/** Connects clients one after the other, until all of them wait in the backlog in that order. */
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

/** The kernel puts a client into the backlog a moment after the client knows that it is connected. */
export async function queued(listener: Listener, count: number): Promise<void> {
  await until(() => listener.backlog().queued === count)
}

/** Like `connect`, for a listener that clients can reach in several ways. */
export async function dial(to: net.NetConnectOpts): Promise<net.Socket> {
  const client = net.connect({ ...to, allowHalfOpen: true } as net.NetConnectOpts)
  cleanUp(() => client.destroy())
  await once(client, 'connect')
  client.on('error', () => {})
  return client
}

/** Sends `text` to the peer, and nothing after it. */
export function answer(connection: Connection, text: string): void {
  const socket = connection.toSocket()
  cleanUp(() => socket.destroy())
  socket.on('error', () => {})
  socket.end(text)
}

/** The connection that the request `ref`, made with `asyncAccept`, gets. */
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

/** When the other side has closed or reset the client's connection. */
export async function cutOff(client: net.Socket): Promise<void> {
  client.resume()
  await until(() => client.readableEnded || client.destroyed)
}
