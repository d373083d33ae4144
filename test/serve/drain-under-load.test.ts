import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import { type Listener, type Serving, serve } from '../../src/index.js'
import { cleanUp, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'
const portOf = (listener: Listener) => (listener.address() as net.AddressInfo).port

const restarts = 50
const clients = 8

interface Load {
  /** The number of requests answered. */
  answered: number
  failures: unknown[]
  stopped: boolean
}

/** Several clients call `request` repeatedly and concurrently until the load is stopped. */
function load(request: (client: number) => Promise<string>): { load: Load; ended: Promise<unknown> } {
  const load: Load = { answered: 0, failures: [], stopped: false }
  const client = async (_: unknown, number: number) => {
    while (!load.stopped) {
      try {
        assert.equal(await request(number), 'ok')
        load.answered++
      } catch (error) {
        load.failures.push(error)
      }
    }
  }
  return { load, ended: Promise.all(Array.from({ length: clients }, client)) }
}

/** Drains and serves again, each time after at least one more request was answered. */
async function restart(load: Load, start: () => Serving): Promise<void> {
  let serving = start()
  for (let i = 0; i < restarts; i++) {
    const before = load.answered
    await until(() => load.answered > before + clients || load.failures.length > 0)
    // Under constant load, the next request of each connection arrives soon. None is idle for this long.
    const { destroyed } = await serving.drain({ timeout: -1, idleGrace: 3_600_000 })
    assert.equal(destroyed, 0)
    serving = start()
  }
  load.stopped = true
  cleanUp(() => serving.drain({ timeout: 0 }))
}

describe('50 drains and restarts on one listening socket under constant load', function () {
  this.timeout(120_000)
  leaveNoFds()

  const answer: http.RequestListener = (_, response) => setImmediate(() => response.end('ok'))

  async function get(options: http.RequestOptions): Promise<string> {
    const [response] = await once(http.get(options), 'response')
    return text(response)
  }

  it('fail no request of clients that open a connection for each request', async () => {
    const listener = await listen({ host })
    const options = { host, port: portOf(listener), agent: false }
    const running = load(() => get(options))
    await restart(running.load, () => serve(listener, http.createServer(answer)))
    await running.ended
    assert.deepEqual(running.load.failures, [])
  })

  it('fail no request of clients with keep-alive connections', async () => {
    const listener = await listen({ host })
    const agents = Array.from({ length: clients }, () => new http.Agent({ keepAlive: true, maxSockets: 1 }))
    cleanUp(() => agents.forEach((agent) => void agent.destroy()))
    const running = load((client) => get({ host, port: portOf(listener), agent: agents[client] as http.Agent }))
    const server = http.createServer(answer)
    await restart(running.load, () => serve(listener, server))
    await running.ended
    assert.deepEqual(running.load.failures, [])
  })

  it('fail no request of HTTP/2 clients', async () => {
    const listener = await listen({ host })
    const sessions: http2.ClientHttp2Session[] = []
    const request = async (client: number): Promise<string> => {
      const usable = sessions[client]
      let session = usable
      if (session === undefined || session.closed || session.destroyed) {
        session = http2.connect(`http://${host}:${portOf(listener)}`)
        sessions[client] = session
        const opened = session
        cleanUp(() => opened.destroy())
      }
      try {
        return await text(session.request())
      } catch (error) {
        // RFC 9113, section 8.7: the request has not been processed, and the client may retry it.
        if (!(error as Error).message.endsWith('NGHTTP2_REFUSED_STREAM')) throw error
        return request(client)
      }
    }
    const running = load(request)
    const server = http2.createServer((_, response) => setImmediate(() => response.end('ok')))
    await restart(running.load, () => serve(listener, server))
    await running.ended
    assert.deepEqual(running.load.failures, [])
    for (const session of sessions) session.close()
  })
})
