import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import * as grpc from '@grpc/grpc-js'
import { io } from 'socket.io-client'
import { WebSocket } from 'ws'
import { certificates } from '../certificates.js'
import { cleanUp, listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { startPreloaded } from './preloaded.js'
import { assertAnswersTheSame, overHttp, requests, type Subject } from './unchanged-server.js'

const handler = `(request, response) => {
  let body = ''
  request.on('data', (data) => { body += data })
  request.on('end', () => {
    response.setHeader('X-From', request.socket.remoteAddress.replace('::ffff:', ''))
    response.end(request.method + request.url + body)
  })
}`

const secure = '{ key: process.env.KEY, cert: process.env.CERT }'

const subjects: Record<string, Subject> = {
  http: overHttp(`require('node:http').createServer(${handler}).listen(process.env.PORT)`),
  https: {
    program: `require('node:https').createServer(${secure}, ${handler}).listen(Number(process.env.PORT))`,
    use: ({ port }) => requests(https, { port }),
  },
  http2: {
    program: `require('node:http2').createSecureServer(${secure}, ${handler}).listen(Number(process.env.PORT))`,
    async use({ port }) {
      const session = http2.connect(`https://localhost:${port}`, {
        ca: (await certificates()).ca.cert,
        family: 4,
      } as object)
      const seen: unknown[] = []
      for (const path of ['/a', '/b']) {
        const request = session.request({ ':path': path })
        const [{ date: _, ...headers }] = await once(request, 'response')
        seen.push([{ ...headers }, await text(request)])
      }
      session.close()
      return seen
    },
  },
  net: {
    program:
      "require('node:net').createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(process.env.PORT)",
    use: ({ port }) => text(net.connect(port, '127.0.0.1').end('echoed')),
  },
  Express: overHttp(`
    const express = require('express')
    const app = express().use(express.json())
    app.get('/hello/:name', ({ params, query, ip }, response) => response.send([params.name, query, ip.replace('::ffff:', '')]))
    app.post('/echo', ({ body }, response) => response.json(body))
    app.listen(process.env.PORT)`),
  Fastify: overHttp(`
    const app = require('fastify')()
    app.get('/hello/:name', async ({ params, query }) => [params, query])
    app.post('/echo', async ({ body }) => body)
    app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })`),
  'Fastify on localhost': overHttp(`
    const app = require('fastify')()
    app.get('/hello/:name', async ({ params }) => params)
    app.listen({ port: Number(process.env.PORT) })`),
  Koa: overHttp(`
    const Koa = require('koa')
    const app = new Koa()
    app.use(async (context) => { context.body = [context.path, context.ip.replace('::ffff:', '')] })
    app.listen(process.env.PORT)`),
  Hono: overHttp(`
    Promise.all([import('@hono/node-server'), import('hono')]).then(([{ serve }, { Hono }]) => {
      const app = new Hono()
      app.get('/hello/:name', (context) => context.json(context.req.param()))
      app.post('/echo', async (context) => context.json(await context.req.json()))
      serve({ fetch: app.fetch, port: Number(process.env.PORT) })
    })`),
  h3: overHttp(`
    import('h3').then(({ H3, serve }) => {
      const app = new H3()
      app.get('/hello/:name', (event) => event.context.params)
      app.post('/echo', (event) => event.req.json())
      serve(app, { port: Number(process.env.PORT), silent: true, gracefulShutdown: false })
    })`),
  'two ports and a path': {
    program: `
      const app = require('express')()
      app.get('/hello/:name', ({ params, socket }, response) => response.send([params, socket.server.address().port]))
      app.listen(process.env.PORT)
      app.listen(process.env.OTHER_PORT)
      require('node:http').createServer(app).listen(process.env.PATH_OF_SOCKET)`,
    listensOn: ['port', 'other', 'path'],
    use: async ({ port, other, path }) => {
      const seen = [await requests(http, { port }), await requests(http, { port: other })]
      return [...seen, await requests(http, { socketPath: path })]
    },
  },
  ws: {
    program: `
      const server = new (require('ws').WebSocketServer)({ port: Number(process.env.PORT) })
      server.on('connection', (socket) => socket.on('message', (data) => socket.send('got ' + data)))`,
    async use({ port }) {
      const socket = new WebSocket(`ws://127.0.0.1:${port}`)
      await once(socket, 'open')
      socket.send('message')
      const [message] = await once(socket, 'message')
      socket.close()
      await once(socket, 'close')
      return String(message)
    },
  },
  'socket.io': {
    program: `
      const { Server } = require('socket.io')
      new Server(Number(process.env.PORT)).on('connection', (socket) => socket.on('ask', (what, answer) => answer('got ' + what)))`,
    async use({ port }) {
      const socket = io(`http://127.0.0.1:${port}`)
      const answer = await socket.emitWithAck('ask', 'this')
      socket.disconnect()
      return answer
    },
  },
}

const echo = {
  requestSerialize: Buffer.from,
  requestDeserialize: String,
  responseSerialize: Buffer.from,
  responseDeserialize: String,
}

// Nest, Next and Nitro: package/inherited-servers.test.ts.
describe('An unchanged server answers with the preload as without it', () => {
  leaveNoFds()

  for (const [name, subject] of Object.entries(subjects)) {
    it(name, async function () {
      this.timeout(60_000)
      await assertAnswersTheSame(this, subject)
    })
  }

  it('grpc-js', async () => {
    const web = await listen({ host: '127.0.0.1' })
    const program = `
      const grpc = require('@grpc/grpc-js')
      const echo = { requestSerialize: Buffer.from, requestDeserialize: String, responseSerialize: Buffer.from, responseDeserialize: String }
      const server = new grpc.Server()
      server.addService({ echo: { path: '/t.T/Echo', ...echo } }, { echo: ({ request }, answer) => answer(null, 'got ' + request) })
      server.bindAsync('127.0.0.1:' + process.env.PORT, grpc.ServerCredentials.createInsecure(), () => {})`
    const running = startPreloaded(program, { web }, { env: { PORT: String(web.port) } })
    const Client = grpc.makeGenericClientConstructor(
      { echo: { path: '/t.T/Echo', requestStream: false, responseStream: false, ...echo } } as never,
      'T',
    )
    const client = new Client(`127.0.0.1:${web.port}`, grpc.credentials.createInsecure())
    cleanUp(() => client.close())
    const answer = await new Promise((resolve, reject) => {
      const method = client.echo as (message: string, done: (error: unknown, answer: unknown) => void) => void
      method.call(client, 'this', (error, value) => (error ? reject(error) : resolve(value)))
    })
    assert.equal(answer, 'got this')
    running.signal('SIGTERM')
    assert.deepEqual([await running.ended, running.stderr], [0, ''])
  })
})
