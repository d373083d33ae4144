import type net from 'node:net'
import type { Phase, Verdict } from './fleet.js'

/** One line of JSON from a client of the control socket. */
export type Request =
  | { command: 'reload' }
  | { command: 'stop' }
  | { command: 'status' }
  | { command: 'scale'; target: number }

/** One line of JSON from a worker, to a socket for workers. The answer comes when it shall drain. */
export interface Attachment {
  slot: number
}

/** One line of JSON, the answer to it. */
export type Answer = Verdict & { status?: Status }

export interface Status {
  name: string
  pid: number
  phase: Phase
  target: number
  ready: number
  generation: number
  reloading: boolean
  failures: number
  sockets: SocketStatus[]
  workers: WorkerStatus[]
}

export interface SocketStatus {
  name: string
  address: string
  /** The clients in its accept queue; undefined if the kernel does not tell. */
  queued?: number
}

/** What a worker has to do. Unknown with `--exec`. */
export interface WorkerLoad {
  /** The open connections. */
  connections?: number
  /** The largest delay of its event loop in the last second, in seconds. */
  delay?: number
}

export interface WorkerStatus extends WorkerLoad {
  pid?: number
  generation: number
  state: string
  stale: boolean
  /** Seconds since its start. */
  uptime: number
  /** The memory of its process in bytes; undefined if it has just ended. */
  rss?: number
  /** The last `STATUS=`. */
  status?: string
  /** What was wrong with the last probe, if anything was. */
  probe?: string
}

/** The longest line, in characters. */
export const maxLine = 1 << 20

/**
 * Calls `onLine` with the first line that the peer sends, and `onError` if it sends a line that is too long or ends
 * before it. Calls one of them, once.
 */
export function readLine(socket: net.Socket, limit: number, onLine: (line: string) => void, onError: () => void): void {
  let text = ''
  let done = false
  const finish = (run: () => void) => {
    if (done) return
    done = true
    run()
  }
  socket.setEncoding('utf8')
  socket.on('data', (more: string) => {
    if (done) return
    text += more
    const end = text.indexOf('\n')
    if (end >= 0) finish(() => onLine(text.slice(0, end)))
    else if (text.length > limit) finish(onError)
  })
  for (const event of ['error', 'close', 'end']) socket.once(event, () => finish(onError))
}

/** Returns undefined if a line is not a request of a command. */
export function parseRequest(line: string): Request | undefined {
  const { command, target } = parseObject(line)
  if (command === 'reload' || command === 'stop' || command === 'status') return { command }
  if (command !== 'scale' || !Number.isSafeInteger(target) || Number(target) < 1) return undefined
  return { command, target: Number(target) }
}

/** Returns undefined if a line is not that of a worker. */
export function parseAttachment(line: string): Attachment | undefined {
  const { slot } = parseObject(line)
  return Number.isSafeInteger(slot) && Number(slot) >= 0 ? { slot: Number(slot) } : undefined
}

function parseObject(line: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(line))
  } catch {
    return {}
  }
}
