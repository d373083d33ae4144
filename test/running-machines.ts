import { type ChildProcess, execFile, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import http2 from 'node:http2'
import https from 'node:https'
import { text } from 'node:stream/consumers'
import { cleanUp, startNode } from './helpers.js'
import { skip } from './needs.js'
import { RunningExample } from './running-example.js'

export interface MachineStatus {
  ref: number
  state: 'listening' | 'handshake' | 'connected' | 'closing' | 'gone'
  fd?: number
  peer?: string
  tls?: string
  alpn?: string
  failure?: string
  requests?: string[]
}

export interface Status {
  pool: { size: number; listening: number; handshake: number; connected: number; closing: number }
  machines: MachineStatus[]
  refs: number[]
  backlog: { queued: number; limit: number }
  stats: { accepted: number; capacityPauses: number }
  connections: MachineStatus[]
}

// Node's https client sends ALPN only with an agent, unless it is set here.
const http1 = { agent: false, ALPNProtocols: ['http/1.1'], rejectUnauthorized: false } as const

/** `examples/http2-machines.mjs` on a free port. */
export class RunningMachines extends RunningExample {
  port = 0

  url(path = '/'): string {
    return `https://127.0.0.1:${this.port}${path}`
  }

  /** Sends a request over HTTP/1.1, on a new connection. */
  async get(path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<[number, string]> {
    const request = https.request(this.url(path), { method, headers, ...http1 })
    const answered = once(request, 'response')
    request.end()
    const [response] = await answered
    return [response.statusCode, await text(response)]
  }

  async status(): Promise<Status> {
    return JSON.parse((await this.get('/status'))[1])
  }

  /** Connects an HTTP/2 client. */
  async session(): Promise<http2.ClientHttp2Session> {
    const session = http2.connect(this.url(), { rejectUnauthorized: false })
    cleanUp(() => session.destroy())
    await once(session, 'connect')
    session.on('error', () => {})
    return session
  }
}

/** Resolves when the example listens. */
export async function runningMachines(child: ChildProcess): Promise<RunningMachines> {
  const machines = new RunningMachines(child)
  machines.port = Number((await machines.says(/ listen on https:\/\/\S+:(\d+)\//))[1])
  return machines
}

export function startMachines(args: readonly string[] = [], command?: readonly string[]): Promise<RunningMachines> {
  return runningMachines(startNode('examples/http2-machines.mjs', ['--port', '0', ...args], command))
}

export async function ask(session: http2.ClientHttp2Session, path: string): Promise<string> {
  const request = session.request({ ':path': path })
  request.end()
  return text(request)
}

/** Sends a request whose response has started, but not ended: the example echoes its body until it ends. */
export async function openEcho(session: http2.ClientHttp2Session): Promise<http2.ClientHttp2Stream> {
  const stream = session.request({ ':method': 'POST', ':path': '/echo' })
  stream.on('error', () => {})
  await once(stream, 'response')
  return stream
}

/** The events of an event stream, as they arrive: the name, and the data. */
export async function* eventsOf(stream: AsyncIterable<unknown>): AsyncGenerator<[string, string]> {
  let rest = ''
  for await (const data of stream) {
    const events = (rest + data).split('\n\n')
    rest = events.pop() as string
    for (const event of events) {
      const field = (name: string) => new RegExp(`^${name}: ?(.*)$`, 'm').exec(event)?.[1]
      if (field('data') !== undefined) yield [field('event') ?? 'message', field('data') as string]
    }
  }
}

/** Opens an event stream over HTTP/2. */
export function openEvents(session: http2.ClientHttp2Session): http2.ClientHttp2Stream {
  const stream = session.request({ ':path': '/events' })
  stream.on('error', () => {})
  return stream.setEncoding('utf8')
}

/** Runs a system program until it exits. Returns its output, regardless of its exit code. */
export async function run(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    const child = execFile(program, args, (_error, stdout, stderr) => resolve(stdout + stderr))
    child.stdin?.end()
  })
}

/** Skips the test with a reason if a program, or a feature of it, is missing. */
export function needs(test: Mocha.Context, program: string, args: readonly string[], feature = /./): void {
  const { stdout, error } = spawnSync(program, args, { encoding: 'utf8' })
  if (!error && feature.test(stdout)) return
  skip(test, `needs ${program}${error ? '' : ` with ${feature.source}`}`)
}
