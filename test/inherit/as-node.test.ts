import assert from 'node:assert/strict'
import { join } from 'node:path'
import { reservedPort } from '../activated.js'
import { listen, temporaryDirectory } from '../helpers.js'
import type { RunningExample } from '../running-example.js'
import { startPlain, startPreloaded } from './preloaded.js'

// What each program below begins with. It prints what happens, in order; the address of the test is the same in both
// runs.
const beginning = `
  const net = require('node:net')
  const http = require('node:http')
  const { once } = require('node:events')
  const { PORT, PATH_OF_SOCKET } = process.env
  const port = Number(PORT)
  const show = (value) => value instanceof Error
    ? { ...value, name: value.name, message: value.message } : value
  const log = (...what) => process._rawDebug(JSON.stringify(what.map(show)))
  function watched(server, name = 'server') {
    for (const event of ['listening', 'connection', 'close', 'error']) {
      server.on(event, (value) => log(name, event, event === 'error' ? value : null, server.listening, server.address()))
    }
    return server
  }
  function order(name) {
    process.nextTick(() => log(name, 'tick'))
    queueMicrotask(() => log(name, 'microtask'))
  }
  const connect = (where) => new Promise((resolve) => {
    let received = ''
    const client = net.connect(where).on('data', (data) => { received += data })
    client.on('error', ({ code }) => resolve(code))
    client.on('close', () => resolve(received))
  })
  const closed = (server) => new Promise((resolve) => server.close((...args) => { log('closed', ...args); resolve() }));
`

// The forms of listen(). Each server answers, closes, and listens again.
const forms: Record<string, string> = {
  'a port': 'port',
  'a port and a callback': 'port, callback',
  'a port as text': 'PORT, callback',
  'a port and a backlog': 'port, 5, callback',
  'a port and a host': "port, '127.0.0.1', callback",
  'a port, a host and a backlog': "port, '127.0.0.1', 5, callback",
  'a host name': "port, 'localhost', callback",
  'no host in IPv6': "port, '::', callback",
  options: '{ port }, callback',
  'options with a host': "{ port, host: '127.0.0.1', backlog: 5 }, callback",
  'options with a port as text': "{ port: PORT, host: '' }, callback",
  'options with a signal': '{ port, signal: new AbortController().signal }, callback',
  'frozen options': 'Object.freeze({ port }), callback',
  'options by getters': '{ get port() { return port } }, callback',
  'undefined after the port': 'port, undefined, callback',
  'null as the host': 'port, null, null, callback',
}

const ofForm = (args: string) => `
  const once_ = async (server) => {
    log('before', server.address(), server.listening)
    const callback = function (...args) { log('callback', this === server, args) }
    const result = server.listen(${args})
    log('returned', result === server, server.listening, server.address(), server.listenerCount('listening'))
    order('listen')
    if (!server.listening || server.address() === null) await once(server, 'listening')
    const [received] = await Promise.all([connect({ port, host: '127.0.0.1' }), once(server, 'connection')])
    log('received', received)
    const done = closed(server)
    log('closing', server.listening, server.address())
    order('close')
    await done
  }
  (async () => {
    const server = watched(net.createServer((socket) => socket.end('hello')))
    await once_(server)
    await once_(server)
    await once_(watched(http.createServer().on('connection', (socket) => socket.end('http')), 'http'))
  })()
`

