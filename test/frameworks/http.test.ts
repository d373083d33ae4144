import assert from 'node:assert/strict'
import http from 'node:http'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { createAdaptorServer } from '@hono/node-server'
import { getConnInfo } from '@hono/node-server/conninfo'
import express from 'express'
import fastify from 'fastify'
import { getRequestIP, getRouterParam, H3, serve as serveH3 } from 'h3'
import { Hono } from 'hono'
import Koa from 'koa'
import { type ServeOptions, type Serving, serve } from '../../src/index.js'
import { listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import {
  assertEnded,
  closeServer,
  cutOffAtTheEnd,
  Gate,
  keepingAgent,
  request,
  type Served,
  serveOnLoopback,
} from './served.js'

interface App {
  server: net.Server
  /** The close function of the framework. */
  close(): Promise<unknown>
}

/** `GET /hello/:name` also returns the client's address, `POST /echo` its JSON. `GET /held` waits at the gate. */
type Make = (gate: Gate) => App | Promise<App>

const makeExpress: Make = (gate) => {
  const app = express()
  app.get('/hello/:name', ({ params, ip }, response) => {
    response.send(`hello ${params.name} at ${ip}`)
  })
  app.post('/echo', express.json(), ({ body }, response) => {
    response.json(body)
  })
  app.get('/held', async (_request, response) => {
    await gate.pass()
    response.send('held')
  })
  const server = http.createServer(app)
  return { server, close: () => closeServer(server) }
}

const makeFastify: Make = async (gate) => {
  const app = fastify()
  app.get<{ Params: { name: string } }>('/hello/:name', async ({ params, ip }) => `hello ${params.name} at ${ip}`)
  app.post('/echo', async ({ body }) => body)
  app.get('/held', async () => {
    await gate.pass()
    return 'held'
  })
  await app.ready()
  return { server: app.server, close: () => app.close() }
}

const makeKoa: Make = (gate) => {
  const app = new Koa()
  app.use(async (ctx, next) => {
    const [, name] = /^\/hello\/(\w+)$/.exec(ctx.path) ?? []
    if (name !== undefined) ctx.body = `hello ${name} at ${ctx.ip}`
    else await next()
  })
  app.use(async (ctx, next) => {
    if (ctx.method === 'POST' && ctx.path === '/echo') ctx.body = JSON.parse(await text(ctx.req))
    else await next()
  })
  app.use(async (ctx) => {
    if (ctx.path !== '/held') return
    await gate.pass()
    ctx.body = 'held'
  })
  const server = http.createServer(app.callback())
  return { server, close: () => closeServer(server) }
}

const makeHono: Make = (gate) => {
  const app = new Hono()
  app.get('/hello/:name', (c) => c.text(`hello ${c.req.param('name')} at ${getConnInfo(c).remote.address}`))
  app.post('/echo', async (c) => c.json(await c.req.json()))
  app.get('/held', async (c) => {
    await gate.pass()
    return c.text('held')
  })
  // The other tests use Node's Request and Response.
  const server = createAdaptorServer({ fetch: app.fetch, overrideGlobalObjects: false })
  return { server, close: () => closeServer(server) }
}

const makeH3: Make = (gate) => {
  const app = new H3()
  app.get('/hello/:name', (event) => `hello ${getRouterParam(event, 'name')} at ${getRequestIP(event)}`)
  app.post('/echo', (event) => event.req.json())
  app.get('/held', async () => {
    await gate.pass()
    return 'held'
  })
  const started = serveH3(app, { manual: true, gracefulShutdown: false })
  return { server: started.node?.server as net.Server, close: () => started.close() }
}

const frameworks: Record<string, Make> = {
  Express: makeExpress,
  Fastify: makeFastify,
  Koa: makeKoa,
  Hono: makeHono,
  h3: makeH3,
}

for (const [name, make] of Object.entries(frameworks)) {
  describe(`serve() with ${name}`, () => {
    lookedBefore()
    leaveNoFds()

    async function start(options?: ServeOptions): Promise<Served & App & { gate: Gate }> {
      const gate = new Gate()
      const app = await make(gate)
      return { ...app, gate, ...(await serveOnLoopback(app.server, options)) }
    }

    it('answers requests, and closes with idle keep-alive connections', async () => {
      const served = await start()
      const [hello, echo, unknown] = await Promise.all([
        fetch(`http://${served.host}/hello/you`),
        fetch(`http://${served.host}/echo`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: '{"some":["thing"]}',
        }),
        fetch(`http://${served.host}/unknown`),
      ])
      assert.equal(await hello.text(), 'hello you at 127.0.0.1')
      assert.deepEqual(await echo.json(), { some: ['thing'] })
      assert.equal(unknown.status, 404)
      await unknown.text()
      assert.equal(served.serving.connections, 3)
      await served.close()
      await assertEnded(served)
    })

    it('sees the client of a PROXY header', async () => {
      const served = await start({ proxyProtocol: 'require', trust: ['127.0.0.1'] })
      const createConnection = (options: object) => {
        const socket = net.connect(options as net.NetConnectOpts)
        socket.write('PROXY TCP4 203.0.113.9 127.0.0.1 4000 80\r\n')
        return socket
      }
      const { body } = await request(`http://${served.host}/hello/you`, { createConnection })
      assert.equal(body, 'hello you at 203.0.113.9')
      await served.close()
      await assertEnded(served)
    })

    it('answers the request in progress before close() completes', async () => {
      const { gate, close, ...served } = await start()
      const agent = keepingAgent()
      const answer = request(`http://${served.host}/held`, { agent })
      await gate.reached
      let closed = false
      const closing = close().then(() => (closed = true))
      await until(() => !served.server.listening)
      assert.equal(served.serving.connections, 1)
      assert.equal(closed, false)
      gate.open()
      assert.equal((await answer).body, 'held')
      agent.destroy()
      await closing
      await assertEnded(served)
    })
  })
}

// Fastify's behaviour around its own listen().
describe('serve() in the server factory of Fastify', () => {
  leaveNoFds()

  it('runs the onListen hooks, and disconnects clients with forceCloseConnections', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const gate = new Gate()
    const server = http.createServer()
    let serving: Serving | undefined
    const app = fastify({
      forceCloseConnections: true,
      serverFactory: (handler) => {
        server.listen = () => {
          serving = serve(listener, server)
          return server
        }
        return server.on('request', handler)
      },
    })
    let heard = 0
    app.addHook('onListen', async () => void heard++)
    app.get('/held', () => gate.pass())
    const url = await app.listen()
    cutOffAtTheEnd(serving as Serving)
    assert.equal(heard, 1)
    const answer = assert.rejects(request(`${url}/held`), { code: 'ECONNRESET' })
    await gate.reached
    await app.close()
    await answer
    gate.open()
    await assertEnded({ server, listener, serving: serving as Serving })
  })
})
