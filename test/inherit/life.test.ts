import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { notify } from '../../src/index.js'
import { path, serviceManager } from '../handover/notified.js'
import { cleanUp, connect, type listen, target, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import type { RunningExample } from '../running-example.js'
import { listenOnLoopback, startPreloaded } from './preloaded.js'

type Passed = Awaited<ReturnType<typeof listen>>

const beginning = `
  const net = require('node:net')
  const http = require('node:http')
  const log = (...what) => console.log(JSON.stringify(what))
  const [port, other] = process.argv.slice(1).map(Number);
`

const start = (code: string, passed: Record<string, Passed>, env: NodeJS.ProcessEnv = {}, ...flags: string[]) =>
  startPreloaded(beginning + code, passed, { env, flags, args: Object.values(passed).map((each) => String(each.port)) })

const slow = `
  require('node:diagnostics_channel').subscribe('async-accept.serving-state', ({ state }) => log(state))
  http.createServer((request, response) => {
    process.once('SIGUSR2', () => response.end('answer'))
    log('request')
  }).listen(port, () => log('listening'))
`

/** Sends a request whose answer the program holds until SIGUSR2. */
async function requestInFlight(
  web: Passed,
  program: RunningExample,
): Promise<{ answer: Promise<string>; headers: () => unknown }> {
  await program.says(/listening/)
  const request = http.get({ ...target(web), agent: false } as http.RequestOptions)
  let headers: unknown
  const answer = once(request, 'response').then(([response]) => {
    headers = response.headers.connection
    return text(response)
  })
  await program.says(/request/)
  return { answer, headers: () => headers }
}

describe('SIGTERM with the preload', () => {
  leaveNoFds()

  it('answers the requests in flight, then exits with 0, and clients wait for the next process', async () => {
    const web = await listenOnLoopback()
    const program = start(slow, { web })
    const { answer, headers } = await requestInFlight(web, program)
    program.signal('SIGTERM')
    await program.says(/draining/)
    const next = await connect(web)
    // A second signal changes nothing.
    program.signal('SIGTERM')
    program.signal('SIGUSR2')
    assert.deepEqual([await answer, headers(), await program.ended, program.stderr], ['answer', 'close', 0, ''])
    let received = ''
    next.setEncoding('utf8').on('data', (data) => {
      received += data
    })
    start("net.createServer((socket) => socket.end('next')).listen(port)", { web })
    await until(() => received === 'next')
  })

  it('cuts the connections off after ASYNC_ACCEPT_DRAIN_TIMEOUT', async () => {
    const web = await listenOnLoopback()
    const program = start(slow, { web }, { ASYNC_ACCEPT_DRAIN_TIMEOUT: '0.3' })
    const { answer } = await requestInFlight(web, program)
    program.signal('SIGTERM')
    await assert.rejects(answer, { code: 'ECONNRESET' })
    assert.equal(await program.ended, 0)
  })

  it('drains every server', async () => {
    const [web, admin] = [await listenOnLoopback(), await listenOnLoopback()]
    const program = start(
      `for (const each of [port, other]) net.createServer((socket) => { log('open'); socket.on('end', () => socket.end('bye')) }).listen(each)
       process.on('exit', (code) => log('exit', code))
       setInterval(() => {}, 1000)`,
      { web, admin },
    )
    const clients = [await connect(web), await connect(admin)]
    await program.says(/open.*open/s)
    program.signal('SIGTERM')
    for (const client of clients) client.end()
    assert.deepEqual(await Promise.all(clients.map((client) => text(client))), ['bye', 'bye'])
    assert.equal(await program.ended, 0)
    assert.match(program.stdout, /\["exit",0\]\n$/)
  })

  it('exits with the exit code that the program has set', async () => {
    const web = await listenOnLoopback()
    const program = start("process.exitCode = 9; net.createServer().listen(port, () => log('listening'))", { web })
    await program.says(/listening/)
    program.signal('SIGTERM')
    assert.equal(await program.ended, 9)
  })

  const own: Record<string, string> = {
    'before listen()': 'process.on("SIGTERM", handler); listen()',
    'in the tick of listen()': 'listen(); process.on("SIGTERM", handler)',
    "in 'listening'": 'listen().on("listening", () => process.on("SIGTERM", handler))',
    'long after':
      'listen(); setTimeout(() => { process.on("SIGTERM", handler); setImmediate(() => log("added")) }, 50)',
    once: 'listen(); process.once("SIGTERM", handler)',
  }
  for (const [when, code] of Object.entries(own)) {
    it(`is left to a handler of the program: added ${when}`, async () => {
      const web = await listenOnLoopback()
      const program = start(
        `const handler = () => { log('mine', process.listenerCount('SIGTERM')); server.close(() => { log('closed'); process.exit(5) }) }
         let server
         const listen = () => { server = http.createServer((_, response) => response.end()).listen(port, () => setImmediate(() => log('listening'))); return server }
         ${code}`,
        { web },
      )
      await program.says(when === 'long after' ? /added/ : /listening/)
      program.signal('SIGTERM')
      assert.equal(await program.ended, 5)
      assert.match(program.stdout, /\["mine",[01]\]\n\["closed"\]\n$/)
    })
  }

  it('drains again when the handler of the program was removed', async () => {
    const web = await listenOnLoopback()
    const program = start(
      `const server = net.createServer().listen(port, () => {
         const handler = () => log('never')
         process.on('SIGTERM', handler)
         setImmediate(() => { process.off('SIGTERM', handler); setImmediate(() => log('removed', process.listenerCount('SIGTERM'))) })
       })`,
      { web },
    )
    await program.says(/\["removed",1\]/)
    program.signal('SIGTERM')
    assert.equal(await program.ended, 0)
    assert.doesNotMatch(program.stdout, /never/)
  })

  it('ends the process at once when the program has removed all handlers', async () => {
    const web = await listenOnLoopback()
    const program = start(
      "net.createServer().listen(port, () => { process.removeAllListeners('SIGTERM'); setImmediate(() => log('removed')) })",
      { web },
    )
    await program.says(/removed/)
    program.signal('SIGTERM')
    assert.equal(await program.ended, 'SIGTERM')
  })

  it('ends the process at once before a server listens', async () => {
    const web = await listenOnLoopback()
    const program = start("log('starts'); setInterval(() => {}, 1000)", { web })
    await program.says(/starts/)
    program.signal('SIGTERM')
    assert.equal(await program.ended, 'SIGTERM')
  })
})

describe('The service manager', () => {
  leaveNoFds()

  it('gets READY=1 when every socket has a server, and STOPPING=1 at the end', async () => {
    const manager = await serviceManager(path())
    const [web, admin] = [await listenOnLoopback(), await listenOnLoopback()]
    const program = start(
      `net.createServer().listen(port, () => setImmediate(() => setImmediate(() => log('first'))))
       process.once('SIGUSR2', () => net.createServer().listen(other))`,
      { web, admin },
    )
    await program.says(/first/)
    assert.deepEqual(manager.received(), [])
    program.signal('SIGUSR2')
    assert.deepEqual(await manager.got(), [{ text: 'READY=1', fds: [] }])
    program.signal('SIGTERM')
    assert.equal(await program.ended, 0)
    assert.deepEqual(
      (await manager.got(2)).map((each) => each.text),
      ['READY=1', 'STOPPING=1'],
    )
  })

  it('gets STOPPING=1 also from a program that ends in its own way', async () => {
    const manager = await serviceManager(path())
    const web = await listenOnLoopback()
    const program = start("process.on('SIGTERM', () => process.exit(3)); net.createServer().listen(port)", { web })
    await manager.got()
    program.signal('SIGTERM')
    assert.equal(await program.ended, 3)
    assert.deepEqual(
      (await manager.got(2)).map((each) => each.text),
      ['READY=1', 'STOPPING=1'],
    )
  })

  it('gets WATCHDOG=1 from READY=1 on', async () => {
    const manager = await serviceManager(path())
    const web = await listenOnLoopback()
    start('net.createServer().listen(port)', { web }, { WATCHDOG_USEC: '50000' })
    const texts = (await manager.got(4)).map((each) => each.text)
    assert.deepEqual(texts.slice(0, 4), ['READY=1', 'WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1'])
  })

  it('gets only what the program sends, if it sends READY=1', async () => {
    const manager = await serviceManager(path())
    const web = await listenOnLoopback()
    const program = start(
      `import('async-accept').then(({ notify }) => {
         net.createServer().listen(port, () => { notify({ ready: true, status: 'mine' }); setImmediate(() => setImmediate(() => log('ready'))) })
       })`,
      { web },
    )
    await program.says(/ready/)
    program.signal('SIGTERM')
    assert.equal(await program.ended, 0)
    assert.deepEqual(
      (await manager.got()).map((each) => each.text),
      ['READY=1\nSTATUS=mine'],
    )
  })

  it('gets nothing with ASYNC_ACCEPT_NOTIFY=off', async () => {
    const manager = await serviceManager(path())
    const web = await listenOnLoopback()
    const program = start(
      "net.createServer().listen(port, () => setImmediate(() => setImmediate(() => log('ready'))))",
      { web },
      {
        ASYNC_ACCEPT_NOTIFY: 'off',
        WATCHDOG_USEC: '50000',
      },
    )
    await program.says(/ready/)
    program.signal('SIGTERM')
    assert.equal(await program.ended, 0)
    assert.deepEqual(manager.received(), [])
  })

  it('gets READY=1 and WATCHDOG=1 as soon as its queue has room', async () => {
    const manager = await serviceManager(path(), 'mute')
    assert.throws(
      () => {
        for (;;) notify({ status: 'fills the queue' })
      },
      { code: 'EAGAIN' },
    )
    const web = await listenOnLoopback()
    const program = start(
      "net.createServer().listen(port, () => setImmediate(() => setImmediate(() => log('tried'))))",
      { web },
      { WATCHDOG_USEC: '600000000' },
    )
    await program.says(/tried/)
    manager.wake()
    const sent = () => manager.received().filter(({ text }) => !text.startsWith('STATUS'))
    await until(() => sent().length === 2)
    assert.deepEqual(
      sent().map(({ text }) => text),
      ['READY=1', 'WATCHDOG=1'],
    )
    assert.equal(program.stderr, '')
  })

  it('may be gone: the program gets a warning and continues', async () => {
    const web = await listenOnLoopback()
    const program = start(
      "process.on('warning', ({ code }) => log(code)); net.createServer((socket) => socket.end('on')).listen(port)",
      { web },
      {
        NOTIFY_SOCKET: '/no/such/socket',
      },
    )
    await program.says(/ENOENT/)
    assert.equal(await text(net.connect(target(web))), 'on')
  })

  it('may be gone: the program continues even if its process.emitWarning throws', async () => {
    const web = await listenOnLoopback()
    const program = start(
      `process.emitWarning = (error) => { log(error.code); throw new Error('mine') }
       net.createServer((socket) => socket.end('on')).listen(port)`,
      { web },
      { NOTIFY_SOCKET: '/no/such/socket', WATCHDOG_USEC: '50000' },
    )
    await program.says(/ENOENT/)
    assert.equal(await text(net.connect(target(web))), 'on')
    assert.equal(program.stderr, '')
  })
})

describe('ASYNC_ACCEPT_IDLE_TIMEOUT', () => {
  leaveNoFds()
  const idle = { ASYNC_ACCEPT_IDLE_TIMEOUT: '0.2' }

  it('ends a process without a connection with 0', async () => {
    const manager = await serviceManager(path())
    const web = await listenOnLoopback()
    const program = start('http.createServer().listen(port); setInterval(() => {}, 1000)', { web }, idle)
    assert.deepEqual([await program.ended, program.stderr], [0, ''])
    assert.deepEqual(
      (await manager.got(2)).map((each) => each.text),
      ['READY=1', 'STOPPING=1'],
    )
  })

  it('does not end a process with a connection', async () => {
    const web = await listenOnLoopback()
    const program = start(
      "net.createServer((socket) => { log('open'); setTimeout(() => socket.end('still here'), 1000) }).listen(port)",
      { web },
      idle,
    )
    assert.equal(await text(net.connect(target(web))), 'still here')
    assert.equal(await program.ended, 0)
  })

  // Its connections are unknown.
  it('does not end a process that listens on a passed fd itself', async () => {
    const [web, admin] = [await listenOnLoopback(), await listenOnLoopback()]
    const program = start(
      `net.createServer().listen(port)
       net.createServer((socket) => setTimeout(() => socket.end('still here'), 1000)).listen({ fd: 4 })
       process.on('SIGTERM', () => process.exit(4))`,
      { web, admin },
      idle,
    )
    assert.equal(await text(net.connect(target(admin))), 'still here')
    program.signal('SIGTERM')
    assert.equal(await program.ended, 4)
  })

  it('does not end a process that has not listened yet', async () => {
    const web = await listenOnLoopback()
    const program = start("setTimeout(() => { log('still here'); process.exit(4) }, 1000)", { web }, idle)
    assert.equal(await program.ended, 4)
  })

  it("calls the program's own handler of SIGTERM", async () => {
    const web = await listenOnLoopback()
    const program = start(
      "process.on('SIGTERM', () => { log('mine'); process.exit(6) }); net.createServer().listen(port)",
      { web },
      idle,
    )
    assert.equal(await program.ended, 6)
    assert.match(program.stdout, /mine/)
  })

  it('ends a process whose handler of SIGTERM does not', async () => {
    const web = await listenOnLoopback()
    const program = start(
      "process.on('SIGTERM', () => log('ignored')); net.createServer().listen(port)",
      { web },
      {
        ...idle,
        ASYNC_ACCEPT_DRAIN_TIMEOUT: '0.1',
      },
    )
    assert.equal(await program.ended, 0)
    assert.match(program.stdout, /ignored/)
  })

  it('loses no client between two processes', async function () {
    this.timeout(60_000)
    const web = await listenOnLoopback()
    let processes = 0
    let done = false
    // As systemd does: starts the program when a client waits.
    const activate = async () => {
      while (!done) {
        await until(() => done || web.backlog().queued > 0)
        if (done) return
        processes++
        await start(
          "net.createServer((socket) => socket.end('answer')).listen(port)",
          { web },
          { ASYNC_ACCEPT_IDLE_TIMEOUT: '0.02' },
        ).ended
      }
    }
    const activated = activate()
    cleanUp(() => {
      done = true
    })
    const answers: string[] = []
    for (let client = 0; client < 60; client++) {
      answers.push(await text(net.connect(target(web))))
      // Around the timeout, in different phases of it.
      await new Promise((resolve) => setTimeout(resolve, 15 + (client % 15)))
    }
    done = true
    await activated
    assert.deepEqual(new Set(answers), new Set(['answer']))
    assert.ok(processes > 1, `${processes} processes`)
  })
})

describe('ASYNC_ACCEPT_MAX_CONNECTIONS', () => {
  it('makes further clients wait', async () => {
    const web = await listenOnLoopback()
    const program = start(
      "net.createServer((socket) => { log('open'); socket.on('end', () => socket.end()) }).listen(port)",
      { web },
      {
        ASYNC_ACCEPT_MAX_CONNECTIONS: '2',
      },
    )
    const clients = await Promise.all([1, 2, 3].map(() => connect(web)))
    await program.says(/open.*open/s)
    await until(() => web.backlog().queued === 1)
    clients[0]?.end()
    clients[1]?.end()
    await program.says(/open.*open.*open/s)
  })
})

describe('ASYNC_ACCEPT_PROXY_PROTOCOL', () => {
  it('gives the program the address of the client', async () => {
    const web = await listenOnLoopback()
    start(
      'net.createServer((socket) => socket.end(socket.remoteAddress)).listen(port)',
      { web },
      {
        ASYNC_ACCEPT_PROXY_PROTOCOL: 'require',
        ASYNC_ACCEPT_TRUST: '127.0.0.0/8',
      },
    )
    const client = net.connect(target(web))
    client.write('PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n')
    assert.equal(await text(client), '192.0.2.7')
  })
})
