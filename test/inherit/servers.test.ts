import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import * as grpc from '@grpc/grpc-js'
import { io } from 'socket.io-client'
import { WebSocket } from 'ws'
import { reservedPort } from '../activated.js'
import { certificates } from '../certificates.js'
import { cleanUp, listen, nodeEnvironment, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needs } from '../needs.js'
import { RunningExample } from '../running-example.js'
import { preload, startPlain, startPreloaded } from './preloaded.js'

interface Subject {
  /** The server, which listens on PORT as in the documentation of its framework. */
  program: string
  /** Uses the server as a client. Returns what the client sees. */
  use(port: number): Promise<unknown>
}

const agentFor = async () => new https.Agent({ ca: (await certificates()).ca.cert, maxSockets: 1 })

/** Sends requests on one connection. */
async function requests(module: typeof http | typeof https, port: number): Promise<unknown> {
  const agent = module === https ? await agentFor() : new http.Agent({ keepAlive: true, maxSockets: 1 })
  const seen: unknown[] = []
  for (const [method, path, body] of [
    ['GET', '/hello/a?b=c'],
    ['POST', '/echo', '{"some":"json"}'],
    ['HEAD', '/hello/b'],
    ['GET', '/missing'],
  ] as const) {
    const headers = { host: 'localhost', 'content-type': 'application/json' }
    const request = module.request({ host: '127.0.0.1', port, method, path, agent, headers }).end(body)
    const [response] = (await once(request, 'response')) as [http.IncomingMessage]
    const { date: _, ...others } = response.headers
    seen.push([method, path, response.statusCode, others, await text(response)])
  }
  agent.destroy()
  return seen
}

const overHttp = (program: string): Subject => ({ program, use: (port) => requests(http, port) })

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
    use: (port) => requests(https, port),
  },
  http2: {
    program: `require('node:http2').createSecureServer(${secure}, ${handler}).listen(Number(process.env.PORT))`,
    async use(port) {
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
    use: (port) => text(net.connect(port, '127.0.0.1').end('echoed')),
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
  ws: {
    program: `
      const server = new (require('ws').WebSocketServer)({ port: Number(process.env.PORT) })
      server.on('connection', (socket) => socket.on('message', (data) => socket.send('got ' + data)))`,
    async use(port) {
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
    async use(port) {
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

const start = async (port: number) => {
  const { localhost } = await certificates()
  return { PORT: String(port), KEY: localhost.key, CERT: localhost.cert }
}

/** Resolves when a program listens on the port of IPv4. */
async function listening(port: number): Promise<void> {
  await until(async () => {
    const socket = net.connect(port, '127.0.0.1')
    const [event] = await Promise.race([
      once(socket, 'connect').then(() => ['connect']),
      once(socket, 'error').then(() => ['error']),
    ]).catch(() => ['error'])
    socket.destroy()
    return event === 'connect'
  })
}

describe('An unchanged server answers with the preload as without it', () => {
  leaveNoFds()

  for (const [name, { program, use }] of Object.entries(subjects)) {
    it(name, async function () {
      this.timeout(60_000)
      const port = reservedPort()
      const env = await start(port)
      const plain = startPlain(program, { env })
      await listening(port)
      const expected = await use(port)
      plain.signal('SIGKILL')
      await plain.ended

      const web = await listen({ host: '127.0.0.1', port })
      const preloaded = startPreloaded(program, { web }, { env })
      assert.deepEqual(await use(port), expected)
      preloaded.signal('SIGTERM')
      assert.deepEqual([await preloaded.ended, preloaded.stderr], [0, ''])
      await web.close()

      needs(this, 'systemd-socket-activate', '--version')
      const variables = Object.entries({ ...env, ...passedOn() }).map(([key, value]) => `--setenv=${key}=${value}`)
      const words = ['-l', `127.0.0.1:${port}`, ...variables, process.execPath, ...preload, '-e', program]
      const activated = spawn('systemd-socket-activate', words, {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: nodeEnvironment(),
      })
      cleanUp(() => activated.kill('SIGKILL'))
      const running = new RunningExample(activated)
      await until(() => /^Listening on /m.test(running.stderr) || activated.exitCode !== null)
      assert.deepEqual(await use(port), expected)
      running.signal('SIGTERM')
      assert.equal(await running.ended, 0, running.stderr)
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

// systemd-socket-activate passes on only the variables that it is told to.
const passedOn = () =>
  Object.fromEntries(
    Object.entries(nodeEnvironment()).filter(([name]) => name === 'NODE_OPTIONS' || name === 'ASYNC_ACCEPT_ADDON'),
  )
