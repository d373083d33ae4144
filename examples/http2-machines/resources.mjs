// The HTTP resources, for both versions of HTTP.
import { readFileSync } from 'node:fs'
import { pipeline } from 'node:stream'
import { contentSecurityPolicy, page } from './page.mjs'

const script = 'text/javascript; charset=utf-8'
const types = {
  '/style.css': 'text/css; charset=utf-8',
  '/live.mjs': script,
  '/view.mjs': script,
  '/chart.mjs': script,
}
const files = new Map(
  Object.keys(types).map((path) => [path, readFileSync(new URL(`./page${path}`, import.meta.url), 'utf8')]),
)

export class Resources {
  #pool
  #events

  constructor(pool, events) {
    this.#pool = pool
    this.#events = events
  }

  answer(request, response) {
    const path = request.url.split('?')[0]
    const { method } = request
    const reading = method === 'GET' || method === 'HEAD'
    const machine = this.#pool.machines.get(Number(/^\/machines\/(\d+)$/.exec(path)?.[1]))
    request.resume()
    if (reading && path === '/status') return json(response, this.#pool.status())
    if (reading && path === '/') {
      if (/\bapplication\/json\b/.test(request.headers.accept)) return json(response, this.#pool.status())
      response.setHeader('content-security-policy', contentSecurityPolicy)
      return reply(response, 200, page(this.#pool.status()), 'text/html; charset=utf-8')
    }
    if (reading && files.has(path)) return reply(response, 200, files.get(path), types[path])
    if (path === '/events' && method === 'GET') {
      if (!this.#events.add(response)) reply(response, 503, 'too many event streams')
      return
    }
    if (path === '/echo' && method === 'POST') {
      response.writeHead(200, { 'content-type': 'application/octet-stream' })
      response.flushHeaders()
      return pipeline(request, response, () => {})
    }
    if (machine && reading) return json(response, machine.status())
    if (machine && method === 'DELETE') {
      // A client must not end the connection of another client.
      if (machine.state !== 'listening') return reply(response, 409, `machine ${machine.ref} is ${machine.state}`)
      machine.stop()
      return reply(response, 200, `machine ${machine.ref} is ${machine.state}`)
    }
    const all = 'GET /, GET /status, GET /events, POST /echo, GET and DELETE /machines/<ref>'
    return reply(response, 404, `Resources: ${all}`)
  }
}

const json = (response, value) => reply(response, 200, JSON.stringify(value, null, 2), 'application/json')

function reply(response, statusCode, body, type = 'text/plain; charset=utf-8') {
  response.writeHead(statusCode, {
    'content-type': type,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  })
  response.end(body.endsWith('\n') ? body : `${body}\n`)
}