const programs: Record<string, string> = {
  'a second server on the same port': `
    const first = watched(net.createServer(), 'first').listen(port)
    const second = watched(net.createServer(), 'second').listen(port, () => log('never'))
    log(second.listening, second.address())
    order('second')
    second.once('error', () => { first.close(() => second.listen(port, () => second.close())) })
  `,
  'listen() of a server that listens': `
    const server = watched(net.createServer()).listen(port, () => {
      try { server.listen(port) } catch (error) { log(error) }
      server.close()
    })
    try { server.listen(port) } catch (error) { log(error) }
  `,
  'close() without listen()': `
    const server = watched(net.createServer())
    server.close((error) => log('callback', error))
    server.listen(port, () => server.close((error) => log('again', error)))
  `,
  'listen() twice before the host is resolved': `
    const server = watched(net.createServer())
    server.listen(port, '127.0.0.1', () => log('first'))
    server.listen(port, '127.0.0.1', () => { log('second'); server.close() })
  `,
  'close() in the tick of listen()': `
    const server = watched(net.createServer()).listen(port)
    server.close((error) => { log('closed', error); server.listen(port, () => { log('again'); server.close() }) })
    order('close')
  `,
  'listen() in the tick of close()': `
    const server = watched(net.createServer()).listen(port, () => {
      server.close(() => log('closed'))
      server.listen(port, () => { log('again'); server.close(() => log('closed again')) })
      log(server.address())
    })
  `,
  'invalid arguments': `
    const server = net.createServer()
    for (const args of [[65536], [-1], ['x', 'y', {}], [{}], [{ port: 'abc' }], [{ port: 1.5 }], [true], [Symbol('s')], [{ port, signal: 1 }],
      [{ path: 7 }], [{ port: {} }], [{ host: '127.0.0.1' }], [{ get port() { throw new Error('mine') } }],
      [{ port, get exclusive() { throw new Error('exclusive') } }]]) {
      try { server.listen(...args); log('listens', server.listening) } catch (error) { log(args.map(String), error) }
      server.close(() => {})
    }
  `,
  'an error without a handler': `
    net.createServer().listen(port)
    net.createServer().listen(port)
    process.on('exit', (code) => log('exit', code))
  `,
  "an exception in 'listening'": `
    process.on('exit', (code) => log('exit', code))
    net.createServer().listen(port, () => { throw new Error('mine') })
  `,
  'a signal that aborts': `
    const controller = new AbortController()
    const server = watched(net.createServer()).listen({ port, signal: controller.signal }, () => controller.abort())
    const aborted = watched(net.createServer(), 'aborted').listen({ port, signal: AbortSignal.abort() })
  `,
  'an unreferenced server': `
    const server = watched(net.createServer())
    server.unref()
    server.listen(port)
    process.on('exit', (code) => log('exit', code))
    setImmediate(() => log('ending'))
  `,
  'unref() and ref()': `
    const server = watched(net.createServer()).listen(port)
    server.unref()
    server.ref()
    setImmediate(() => setImmediate(() => { log('alive'); server.unref() }))
    process.on('exit', (code) => log('exit', code))
  `,
  'the connection count': `
    (async () => {
      const server = watched(net.createServer((socket) => socket.resume())).listen(port)
      await once(server, 'listening')
      const client = net.connect(port, '127.0.0.1')
      await once(server, 'connection')
      server.getConnections((error, count) => {
        log(error, count)
        server.close(() => log('closed'))
        log(server.listening)
        client.end(() => log('ended'))
      })
    })()
  `,
  http: `
    (async () => {
      const server = watched(http.createServer((request, response) => {
        log(request.method, request.url, request.headers, request.socket.remoteAddress, request.socket.server === server)
        response.setHeader('Date', 'now')
        response.end('answer')
      })).listen(port, '127.0.0.1')
      await once(server, 'listening')
      const agent = new http.Agent({ keepAlive: true })
      for (const path of ['/a', '/b']) {
        const request = http.get({ port, path, agent, headers: { host: 'h' } })
        const [response] = await once(request, 'response')
        response.resume()
        await once(response, 'end')
        log(response.statusCode, response.rawHeaders, request.reusedSocket)
      }
      const raw = net.connect(port, '127.0.0.1')
      raw.end('broken')
      let text = ''
      for await (const data of raw) text += data
      log(text)
      server.close(() => log('closed'))
      server.closeIdleConnections()
      agent.destroy()
    })()
  `,
  'its own handler of SIGTERM': `
    const server = watched(http.createServer()).listen(port, () => process.kill(process.pid, 'SIGTERM'))
    process.once('SIGTERM', (...args) => { log(args); server.close(() => log('closed')) })
    process.on('exit', (code) => log('exit', code))
  `,
  'the exit code': `
    process.exitCode = 7
    log('begins')
    const server = net.createServer().listen(port, () => server.close())
  `,
  'a subclass that replaces listen()': `
    class Mine extends net.Server {
      listen(...args) { log('mine', args.length); return super.listen(...args) }
    }
    const server = watched(new Mine()).listen(port, () => server.close())
  `,
  'a prototype whose listen() is replaced': `
    const { listen } = net.Server.prototype
    net.Server.prototype.listen = function (...args) { log('traced', args.length); return Reflect.apply(listen, this, args) }
    const server = watched(http.createServer()).listen(port, () => server.close())
  `,
  'a server without any event listener': `
    const server = net.createServer((socket) => socket.end('hello')).listen(port)
    const { emit } = server
    server.emit = function (event, ...args) {
      log(event)
      if (event === 'listening') this.removeAllListeners('listening')
      return emit.call(this, event, ...args)
    }
    setImmediate(async () => { log(await connect({ port, host: '127.0.0.1' })); server.close() })
  `,
  'frozen prototypes': `
    Object.freeze(net.Server.prototype)
    Object.freeze(http.Server.prototype)
    const server = watched(http.createServer()).listen(port, () => server.close())
  `,
  'the properties of listen()': `
    const { listen, _listen2 } = Object.getOwnPropertyDescriptors(net.Server.prototype)
    for (const { value, ...attributes } of [listen, _listen2]) log(value.length, attributes)
    log(listen.value.name, Object.keys(net.Server.prototype))
  `,
  'diagnostics channels': `
    const { tracingChannel } = require('node:diagnostics_channel')
    const channels = {}
    for (const name of ['start', 'end', 'asyncStart', 'asyncEnd', 'error']) channels[name] = ({ server, options, error }) =>
      log(name, server instanceof net.Server, options ?? null, error ?? null)
    tracingChannel('net.server.listen').subscribe(channels)
    const server = watched(net.createServer()).listen(port, () => {
      watched(net.createServer()).listen(port).on('error', () => server.close())
    })
  `,
  'a port that is not passed': `
    const server = net.createServer().listen(0, () => { log(server.address().port !== port); server.close() })
    const other = net.createServer().listen({ port, exclusive: false }, () => other.close())
  `,
  'an fd': `
    const server = watched(net.createServer()).listen({ fd: 0 })
    server.on('error', () => {})
  `,
  'a handle': `
    const owner = net.createServer().listen(port, () => {
      const server = watched(net.createServer()).listen(owner, () => { server.close(); owner.close() })
    })
  `,
}

