import assert from 'node:assert/strict'
import http from 'node:http'
import type net from 'node:net'
import express from 'express'
import fastify from 'fastify'
import Koa from 'koa'
import { until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { answersTo, get, rawClient } from '../serve/pipelining.js'
import { serveOnLoopback } from './served.js'

const hour = 3_600_000

describe('Serving.drain with several requests on one connection', () => {
  leaveNoFds()

  type Handler = (url: string) => Promise<string>
  const frameworks: Record<string, (handler: Handler) => Promise<net.Server>> = {
    Express: async (handler) => {
      const app = express()
      app.get('/:n', async (request, response) => {
        response.set('x-request', request.url).send(await handler(request.url))
      })
      return http.createServer(app)
    },
    Fastify: async (handler) => {
      const app = fastify()
      app.get('/:n', async (request, reply) => reply.header('x-request', request.url).send(await handler(request.url)))
      await app.ready()
      return app.server
    },
    Koa: async (handler) => {
      const app = new Koa()
      app.use(async (context) => {
        context.set('x-request', context.url)
        context.body = await handler(context.url)
      })
      return http.createServer(app.callback())
    },
  }

  for (const [name, make] of Object.entries(frameworks)) {
    it(`sends all responses in order with ${name}`, async () => {
      const held: Record<string, () => void> = {}
      const server = await make(async (url) => {
        await new Promise<void>((resolve) => (held[url] = resolve))
        return `answer ${url}`
      })
      const { listener, serving } = await serveOnLoopback(server)
      const client = await rawClient(listener)
      client.socket.write(get('/0') + get('/1'))
      await until(() => Object.keys(held).length === 2)
      const draining = serving.drain({ idleGrace: hour })
      client.socket.write(get('/2'))
      await until(() => Object.keys(held).length === 3)
      for (const url of ['/1', '/0', '/2']) held[url]?.()
      assert.match(await answersTo(client), /^\/0 \/1 \/2!?$/)
      assert.equal((await draining).destroyed, 0)
    })
  }
})
