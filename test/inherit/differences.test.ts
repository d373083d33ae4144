import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Listener, spawnActivated } from '../../src/index.js'
import { cleanUp, listen, nodeEnvironment, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { RunningExample } from '../running-example.js'
import { preload } from './preloaded.js'

interface Difference {
  /** The begin of the paragraph under "What is different" in docs/inherit.md. */
  paragraph: string
  program: string
  /** What the program prints, and its end, with plain Node and with the preload. */
  plain: unknown[]
  preloaded: unknown[]
  listens?(directory: string): Promise<Listener>
  /** Whether the sockets are also passed to plain Node. */
  passedToPlain?: boolean
}

const beginning = `
  const net = require('node:net')
  const { existsSync, readdirSync, statSync } = require('node:fs')
  const log = (...what) => console.log(JSON.stringify(what))
  const port = Number(process.env.PORT)
  const path = process.env.PATH_OF_SOCKET
  const later = (run) => setImmediate(() => setImmediate(run))
`

const atPath = (directory: string) => listen({ path: join(directory, 'app.sock') })

const differences: Difference[] = [
  {
    paragraph: '`address()` is the address of the socket',
    program: 'const server = net.createServer().listen(port, () => { log(server.address().address); server.close() })',
    plain: [['::'], 0],
    preloaded: [['127.0.0.1'], 0],
  },
  {
    paragraph: '`backlog`, `readableAll` and `writableAll` have no effect',
    listens: async (directory) => {
      const listener = await atPath(directory)
      chmodSync(join(directory, 'app.sock'), 0o600)
      return listener
    },
    program: `
      const server = net.createServer().listen({ path, readableAll: true, writableAll: true }, () => {
        log((statSync(path).mode & 0o666).toString(8))
        server.close()
      })`,
    plain: [['666'], 0],
    preloaded: [['600'], 0],
  },
  {
    paragraph: '`server.maxConnections` makes clients wait',
    program: `
      const afterTurns = (turns, run) => turns === 0 ? run() : setImmediate(afterTurns, turns - 1, run)
      const server = net.createServer((socket) => { log('open'); afterTurns(200, () => socket.end('answer')) })
      server.maxConnections = 1
      server.on('drop', () => log('drop'))
      server.listen(port, '127.0.0.1', () => {
        let ended = 0
        for (const _ of [1, 2]) {
          let received = ''
          net.connect(port, '127.0.0.1').on('error', () => {}).on('data', (data) => { received += data })
            .on('close', () => { log('received', received); if (++ended === 2) server.close() })
        }
      })`,
    plain: [['open'], ['drop'], ['received', ''], ['received', 'answer'], 0],
    preloaded: [['open'], ['received', 'answer'], ['open'], ['received', 'answer'], 0],
  },
  {
    paragraph: '`server.close()` does not free the port or remove the path',
    listens: atPath,
    program: 'const server = net.createServer().listen(path, () => server.close(() => log(existsSync(path))))',
    plain: [[false], 0],
    preloaded: [[true], 0],
  },
  {
    paragraph: 'With any `--import`, Node runs the program in a promise job',
    program:
      "process.nextTick(() => log('tick')); queueMicrotask(() => log('microtask')); net.createServer().listen(port).close()",
    plain: [['tick'], ['microtask'], 0],
    preloaded: [['microtask'], ['tick'], 0],
  },
  {
    paragraph: 'SIGTERM exits with 0',
    program: "net.createServer().listen(port, () => process.kill(process.pid, 'SIGTERM'))",
    plain: ['SIGTERM'],
    preloaded: [0],
  },
  {
    paragraph: '`process.env` has no `LISTEN_PID`',
    passedToPlain: true,
    program: `
      log(Object.keys(process.env).filter((name) => name.startsWith('LISTEN_')).sort())
      const server = net.createServer().listen({ fd: 3 }, () => { log(server.address().port === port); server.close() })`,
    plain: [[['LISTEN_FDNAMES', 'LISTEN_FDS', 'LISTEN_PID']], [true], 0],
    preloaded: [[[]], [true], 0],
  },
  {
    paragraph: 'The process has a handler of SIGTERM while the program has none',
    program: `
      net.createServer().listen(port, () => {
        log(process.listenerCount('SIGTERM'))
        process.once('SIGTERM', () => { log('mine'); later(() => process.kill(process.pid, 'SIGTERM')) })
        later(() => process.kill(process.pid, 'SIGTERM'))
      })`,
    plain: [[0], ['mine'], 'SIGTERM'],
    preloaded: [[1], ['mine'], 0],
  },
  {
    paragraph: 'Each inherited socket takes three more fds',
    program: `
      const server = net.createServer().listen(port, () => {
        log(readdirSync('/proc/self/fd').filter((fd) => {
          try { return fd > 2 && require('node:fs').readlinkSync('/proc/self/fd/' + fd).startsWith('socket:') } catch { return false }
        }).length)
        server.close()
      })`,
    plain: [[1], 0],
    preloaded: [[4], 0],
  },
  {
    paragraph: "The events of a connection's socket",
    program: `
      const { AsyncLocalStorage } = require('node:async_hooks')
      const storage = new AsyncLocalStorage()
      const server = net.createServer((socket) => {
        log('connection', storage.getStore())
        socket.end().resume().on('close', () => { log('close', storage.getStore() ?? 'none'); server.close() })
      })
      storage.run('context of listen()', () => server.listen(port, () => storage.exit(() => net.connect(port, '127.0.0.1').end().resume())))`,
    plain: [['connection', 'context of listen()'], ['close', 'none'], 0],
    preloaded: [['connection', 'context of listen()'], ['close', 'context of listen()'], 0],
  },
  {
    paragraph: 'Tools that look into the process',
    program: `
      const types = new Set()
      require('node:async_hooks').createHook({ init: (_, type) => types.add(type) }).enable()
      const server = net.createServer().listen(port, () => {
        log([...types].filter((type) => /accept/i.test(type)).sort(), server.eventNames())
        server.close()
      })`,
    plain: [[[], []], 0],
    preloaded: [[['AsyncAcceptListener', 'AsyncAcceptServing', 'async-accept'], ['session']], 0],
  },
]

const document = readFileSync(fileURLToPath(new URL('../../docs/inherit.md', import.meta.url)), 'utf8')
const [, section = ''] = /^## What is different\n(.*?)^## /ms.exec(document) ?? []
const paragraphs = section.split(/^- /m).slice(1)

// Whose effects are tested elsewhere.
const elsewhere = { '`node --watch`': 'beside-others.test.ts', 'With `--permission`': 'environment.test.ts' }

describe('What is different with the preload', () => {
  leaveNoFds()

  for (const { paragraph, program, plain, preloaded, listens, passedToPlain } of differences) {
    it(paragraph, async () => {
      const directory = temporaryDirectory()
      const file = join(directory, 'server.cjs')
      writeFileSync(file, beginning + program)
      const start = async (listener: Listener | undefined, ...more: string[]) => {
        const env = { ...nodeEnvironment(), PATH_OF_SOCKET: join(directory, 'app.sock'), PORT: String(port) }
        const options = { env, stdio: ['ignore', 'pipe', 'pipe'] } as const
        const command = [process.execPath, ...more, file] as const
        const child =
          listener === undefined
            ? spawn(command[0], command.slice(1), options as never)
            : spawnActivated(command[0], command.slice(1), { web: listener }, options as never)
        const running = new RunningExample(child)
        cleanUp(() => running.signal('SIGKILL'))
        const end = await running.ended
        assert.equal(running.stderr, '')
        const lines = running.stdout.split('\n').slice(0, -1)
        return [...lines.map((line) => JSON.parse(line)), end]
      }
      const open = listens ?? (() => listen({ host: '127.0.0.1' }))
      const listener = await open(directory)
      const port = listener.address() instanceof Object ? listener.port : 0
      const passed = await start(listener, ...preload)
      let without: unknown[]
      if (passedToPlain) without = await start(listener)
      else {
        await listener.close()
        without = await start(undefined)
      }
      assert.deepEqual({ plain: without, preloaded: passed }, { plain, preloaded })
    })
  }

  it('is what the documentation lists', () => {
    const tested = [...differences.map(({ paragraph }) => paragraph), ...Object.keys(elsewhere)]
    assert.deepEqual(
      paragraphs.filter((text) => !tested.some((each) => text.startsWith(each))),
      [],
    )
    assert.deepEqual(
      tested.filter((each) => !paragraphs.some((text) => text.startsWith(each))),
      [],
    )
  })
})