const ofPath = (args: string) => `
  const server = watched(net.createServer((socket) => socket.end('hello')))
  server.listen(${args})
  log(server.listening, server.address())
  order('listen')
  server.once('listening', async () => {
    log('received', await connect(PATH_OF_SOCKET))
    await closed(server)
  })
`

const pathForms: Record<string, string> = {
  'a path': 'PATH_OF_SOCKET',
  'a path and a callback': "PATH_OF_SOCKET, () => log('callback')",
  'options with a path': '{ path: PATH_OF_SOCKET, backlog: 3 }',
  'options with a mode': '{ path: PATH_OF_SOCKET, readableAll: true, writableAll: true }',
}

/** What a program prints, without the numbers that differ, and its exit code. */
async function transcript(program: RunningExample): Promise<{ end: unknown; lines: string[] }> {
  const end = await program.ended
  const lines = program.stderr
    .split('\n')
    // Stacks, and the place in the code of an uncaught error.
    .filter((line) => /^\[|^\w*(Error|Warning)\b/.test(line))
    .map((line) => line.replaceAll(/\((node:\d+)\)/g, ''))
  return { end, lines }
}

describe('With the preload, a program sees what it sees without it', () => {
  for (const [name, args] of Object.entries(forms)) {
    it(`listen() with ${name}`, () => compare(ofForm(args), /'(127|local)/.test(args) ? '127.0.0.1' : undefined))
  }
  for (const [name, program] of Object.entries(programs)) {
    it(name, () => compare(program, /listen\(port, '127/.test(program) ? '127.0.0.1' : undefined))
  }
  for (const [name, args] of Object.entries(pathForms)) {
    it(`listen() with ${name}`, async () => {
      const path = join(temporaryDirectory(), 'app.sock')
      const options = { env: { PATH_OF_SOCKET: path } }
      const expected = await transcript(startPlain(beginning + ofPath(args), options))
      const listener = await listen({ path })
      const actual = await transcript(startPreloaded(beginning + ofPath(args), { web: listener }, options))
      assertSame(actual, expected)
    })
  }
})

async function compare(program: string, host?: string): Promise<void> {
  const port = reservedPort()
  const options = { env: { PORT: String(port) } }
  const expected = await transcript(startPlain(beginning + program, options))
  const listener = await listen({ port, host })
  const actual = await transcript(startPreloaded(beginning + program, { web: listener }, options))
  assertSame(actual, expected)
}

function assertSame(actual: { lines: string[] }, expected: { lines: string[] }): void {
  assert.notEqual(expected.lines.length, 0)
  assert.deepEqual(actual, expected)
}
