// Programs that must do the same with and without the preload.

/** What each program begins with. It prints what happens, in order. The address is the same in all runs. */
export const beginning = `
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

/** Programs that begin with `beginning`, by what is compared. */
export const programs: Record<string, string> = {
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
  'the timeouts of a server': `
    const server = http.createServer({ requestTimeout: 150, headersTimeout: 100, keepAliveTimeout: 50, connectionsCheckingInterval: 20 },
      (request, response) => { response.setHeader('Date', 'now'); request.resume().on('error', ({ code }) => log('aborted', code)).on('end', () => response.end()) })
    server.on('clientError', ({ code }, socket) => { log('clientError', code); socket.end('bye') })
    const exchange = async (sent) => {
      const client = net.connect(port, '127.0.0.1')
      if (sent !== '') client.write(sent)
      let received = ''
      client.on('error', ({ code }) => log('client', code)).on('data', (data) => { received += data })
      await new Promise((resolve) => client.on('close', resolve))
      log(sent, received)
    }
    watched(server).listen(port, async () => {
      for (const sent of ['GET / HTTP/1.1\\r\\n', 'POST / HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 5\\r\\n\\r\\n', 'GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n', '']) await exchange(sent)
      server.headersTimeout = server.requestTimeout = 0
      server.setTimeout(60, (socket) => { log('timeout', socket.server === server); socket.destroy() })
      await exchange('GET / HTTP/1.1\\r\\n')
      server.close()
    })
  `,
  'the limits of an http server': `
    const server = http.createServer({ maxHeaderSize: 500, requireHostHeader: true }, (request, response) => {
      response.setHeader('Date', 'now'); response.end(String(Object.keys(request.headers).length))
    })
    server.maxRequestsPerSocket = 2
    server.maxHeadersCount = 3
    server.on('dropRequest', () => log('dropRequest'))
    server.on('upgrade', (request, socket) => { log('upgrade', request.headers.upgrade); socket.end('HTTP/1.1 101 Switching\\r\\n\\r\\n') })
    server.on('connect', (request, socket) => { log('connect', request.url); socket.end('HTTP/1.1 200 OK\\r\\n\\r\\n') })
    server.on('checkContinue', (request, response) => { log('continue'); response.writeContinue(); response.end() })
    const exchange = (sent) => new Promise((resolve) => {
      let received = ''
      net.connect(port, '127.0.0.1').on('data', (data) => { received += data }).on('close', () => { log(sent, received); resolve() }).end(sent)
    })
    watched(server).listen(port, async () => {
      const get = 'GET / HTTP/1.1\\r\\nHost: h\\r\\nA: 1\\r\\nB: 2\\r\\nC: 3\\r\\n'
      for (const sent of [get + '\\r\\n', (get + '\\r\\n').repeat(3), get + 'D: ' + 'd'.repeat(600) + '\\r\\n\\r\\n', 'GET / HTTP/1.1\\r\\n\\r\\n', get + 'Connection: upgrade\\r\\nUpgrade: x\\r\\n\\r\\n',
        'CONNECT a:1 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n', get + 'Expect: 100-continue\\r\\n\\r\\n', get + 'Expect: other\\r\\n\\r\\n', 'BREW / HTTP/1.1\\r\\n\\r\\n']) await exchange(sent)
      server.close()
    })
  `,
  'the options of a server': `
    (async () => {
      for (const options of [{}, { allowHalfOpen: true }, { pauseOnConnect: true }, { highWaterMark: 99 }, { noDelay: true, keepAlive: true }]) {
        const server = net.createServer(options, (socket) => {
          log(options, socket.allowHalfOpen, socket.isPaused(), socket.readableHighWaterMark, socket.writableHighWaterMark, socket.readyState, socket.remoteFamily, socket.localPort === port, socket.timeout ?? null)
          socket.on('end', () => { log('end'); if (socket.allowHalfOpen) socket.end('half') })
          socket.resume()
        }).listen(port)
        await once(server, 'listening')
        const client = net.connect(port, '127.0.0.1').resume()
        client.end('data')
        await once(client, 'close')
        await closed(server)
      }
    })()
  `,
  'async contexts': `
    const { AsyncLocalStorage } = require('node:async_hooks')
    const storage = new AsyncLocalStorage()
    const context = (where) => log(where, storage.getStore() ?? null)
    const server = storage.run('created', () => http.createServer((request, response) => {
      context('request')
      request.resume().on('end', () => context('end of the request'))
      response.on('finish', () => context('finish'))
      setTimeout(() => { context('timer'); response.end() }, 20)
      request.socket.on('close', () => storage.run('closing', () => server.close(() => context('closed'))))
    }))
    for (const event of ['connection', 'close']) server.on(event, () => context(event))
    storage.run('listening', () => server.listen(port, () => {
      context('listening')
      storage.run('client', () => http.request({ port, method: 'POST', agent: false }).end('data').on('response', (response) => response.resume()))
    }))
  `,
  'an unhandled rejection': `
    process.on('exit', (code) => log('exit', code))
    http.createServer(async () => { throw new Error('mine') }).listen(port, () => http.get({ port }).on('error', () => {}))
  `,
  "an exception in 'connection'": `
    process.on('uncaughtException', (error, origin) => { log(error, origin); server.close(() => log('closed')) })
    const server = watched(net.createServer((socket) => { socket.destroy(); throw new Error('mine') })).listen(port, () => {
      net.connect(port, '127.0.0.1').on('error', () => {})
    })
  `,
  'process.exit() in a handler': `
    process.on('exit', (code) => log('exit', code))
    http.createServer(() => process.exit(9)).listen(port, () => http.get({ port }).on('error', () => {}))
  `,
  'the end of the event loop': `
    const server = watched(http.createServer((request, response) => response.end())).listen(port, () => {
      http.get({ port, agent: false }, (response) => { response.resume(); server.close() })
    })
    process.on('beforeExit', (code) => log('beforeExit', code, server.listening))
    process.on('exit', (code) => log('exit', code))
  `,
  "a server that emits 'connection' of another one": `
    const inner = http.createServer((request, response) => { response.setHeader('Date', 'now'); response.end('inner') })
    const server = watched(net.createServer((socket) => inner.emit('connection', socket))).listen(port, async () => {
      const request = http.get({ port, agent: false })
      const [response] = await once(request, 'response')
      for await (const data of response) log(String(data))
      server.close()
    })
  `,
  'asynchronous disposal': `
    const server = watched(net.createServer()).listen(port, async () => {
      await server[Symbol.asyncDispose]()
      log(server.listening)
    })
  `,
  'worker threads and a child process that use the port': `
    const { Worker } = require('node:worker_threads')
    const { fork } = require('node:child_process')
    const code = "require('node:net').createServer().listen(" + port + ").on('error', ({ code }) => process._rawDebug('[\\"inner\\",\\"' + code + '\\"]'))"
    const server = watched(net.createServer()).listen(port, async () => {
      await once(new Worker(code, { eval: true }), 'exit')
      const child = require('node:child_process').spawn(process.execPath, ['-e', code], { stdio: 'inherit' })
      log(await once(child, 'exit'))
      server.close()
    })
  `,
}

/** Signals that end a process by default. The programs have no handler of them. */
export const signals = ['SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2', 'SIGABRT'] as const
