import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { reservedPort } from '../activated.js'
import { certificates } from '../certificates.js'
import { listen, temporaryDirectory, until } from '../helpers.js'
import { needs } from '../needs.js'
import { startPlain, startPreloaded, startSocketActivated } from './preloaded.js'

/** Where a server listens, in the variables PORT, OTHER_PORT and PATH_OF_SOCKET. */
export interface Places {
  port: number
  other: number
  path: string
}

/** A server that knows nothing of inherited sockets, and what a client does with it. */
export interface Subject {
  /** Listens as in the documentation of its framework: a file, or code. */
  program: string
  /** Uses the server as a client. Returns what the client sees. */
  use(places: Places): Promise<unknown>
  /** The places on which the server listens. Only the port by default. */
  listensOn?: readonly (keyof Places)[]
}

/** Starts the server with plain Node, with the preload, and with it under systemd. Its clients must see the same. */
export async function assertAnswersTheSame(context: Mocha.Context, subject: Subject): Promise<void> {
  const { program, use, listensOn = ['port'] } = subject
  const { localhost } = await certificates()
  const places: Places = { port: reservedPort(), other: reservedPort(), path: join(temporaryDirectory(), 'app.sock') }
  const env = {
    PORT: String(places.port),
    OTHER_PORT: String(places.other),
    PATH_OF_SOCKET: places.path,
    KEY: localhost.key,
    CERT: localhost.cert,
  }
  const targets = listensOn.map((each) =>
    each === 'path' ? { path: places.path } : { host: '127.0.0.1', port: places[each] },
  )

  const plain = startPlain(program, { env })
  for (const target of targets) await listening(target)
  const expected = await use(places)
  plain.signal('SIGTERM')
  const plainEnd = await plain.ended
  // A server with its own handler of SIGTERM ends in the same way. Any other one is drained.
  const expectedEnd = plainEnd === 'SIGTERM' ? 0 : plainEnd

  const listeners = await Promise.all(targets.map((target) => listen({ ...target, unlinkStale: true })))
  const preloaded = startPreloaded(program, { web: listeners }, { env })
  assert.deepEqual(await use(places), expected)
  preloaded.signal('SIGTERM')
  assert.deepEqual([await preloaded.ended, preloaded.stderr], [expectedEnd, plain.stderr])
  await Promise.all(listeners.map((listener) => listener.close()))

  needs(context, 'systemd-socket-activate', '--version')
  const activated = await startSocketActivated(
    program,
    targets.map((target) => target.path ?? `${target.host}:${target.port}`),
    { env },
  )
  assert.deepEqual(await use(places), expected)
  activated.signal('SIGTERM')
  assert.equal(await activated.ended, expectedEnd, activated.stderr)
}

/** Resolves when a program listens. */
async function listening(where: net.NetConnectOpts): Promise<void> {
  await until(async () => {
    const socket = net.connect(where)
    const [event] = await Promise.race([
      once(socket, 'connect').then(() => ['connect']),
      once(socket, 'error').then(() => ['error']),
    ]).catch(() => ['error'])
    socket.destroy()
    return event === 'connect'
  })
}

const agentFor = async () => new https.Agent({ ca: (await certificates()).ca.cert, maxSockets: 1 })

/** Sends requests on one connection. */
export async function requests(
  module: typeof http | typeof https,
  where: { port: number } | { socketPath: string },
): Promise<unknown> {
  const agent = module === https ? await agentFor() : new http.Agent({ keepAlive: true, maxSockets: 1 })
  const seen: unknown[] = []
  for (const [method, path, body] of [
    ['GET', '/hello/a?b=c'],
    ['POST', '/echo', '{"some":"json"}'],
    ['HEAD', '/hello/b'],
    ['GET', '/missing'],
  ] as const) {
    const headers = { host: 'localhost', 'content-type': 'application/json' }
    const request = module.request({ host: '127.0.0.1', ...where, method, path, agent, headers }).end(body)
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    const { date: _, ...others } = response.headers
    seen.push([method, path, response.statusCode, others, await text(response)])
  }
  agent.destroy()
  return seen
}

/** A server of HTTP on PORT. */
export const overHttp = (program: string): Subject => ({ program, use: ({ port }) => requests(http, { port }) })
