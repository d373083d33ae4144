import assert from 'node:assert/strict'
import http from 'node:http'
import https from 'node:https'
import { promisify } from 'node:util'
import { createHttpTerminator } from 'http-terminator'
import stoppable from 'stoppable'
import { certificates } from '../certificates.js'
import { leaveNoFds } from '../leaks.js'
import { type Answer, assertEnded, Gate, keepingAgent, request, serveOnLoopback } from './served.js'

type Handler = http.RequestListener

const kinds = {
  http: async (handler: Handler) => ({ server: http.createServer(handler), ca: undefined }),
  https: async (handler: Handler) => {
    const { ca, localhost } = await certificates()
    return { server: https.createServer(localhost, handler), ca: ca.cert }
  },
}

for (const [kind, make] of Object.entries(kinds)) {
  /** Connects two clients: one with an answered request and an idle connection, one with a request in progress. */
  async function start<Stop>(prepare: (server: http.Server) => Stop) {
    const gate = new Gate()
    const { server, ca } = await make((request, response) => {
      if (request.url === '/held') gate.pass().then(() => response.end('held'))
      else response.end('idle')
    })
    const stop = prepare(server)
    const served = await serveOnLoopback(server)
    const agents = [keepingAgent({ ca }), keepingAgent({ ca })] as const
    const ask = (path: string, agent: http.Agent): Promise<Answer> =>
      request(`${kind}://${served.host}/${path}`, { agent, ca })
    assert.equal((await ask('idle', agents[0])).connection, 'keep-alive')
    const answer = ask('held', agents[1])
    await gate.reached
    assert.equal(served.serving.connections, 2)
    return { ...served, gate, stop, answer }
  }

  describe(`serve() with http-terminator, ${kind}`, () => {
    leaveNoFds()

    it('ends idle connections, and answers the request in progress with Connection: close', async () => {
      const { gate, stop, answer, ...served } = await start(
        (server) => createHttpTerminator({ server, gracefulTerminationTimeout: 60_000 }).terminate,
      )
      const terminated = stop()
      gate.open()
      assert.deepEqual(await answer, { status: 200, connection: 'close', body: 'held' })
      await terminated
      await assertEnded(served)
    })

    it('disconnects the request in progress at the deadline', async () => {
      const { gate, stop, answer, ...served } = await start(
        (server) => createHttpTerminator({ server, gracefulTerminationTimeout: 1 }).terminate,
      )
      const cut = assert.rejects(answer, { code: 'ECONNRESET' })
      await stop()
      await cut
      await assertEnded(served)
      gate.open()
    })
  })

  describe(`serve() with stoppable, ${kind}`, () => {
    leaveNoFds()

    const stopper = (grace?: number) => (server: http.Server) => {
      const { stop } = stoppable(server, grace)
      return promisify<boolean>((done) => stop((error, gracefully) => done(error ?? null, gracefully)))
    }

    it('ends idle connections, and answers the request in progress', async () => {
      const { gate, stop, answer, ...served } = await start(stopper())
      const stopped = stop()
      gate.open()
      assert.equal((await answer).body, 'held')
      assert.equal(await stopped, true)
      await assertEnded(served)
    })

    it('disconnects the request in progress at the deadline', async () => {
      const { gate, stop, answer, ...served } = await start(stopper(0))
      const cut = assert.rejects(answer, { code: 'ECONNRESET' })
      assert.equal(await stop(), false)
      await cut
      await assertEnded(served)
      gate.open()
    })
  })
}
