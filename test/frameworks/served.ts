import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { type Listener, type ServeOptions, type Serving, serve } from '../../src/index.js'
import { cleanUp, listen } from '../helpers.js'

export interface Served {
  server: net.Server
  listener: Listener
  serving: Serving
  /** 127.0.0.1 and the port. */
  host: string
}

/** Serves it on a port of its own, and waits until it says that it listens. */
export async function serveOnLoopback(server: net.Server, options?: ServeOptions): Promise<Served> {
  const listener = await listen({ host: '127.0.0.1' })
  const serving = serve(listener, server, options)
  cutOffAtTheEnd(serving)
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  return { server, listener, serving, host: `127.0.0.1:${port}` }
}

/** A test that fails leaves nothing open. */
export function cutOffAtTheEnd(serving: Serving): void {
  cleanUp(() => serving.drain({ timeout: 0 }))
}

/** The framework has closed the server: the listening socket is closed too, and so is every connection. */
export async function assertEnded({ server, listener, serving }: Omit<Served, 'host'>): Promise<void> {
  assert.equal(server.listening, false)
  assert.equal(listener.fd, -1)
  // Waits for what is left, which nobody would end any more.
  await serving.close()
  assert.equal(serving.connections, 0)
}

export const closeServer = (server: net.Server): Promise<void> => promisify(server.close.bind(server))()

/** What a handler waits for, so that there is a request in flight. */
export class Gate {
  readonly #events = new EventEmitter()
  readonly reached = once(this.#events, 'reached')

  async pass(): Promise<void> {
    const opened = once(this.#events, 'open')
    this.#events.emit('reached')
    await opened
  }

  open(): void {
    this.#events.emit('open')
  }
}

export interface Answer {
  status: number | undefined
  connection: string | undefined
  body: string
}

/** `fetch` with an agent of one's own. Errors of the connection reject it, also in the midst of the answer. */
export async function request(url: string, options: https.RequestOptions = {}): Promise<Answer> {
  const { get } = url.startsWith('https:') ? https : http
  const [response] = (await once(get(url, options), 'response')) as [http.IncomingMessage]
  return { status: response.statusCode, connection: response.headers.connection, body: await text(response) }
}

/** An agent that keeps its connections for the next request. */
export function keepingAgent(options: https.AgentOptions = {}): https.Agent & http.Agent {
  const agent =
    options.ca === undefined ? new http.Agent({ keepAlive: true }) : new https.Agent({ keepAlive: true, ...options })
  cleanUp(() => agent.destroy())
  return agent as https.Agent & http.Agent
}
