import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { constants } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { createAdaptorServer } from '@hono/node-server'
import express from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import Koa from 'koa'
import { binding } from '../../src/core/binding.js'
import {
  type CodedError,
  type Connection,
  type ConnectionHandler,
  Listener,
  type ServeOptions,
  serve,
} from '../../src/index.js'
import { cleanUp, codeOf, connect, listen, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const aborted = AbortSignal.abort()
const wrongType = 'ERR_INVALID_ARG_TYPE'
const wrongValue = 'ERR_INVALID_ARG_VALUE'
const outOfRange = 'ERR_OUT_OF_RANGE'
const trust = ['127.0.0.1']

const wrongOptions: [options: unknown, code: string, name: RegExp][] = [
  [null, wrongType, /"options"/],
  [[], wrongType, /"options"/],
  [1, wrongType, /"options"/],
  [{ maxConnections: '1' }, wrongType, /"options.maxConnections"/],
  [{ maxConnections: null }, wrongType, /"options.maxConnections"/],
  [{ maxConnections: -1 }, outOfRange, /"options.maxConnections"/],
  [{ maxConnections: 1.5 }, outOfRange, /"options.maxConnections"/],
  [{ maxConnections: Number.NaN }, outOfRange, /"options.maxConnections"/],
  [{ maxRate: '1' }, wrongType, /"options.maxRate"/],
  [{ maxRate: null }, wrongType, /"options.maxRate"/],
  [{ maxRate: -1 }, outOfRange, /"options.maxRate"/],
  [{ maxRate: 0.5 }, outOfRange, /"options.maxRate"/],
  [{ maxRate: Number.NaN }, outOfRange, /"options.maxRate"/],
  [{ alarm: 10 }, wrongType, /"options.alarm"/],
  [{ alarm: null }, wrongType, /"options.alarm"/],
  [{ alarm: {} }, wrongType, /"options.alarm.threshold"/],
  [{ alarm: { threshold: 0 } }, outOfRange, /"options.alarm.threshold"/],
  [{ alarm: [{ threshold: 1 }, { threshold: '2' }] }, wrongType, /"options.alarm.threshold"/],
  [{ alarm: { threshold: 1, cooldown: -1 } }, outOfRange, /"options.alarm.cooldown"/],
  [{ alarm: { threshold: 1, cooldown: '1' } }, wrongType, /"options.alarm.cooldown"/],
  [{ proxyProtocol: true, trust }, wrongType, /"options.proxyProtocol".*'require', 'optional'/],
  [{ proxyProtocol: 'always', trust }, wrongValue, /'options.proxyProtocol'/],
  [{ proxyProtocol: 'require' }, wrongType, /"options.trust"/],
  [{ trust: '127.0.0.1' }, wrongType, /"options.trust"/],
  [{ trust: ['localhost'] }, wrongValue, /'options.trust'/],
  [{ trust: ['10.0.0.0/33'] }, wrongValue, /'options.trust'/],
  [{ trust: ['::1/129'] }, wrongValue, /'options.trust'/],
  [{ trust: ['10.0.0.0/8/8'] }, wrongValue, /'options.trust'/],
  [{ trust: [1] }, wrongValue, /'options.trust'/],
  [{ filter: true }, wrongType, /"options.filter"/],
  [{ filter: null }, wrongType, /"options.filter"/],
  [{ filter: {} }, wrongType, /"options.filter"/],
  [{ tls: true }, wrongType, /"options/],
  [{ tls: null }, wrongType, /"options/],
  [{ tls: net.createServer() }, wrongType, /"options/],
  [{ tls: { cert: 1 } }, wrongType, /"options.cert"/],
  [{ handshakeTimeout: '1' }, wrongType, /"options.handshakeTimeout"/],
  [{ handshakeTimeout: null }, wrongType, /"options.handshakeTimeout"/],
  [{ handshakeTimeout: Number.NaN }, outOfRange, /"options.handshakeTimeout"/],
  [{ signal: {} }, wrongType, /"options.signal"/],
  [{ signal: null }, wrongType, /"options.signal"/],
  [{ signal: aborted }, 'ABORT_ERR', /aborted/],
]

const { AF_UNIX, SOCK_SEQPACKET } = binding.constants as Record<string, number>

function seqpacketListener(): Listener {
  const fd = binding.socket(AF_UNIX as number, SOCK_SEQPACKET as number)
  assert.equal(binding.bindPath(fd, `\0async-accept-${randomUUID()}`), 0)
  assert.equal(binding.listen(fd, 1), 0)
  binding.release(fd)
  const listener = Listener.fromFd(fd)
  cleanUp(() => listener.close())
  return listener
}

describe('serve with invalid arguments', () => {
  leaveNoFds()

  /** Asserts that the call throws and has no side effects: the listener and the server can still be served. */
  function refused(listener: Listener, target: unknown, options: unknown, code: string, message: RegExp = /./): void {
    assert.throws(() => serve(listener, target as ConnectionHandler, options as ServeOptions), { code, message })
    assert.equal(listener.pending, 0)
    assert.equal(listener.listenerCount('accept'), 0)
    if (target instanceof net.Server) assert.equal(target.listening, false)
  }

  it('rejects a value that is not a Listener', async () => {
    const { fd } = await listen({ host: '127.0.0.1' })
    for (const listener of [undefined, null, {}, fd, net.createServer(), Listener])
      assert.throws(() => serve(listener as Listener, () => {}), { code: wrongType, message: /"listener"/ })
  })

  it('rejects a target that is neither a server nor a function', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    for (const target of [undefined, null, {}, 'server', 3000, { listen() {} }, new net.Socket()]) {
      refused(listener, target, undefined, wrongType, /"target"/)
    }
  })

  const fetchOnly = { fetch: () => new Response('') }
  const asked = 'serve(listener, http.createServer('
  const targets: Record<string, [target: unknown, line: string]> = {
    'a (request, response) handler': [
      (_request: unknown, response: http.ServerResponse) => response.end(),
      `${asked}handler))`,
    ],
    'a middleware with three parameters': [
      (_request: unknown, _response: unknown, next: () => void) => next(),
      `${asked}handler))`,
    ],
    'a function with a listen method': [Object.assign(() => {}, { listen() {} }), `${asked}app))`],
    'an Express application': [express(), `${asked}app))`],
    'an Express router': [express.Router(), `${asked}handler))`],
    'a Koa application': [new Koa(), `${asked}app.callback()))`],
    'the callback of a Koa application': [new Koa().callback(), `${asked}handler))`],
    'a Fastify application': [fastify(), 'await app.ready(); serve(listener, app.server)'],
    'a Hono application': [new Hono(), 'serve(listener, createAdaptorServer({ fetch: app.fetch }))'],
    'an object with a fetch method': [fetchOnly, 'serve(listener, createAdaptorServer({ fetch: app.fetch }))'],
  }
  for (const [name, [target, line]] of Object.entries(targets)) {
    it(`rejects ${name}, and shows the line to write`, async () => {
      const listener = await listen({ host: '127.0.0.1' })
      assert.throws(
        () => serve(listener, target as ConnectionHandler),
        ({ code, message }: CodedError) =>
          code === wrongValue && message.startsWith("The argument 'target' ") && message.includes(line),
      )
      assert.equal(listener.pending, 0)
    })
  }

  it('accepts the server of each line that it shows', async () => {
    const app = fastify()
    await app.ready()
    const servers = [
      http.createServer(express()),
      http.createServer(new Koa().callback()),
      app.server,
      createAdaptorServer({ fetch: new Hono().fetch }),
    ]
    for (const server of servers) {
      const listener = await listen({ host: '127.0.0.1' })
      await serve(listener, server as http.Server).close()
    }
  })

  it('accepts a function with a default value, with rest parameters, or with a fetch method', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const functions = [
      (_connection: unknown, _unused = 1) => {},
      (..._all: unknown[]) => {},
      Object.assign(() => {}, { fetch() {} }),
    ]
    for (const each of functions) await serve(listener, each).close()
  })

  for (const [options, code, message] of wrongOptions) {
    it(`rejects the options ${JSON.stringify(options)?.slice(0, 60)} with ${code}`, async () => {
      const listener = await listen({ host: '127.0.0.1' })
      refused(listener, () => {}, options, code, message)
      refused(listener, http.createServer(), options, code, message)
    })
  }

  it("rejects the option 'tls' for a server that has its own TLS", async () => {
    refused(await listen({ host: '127.0.0.1' }), tls.createServer(), { tls: {} }, wrongValue, /'options.tls'/)
  })

  it('rejects a closed or detached listener', async () => {
    for (const end of ['close', 'detach'] as const) {
      const listener = await listen({ host: '127.0.0.1' })
      const fd = listener[end]()
      for (const target of [() => {}, net.createServer()]) refused(listener, target, undefined, 'ERR_LISTENER_CLOSED')
      if (typeof fd === 'number') await Listener.fromFd(fd).close()
    }
  })

  it('rejects a server on a seqpacket socket, but accepts a function', async () => {
    const listener = seqpacketListener()
    refused(listener, net.createServer(), undefined, 'ERR_SOCKET_TYPE')
    await serve(listener, () => {}).close()
  })

  it('rejects a listening server, which continues to listen', async () => {
    const server = net.createServer().listen(0)
    const listener = await listen({ host: '127.0.0.1' })
    assert.throws(() => serve(listener, server), { code: 'ERR_SERVER_ALREADY_LISTEN' })
    assert.equal(server.listening, true)
    assert.equal(listener.pending, 0)
    await new Promise((resolve) => server.close(resolve))
  })

  it('treats an undefined option as absent', async () => {
    const listener = await listen({ path: join(temporaryDirectory(), 'socket') })
    const names = [
      'maxConnections',
      'maxRate',
      'alarm',
      'proxyProtocol',
      'trust',
      'filter',
      'tls',
      'handshakeTimeout',
      'signal',
    ]
    const options = Object.fromEntries(names.map((name) => [name, undefined]))
    await serve(listener, () => {}, options).close()
  })

  it('leaves a tls.Server as it was when there is no fd for it', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const server = tls.createServer({ handshakeTimeout: 5000 })
    const timeout = Object.getOwnPropertySymbols(server).find(({ description }) => description === 'handshake-timeout')
    const timeoutOf = () => (server as unknown as Record<symbol, number>)[timeout as symbol]
    const handles = () => process.getActiveResourcesInfo().filter((name) => name === 'TCPServerWrap').length
    const before = handles()
    const { duplicate } = binding
    binding.duplicate = () => -constants.errno.EMFILE
    cleanUp(() => {
      binding.duplicate = duplicate
    })
    refused(listener, server, { handshakeTimeout: 20 }, 'EMFILE')
    assert.equal(timeoutOf(), 5000)
    assert.equal(handles(), before)
    binding.duplicate = duplicate
    const serving = serve(listener, server, { handshakeTimeout: 20 })
    assert.equal(timeoutOf(), 20)
    await serving.close()
    assert.equal(timeoutOf(), 5000)
  })
})

describe('A subscriber of async-accept.connection that claims a connection', () => {
  leaveNoFds()

  const claims: [how: string, claim: (connection: Connection) => unknown][] = [
    ['closes it', (connection) => connection.close()],
    ['makes a socket of it', (connection) => connection.toSocket()],
  ]
  const targets: [what: string, target: () => net.Server | (() => void), options?: ServeOptions][] = [
    ['a function', () => () => assert.fail('it was delivered')],
    ['a server', () => net.createServer(() => assert.fail('it was delivered'))],
    ['a server with filter', () => net.createServer(), { filter: async () => true }],
    ['a server with tls', () => net.createServer(), { tls: {} }],
    ['a server with proxyProtocol', () => net.createServer(), { proxyProtocol: 'require', trust: ['127.0.0.1'] }],
  ]
  for (const [how, claim] of claims) {
    for (const [what, target, options] of targets) {
      it(`${how}: the connection of ${what} is refused, and does not count`, async () => {
        const claimed: unknown[] = []
        const onConnection = (message: unknown) => {
          claimed.push(claim((message as { connection: Connection }).connection))
        }
        diagnostics.subscribe('async-accept.connection', onConnection)
        cleanUp(() => diagnostics.unsubscribe('async-accept.connection', onConnection))
        const listener = await listen({ host: '127.0.0.1' })
        const serving = serve(listener, target(), { maxConnections: 1, ...options } as ServeOptions)
        for (let count = 0; count < 3; count++) {
          const refused = once(serving, 'refused')
          await connect(listener)
          const [{ error, remoteAddress }] = await refused
          assert.deepEqual([codeOf(error), remoteAddress], ['ERR_CONNECTION_CLAIMED', '127.0.0.1'])
          assert.equal(serving.connections, 0)
        }
        await serving.close()
        for (const each of claimed) if (each instanceof net.Socket) each.destroy()
      })
    }
  }
})
