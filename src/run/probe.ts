// The probe of a worker (`--probe`): a GET to its own server, by a connection that no other worker can get.
import { fstatSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import { Connection } from '../accept/connection.js'
import { Listener } from '../accept/listener.js'
import { binding } from '../core/binding.js'
import { check } from '../core/errors.js'
import { sendAssignments } from '../handover/notify.js'
import { readSettings } from '../inherit/settings.js'
import { Serving } from '../serve/serving.js'
import type { FairShare } from './fair-share.js'
import { type ProbeTarget, probeField, probeTimeout } from './worker-settings.js'

// The program may replace http.request, for a test or for tracing.
const { get } = http

// ms between the starts of two probes of a worker that starts.
const startInterval = 200

/**
 * Probes this worker from now on. Admits clients after the first answer of 2xx. Reports each result to the supervisor.
 */
export async function probe(share: FairShare, { inode, path, interval }: ProbeTarget): Promise<void> {
  for (;;) {
    const pause = sleep(share.isAdmitted ? interval : startInterval, undefined, { ref: false })
    const isTarget = ({ fd }: Listener) => fd >= 0 && fstatSync(fd).ino === inode
    const serving = share.servings.find(({ servedListeners }) => servedListeners.some(isTarget))
    if (serving !== undefined) {
      const failure = await ask(serving, path).catch((error: Error) => error.message)
      if (failure === '') share.admit()
      report(failure)
    }
    await pause
  }
}

function report(failure: string): void {
  try {
    sendAssignments([`${probeField}=${failure.replaceAll('\n', ' ').slice(0, 256)}`])
  } catch {
    // The queue of the supervisor is full, or it has ended. The next probe reports again.
  }
}

/** Returns what is wrong with the answer; '' if nothing is. */
async function ask(serving: Serving, path: string): Promise<string> {
  const isProxied = readSettings(process.env).proxyProtocol !== undefined
  const { connection, socket } = isProxied ? unixPair() : await tcpPair()
  // A failure is one of the request, too.
  socket.on('error', () => {})
  let timer: NodeJS.Timeout | undefined
  // Node does not report every end to the request: not that of an HTTP/2 session without an error, nor an upgrade.
  const failed = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${probeTimeout / 1000} s`)), probeTimeout)
    socket.once('close', () => setImmediate(() => reject(new Error('the connection was closed without an answer'))))
  })
  // The probe may end earlier.
  failed.catch(() => {})
  try {
    serving.add(connection)
    // Every peer at a unix socket may send the header.
    if (isProxied) socket.write('PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n')
    const status = await Promise.race([failed, statusOf(socket, Serving.serverOf(serving), path)])
    return status >= 200 && status <= 299 ? '' : `HTTP status ${status}`
  } finally {
    clearTimeout(timer)
    socket.destroy()
    // Closes nothing after add() has taken it.
    connection.close()
  }
}

/** A connection to this process, as the server gets it and as the client has it. */
interface Pair {
  connection: Connection
  socket: net.Socket
}

function unixPair(): Pair {
  const fds = check(binding.socketPair(binding.constants.SOCK_STREAM as number), 'socketpair')
  for (const fd of fds) binding.detach(fd)
  return { connection: Connection.fromFd(fds[0]), socket: Connection.fromFd(fds[1]).toSocket() }
}

/** As most clients connect: a program may need the address. */
async function tcpPair(): Promise<Pair> {
  const listener = await Listener.listen({ host: '127.0.0.1', port: 0 })
  try {
    const socket = net.connect((listener.address() as net.AddressInfo).port, '127.0.0.1')
    for (;;) {
      const connection = await listener.accept({ timeout: probeTimeout })
      if (connection.remotePort === socket.localPort) return { connection, socket }
      // Another process has connected to the port.
      connection.close()
    }
  } finally {
    listener.close()
  }
}

async function statusOf(socket: net.Socket, server: net.Server | undefined, path: string): Promise<number> {
  if (server instanceof http.Server) return statusByHttp1(socket, path)
  if (!(server instanceof tls.Server)) return statusByHttp2(socket, path)
  const options = { servername: 'localhost', rejectUnauthorized: false, ALPNProtocols: ['http/1.1', 'h2'] }
  const secure = tls.connect({ socket, ...options })
  return new Promise((resolve, reject) => {
    secure.once('error', reject)
    secure.once('secureConnect', () => {
      resolve(secure.alpnProtocol === 'h2' ? statusByHttp2(secure, path) : statusByHttp1(secure, path))
    })
  })
}

function statusByHttp1(socket: net.Socket, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = get({ createConnection: () => socket, path, headers: { host: 'localhost' } }, (response) => {
      response.resume()
      response.once('end', () => resolve(response.statusCode as number))
      response.once('error', reject)
    })
    request.once('error', reject)
  })
}

async function statusByHttp2(socket: net.Socket, path: string): Promise<number> {
  const { connect } = await import('node:http2')
  return new Promise((resolve, reject) => {
    const session = connect('http://localhost', { createConnection: () => socket })
    session.once('error', reject)
    const request = session.request({ ':path': path })
    request.once('error', reject)
    request.once('response', (headers) => {
      request.resume()
      request.once('end', () => {
        session.destroy()
        resolve(headers[':status'] as number)
      })
    })
  })
}
