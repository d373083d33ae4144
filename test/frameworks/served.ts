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

/** Serves `server` on a free port, and waits for 'listening'. */
export async function serveOnLoopback(server: net.Server, options?: ServeOptions): Promise<Served> {
  const listener = await listen({ host: '127.0.0.1' })
  const serving = serve(listener, server, options)
  cutOffAtTheEnd(serving)
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  return { server, listener, serving, host: `127.0.0.1:${port}` }
}

/** Destroys all connections when the current test ends, also when it fails. */
export function cutOffAtTheEnd(serving: Serving): void {
  cleanUp(() => serving.drain({ timeout: 0 }))
}

/** Asserts that closing the server in the framework has closed the listener and every connection. */
export async function assertEnded({ server, listener, serving }: Omit<Served, 'host'>): Promise<void> {
  assert.equal(server.listening, false)
  assert.equal(listener.fd, -1)
  // Waits for connections that are still ending. Nothing else would end them.
  await serving.close()
  assert.equal(serving.connections, 0)
}

export const closeServer = (server: net.Server): Promise<void> => promisify(server.close.bind(server))()

/** Holds a handler, so that its request stays in progress. */
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

/** Like `fetch`, but with an agent. Rejects on errors of the connection, including those within the body. */
export async function request(url: string, options: https.RequestOptions = {}): Promise<Answer> {
  const { get } = url.startsWith('https:') ? https : http
  const [response] = (await once(get(url, options), 'response')) as [http.IncomingMessage]
  return { status: response.statusCode, connection: response.headers.connection, body: await text(response) }
}

/** Creates a keep-alive agent. */
export function keepingAgent(options: https.AgentOptions = {}): https.Agent & http.Agent {
  const agent =
    options.ca === undefined ? new http.Agent({ keepAlive: true }) : new https.Agent({ keepAlive: true, ...options })
  cleanUp(() => agent.destroy())
  return agent as https.Agent & http.Agent
}
