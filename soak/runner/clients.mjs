// The process of the clients of the runner: some of each kind, each of which sends one POST request after the other.
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'

const { HTTP2_HEADER_STATUS, NGHTTP2_REFUSED_STREAM } = http2.constants

// ms. A drain closes a connection that is idle for longer (idleGrace). A request that is sent at that moment is lost, as
// with every HTTP/1 server. So clients that keep a connection pause for less. Without a CPU, a pause may still be longer.
const idleGrace = 200
const longestPause = 50

/** HTTP/1 requests. None is sent again. */
class Http1 {
  #send
  #options
  /** The time of the last answer, on the clock of all processes. */
  #answeredAt = process.hrtime.bigint()

  constructor({ request, Agent }, port, keepAlive) {
    this.#send = request
    const agent = new Agent({ keepAlive, maxSockets: 1, rejectUnauthorized: false, maxCachedSessions: 0 })
    this.#options = { host: '127.0.0.1', port, method: 'POST', headers: { 'content-type': 'text/plain' }, agent }
  }

  async post(path, body, seen) {
    const sent = this.#send({ ...this.#options, path })
    sent.once('socket', (socket) => {
      seen.port = socket.localPort
      if (socket.connecting) {
        socket.once('connect', () => {
          seen.port = socket.localPort
        })
      }
    })
    sent.end(body)
    const idle = Number(process.hrtime.bigint() - this.#answeredAt) / 1e6
    try {
      const [response] = await once(sent, 'response')
      const received = await text(response)
      this.#answeredAt = BigInt(response.headers['x-at'] ?? 0)
      return { status: response.statusCode, body: received }
    } catch (error) {
      if (sent.reusedSocket) seen.idle = idle
      throw error
    }
  }

  close() {
    this.#options.agent.destroy()
  }
}

/** HTTP/2 requests on one connection, until the server says that it takes no more. */
class Http2 {
  #open
  #session
  #opened
  #port

  /** `connect` opens the connection. */
  constructor(scheme, connect, port) {
    this.#open = () => {
      const options = { host: '127.0.0.1', port, rejectUnauthorized: false, ALPNProtocols: ['h2'] }
      const socket = connect(options).once('connect', () => {
        this.#port = socket.localPort
      })
      const session = http2.connect(`${scheme}://127.0.0.1:${port}`, { createConnection: () => socket })
      this.#opened = once(session, 'connect')
      return session.on('error', () => {})
    }
  }

  async post(path, body, seen) {
    if (this.#session === undefined || this.#session.closed || this.#session.destroyed) this.#session = this.#open()
    const session = this.#session
    try {
      await this.#opened
      // It may have ended meanwhile. Nothing was sent then.
      if (session !== this.#session || session.closed || session.destroyed) return undefined
      return await this.#exchange(session.request({ ':method': 'POST', ':path': path }), body)
    } finally {
      seen.port = this.#port
    }
  }

  async #exchange(stream, body) {
    const ended = once(stream, 'close').then(() => {
      throw Object.assign(new Error('the stream was closed'), { code: stream.rstCode })
    })
    stream.end(body)
    try {
      const [headers] = await Promise.race([once(stream, 'response'), ended])
      const received = await text(stream)
      return { status: headers[HTTP2_HEADER_STATUS], body: received }
    } catch (error) {
      // The server has not processed it: RFC 9113, section 8.7.
      if (stream.rstCode === NGHTTP2_REFUSED_STREAM) return undefined
      throw error
    }
  }

  close() {
    this.#session?.close()
  }
}

/** The kinds of clients: the name of their socket, how many there are, their streams, and whether they pause. */
const kinds = {
  'new connections': { socket: 'http', count: 2, open: (port) => new Http1(http, port, false) },
  'kept connections': { socket: 'http', count: 4, pauses: true, open: (port) => new Http1(http, port, true) },
  'new TLS connections': { socket: 'https', count: 1, open: (port) => new Http1(https, port, false) },
  'kept TLS connections': { socket: 'https', count: 2, pauses: true, open: (port) => new Http1(https, port, true) },
  h2c: { socket: 'h2c', count: 1, streams: 3, pauses: true, open: (port) => new Http2('http', net.connect, port) },
  'HTTP/2 over TLS': {
    socket: 'h2',
    count: 1,
    streams: 3,
    pauses: true,
    open: (port) => new Http2('https', tls.connect, port),
  },
}

let resting = true
const lanes = []
const figures = Object.fromEntries(Object.keys(kinds).map((name) => [name, { answered: 0, again: 0, idle: 0 }]))
const failures = []
let requests = 0

async function lane(name, client, pauses) {
  const mine = figures[name]
  while (!resting) {
    const body = `request ${requests++}`
    const seen = {}
    try {
      const answer = await client.post('/', body, seen)
      if (answer === undefined) mine.again++
      else if (Number(answer.status) === 200 && answer.body === body) mine.answered++
      else throw new Error(`answered ${answer.status} ${JSON.stringify(answer.body.slice(0, 99))} to ${body}`)
    } catch (error) {
      // The only failure that HTTP allows: see above.
      if (seen.idle >= idleGrace) mine.idle++
      else failures.push({ kind: name, ...seen, at: Date.now(), code: error.code, message: error.message })
      await sleep(10)
    }
    if (pauses) await sleep(Math.random() * longestPause)
  }
  client.close()
}

const orders = {
  go({ ports }) {
    resting = false
    for (const [name, kind] of Object.entries(kinds)) {
      for (let i = 0; i < kind.count; i++) {
        const client = kind.open(ports[kind.socket])
        for (let j = 0; j < (kind.streams ?? 1); j++) lanes.push(lane(name, client, kind.pauses))
      }
    }
  },
  look() {
    process.send({ seen: { figures, failures } })
  },
  async rest() {
    resting = true
    await Promise.all(lanes.splice(0))
    process.send({ resting: { figures, failures } })
  },
}

process.on('message', (message) => orders[message.order](message))
process.on('disconnect', () => process.exit())
