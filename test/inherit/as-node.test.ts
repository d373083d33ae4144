import assert from 'node:assert/strict'
import net from 'node:net'
import { join } from 'node:path'
import type { ListenOptions } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { cleanUp, listen, temporaryDirectory } from '../helpers.js'
import { needs } from '../needs.js'
import type { RunningExample } from '../running-example.js'
import { beginning, programs, signals } from './as-node-programs.js'
import { startPlain, startPreloaded, startSocketActivated } from './preloaded.js'

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
    .map((line) => line.replaceAll(/Date: [^\\]*/g, 'Date: now'))
  return { end, lines }
}

describe('With the preload, a program sees what it sees without it', () => {
  const cases: Record<string, string> = {
    ...Object.fromEntries(Object.entries(forms).map(([name, args]) => [`listen() with ${name}`, ofForm(args)])),
    ...programs,
    ...Object.fromEntries(
      signals.map((signal) => [
        `${signal} without a handler`,
        `watched(net.createServer()).listen(port, () => process.kill(process.pid, '${signal}'))`,
      ]),
    ),
  }
  for (const [name, program] of Object.entries(cases)) {
    it(name, async function () {
      const host = /listen\([^\n]*'(127|localhost)/.test(program) ? '127.0.0.1' : undefined
      const port = reservedPort()
      const address = host === undefined ? String(port) : `${host}:${port}`
      await compare(this, program, { PORT: String(port) }, { port, host }, address)
    })
  }
  for (const [name, args] of Object.entries(pathForms)) {
    it(`listen() with ${name}`, async function () {
      const path = join(temporaryDirectory(), 'app.sock')
      await compare(this, ofPath(args), { PATH_OF_SOCKET: path }, { path }, path)
    })
  }
})

/** Compares a program with plain Node, with the preload, and with the preload under systemd-socket-activate(1). */
async function compare(
  context: Mocha.Context,
  program: string,
  env: NodeJS.ProcessEnv,
  listens: ListenOptions,
  address: string,
): Promise<void> {
  const code = beginning + program
  const expected = await transcript(startPlain(code, { env }))
  assert.notEqual(expected.lines.length, 0)
  const listener = await listen(listens)
  assert.deepEqual(await transcript(startPreloaded(code, { web: listener }, { env })), expected)
  await listener.close()

  needs(context, 'systemd-socket-activate', '--version')
  // systemd starts the program for a client. This one does not appear to the program.
  const other = join(temporaryDirectory(), 'other.sock')
  const activated = await startSocketActivated(code, [address, other], { env })
  const client = net.connect(other).on('error', () => {})
  cleanUp(() => client.destroy())
  assert.deepEqual(await transcript(activated), expected)
}
