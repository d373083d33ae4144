import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import tls from 'node:tls'
import { runNode, temporaryDirectory } from './helpers.js'
import { startExample } from './running-example.js'

const directory = new URL('../examples/', import.meta.url)
const examples = readdirSync(directory).filter((name) => name.endsWith('.mjs'))
const mainExample = 'http2-machines.mjs'
/** The examples that have a test file of their own, in test/examples/. */
const large = readdirSync(new URL('examples/', import.meta.url))
  .filter((name) => name.endsWith('.test.ts') && name !== 'command-line.test.ts')
  .map((name) => name.replace('.test.ts', '.mjs'))

async function stdoutOf(name: string): Promise<string> {
  const { code, stdout, stderr } = await runNode(`examples/${name}`)
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  return stdout
}

const serves = /^process (\d+) serves port (\d+)\n/

const tests: Record<string, () => Promise<void>> = {
  'echo.mjs': async () => {
    const example = startExample('echo.mjs', ['0'])
    const [, port] = await example.says(/^echo on port (\d+)\n/)
    const client = net.connect(Number(port), '127.0.0.1')
    let received = ''
    client.setEncoding('utf8').on('data', (data) => {
      received += data
    })
    client.end('a line\n')
    await once(client, 'close')
    assert.match(received, /^hello (::ffff:)?127\.0\.0\.1\na line\n$/)
    example.signal('SIGINT')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  },

  'http.mjs': async () => {
    const example = startExample('http.mjs', ['0', '2'])
    const [, port] = await example.says(/^http on port (\d+)\n/)
    const answers = [1, 2].map(async () => (await fetch(`http://127.0.0.1:${port}`)).text())
    await example.says(/^limit reached; 0 clients wait$/m)
    example.signal('SIGTERM')
    for (const answer of await Promise.all(answers)) assert.match(answer, /^hello (::ffff:)?127\.0\.0\.1\n$/)
    assert.equal(await example.ended, 0)
    // A connection whose response was sent before the drain is idle.
    const [, idle, finished] = /^drained: (\d) idle, 0 unused, (\d) finished, 0 destroyed$/m.exec(example.stdout) ?? []
    assert.equal(Number(idle) + Number(finished), 2)
    assert.equal(example.stderr, '')
  },

  'workers.mjs': async () => {
    const example = startExample('workers.mjs', ['0', '2'])
    const [, port] = await example.says(/^port (\d+)\n/)
    const answers = Array.from({ length: 20 }, () => text(net.connect(Number(port), '127.0.0.1')))
    for (const answer of await Promise.all(answers)) {
      assert.match(answer, /^hello (::ffff:)?127\.0\.0\.1, this is thread [12]\n$/)
    }
    example.signal('SIGINT')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  },

  'workers-by-name.mjs': async () => {
    const example = startExample('workers-by-name.mjs', ['0'])
    const [, port] = await example.says(/^port (\d+)\n/)
    const dial = (servername: string) =>
      text(tls.connect({ host: '127.0.0.1', port: Number(port), servername, rejectUnauthorized: false }))
    const names = ['a.test', 'b.test', 'b.test', 'a.test']
    assert.deepEqual(
      await Promise.all(names.map(dial)),
      names.map((name) => `hello from the thread of ${name}\n`),
    )
    await assert.rejects(dial('c.test'), { code: 'ECONNRESET' })
    example.signal('SIGTERM')
    assert.equal(await example.ended, 'SIGTERM')
    assert.equal(example.stderr, '')
  },

  // restart.test.ts has more tests.
  'restart.mjs': async () => {
    const args = ['0', `${temporaryDirectory()}/socket`]
    const first = startExample('restart.mjs', args)
    const [, , port] = await first.says(serves)
    const second = startExample('restart.mjs', args)
    const [, pid, samePort] = await second.says(serves)
    assert.equal(samePort, port)
    assert.equal(await first.ended, 0)
    assert.match(first.stdout, /^drained: 0 finished, 0 destroyed$/m)
    assert.equal(await (await fetch(`http://127.0.0.1:${port}`)).text(), `hello from process ${pid}\n`)
    second.signal('SIGTERM')
    assert.equal(await second.ended, 'SIGTERM')
    assert.equal(first.stderr + second.stderr, '')
  },

  'activated.mjs': async () => {
    const hello = async (port: unknown) => (await fetch(`http://127.0.0.1:${port}`)).text()
    const alone = startExample('activated.mjs', ['0'])
    const [, port] = await alone.says(/^opened the socket: http on port (\d+)\n/)
    assert.equal(await hello(port), `hello from process ${alone.child.pid}, which opened the socket\n`)
    alone.signal('SIGTERM')
    assert.equal(await alone.ended, 0)
    assert.equal(alone.stderr, '')

    const parent = startExample('activated.mjs', ['parent', '0'])
    const [, shared] = await parent.says(/^parent on port (\d+)\n/m)
    await parent.says(new RegExp(`^was activated: http on port ${shared}\\n`, 'm'))
    const [, pid] = /^hello from process (\d+), which was activated\n$/.exec(await hello(shared)) ?? []
    assert.notEqual(Number(pid), parent.child.pid)
    parent.signal('SIGTERM')
    assert.equal(await parent.ended, 0)
    assert.equal(parent.stderr, '')
  },

  'refs.mjs': async () => {
    const stdout = await stdoutOf('refs.mjs')
    assert.match(stdout, /^ten requests: refs 1, 2, 3, 4, 5, 6, 7, 8, 9, 10; 10 outstanding\n/)
    assert.match(stdout, /^ref 3 cancelled: true\nref 7 timed out; 8 outstanding$/m)
    const clients = [...stdout.matchAll(/^client \d connects from port (\d+)$/gm)].map(([, port]) => port)
    const served = [...stdout.matchAll(/^ref (\d+): the client from port (\d+)$/gm)]
    assert.deepEqual(
      served.map(([, ref, port]) => [Number(ref), port]),
      [1, 2, 4, 5, 6, 8, 9, 10].map((ref, i) => [ref, clients[i]]),
    )
    assert.match(stdout, /^ref 3: no client, because it was cancelled$/m)
    assert.match(stdout, /^ref 7: ERR_ACCEPT_TIMEOUT$/m)
  },

  'reset-by-address.mjs': async () => {
    assert.equal(await stdoutOf('reset-by-address.mjs'), '127.0.0.1: welcome, 127.0.0.1\n127.0.0.2: ECONNRESET\n')
  },

  'peer-credentials.mjs': async () => {
    const stdout = await stdoutOf('peer-credentials.mjs')
    const user = `of user ${process.getuid?.()} and group ${process.getgid?.()}`
    const connected = [...stdout.matchAll(/^connected: process (\d+) (.*)$/gm)]
    assert.deepEqual(
      connected.map(([, , rest]) => rest),
      [user, user],
    )
    const [itself, child] = connected.map(([, pid]) => pid)
    assert.notEqual(itself, child)
    assert.match(stdout, new RegExp(`^started process ${child}$`, 'm'))
    for (const pid of [itself, child]) assert.match(stdout, new RegExp(`^welcome, process ${pid}$`, 'm'))
  },
}

describe('examples', () => {
  it('are all tested', () => {
    assert.deepEqual(examples, [...Object.keys(tests), ...large, mainExample].sort())
  })

  for (const [name, test] of Object.entries(tests)) it(`${name} works`, test)

  const withHandlers: [string, ...string[]][] = [
    ['echo.mjs', '0'],
    ['http.mjs', '0'],
    ['workers.mjs', '0', '1'],
    ['activated.mjs', '0'],
    ['activated.mjs', 'parent', '0'],
    ['http2-machines.mjs', '--port', '0'],
    ...large.map((name): [string, ...string[]] => [name, '0', ...(name === 'metrics.mjs' ? ['0'] : [])]),
  ]

  for (const [name, ...args] of withHandlers) {
    it(`${name} ${args.join(' ')} ends as after a drain if a signal comes as soon as the port is printed`, async () => {
      const preload = new URL('fixtures/signal-at-port.mjs', import.meta.url)
      const { code, stderr } = await runNode(`examples/${name}`, args, ['env', `NODE_OPTIONS=--import=${preload}`])
      assert.deepEqual([code, stderr], [0, ''])
    })
  }

  it('with handlers of signals are all sent a signal by the tests above', () => {
    const programs = examples.filter((name) =>
      /SIGINT|onTermination/.test(readFileSync(new URL(name, directory), 'utf8')),
    )
    assert.deepEqual(programs, [...new Set(withHandlers.map(([name]) => name))].sort())
  })

  for (const name of [...Object.keys(tests), ...large]) {
    const limit = large.includes(name) ? 60 : 40

    it(`${name} has fewer than ${limit} lines`, () => {
      const lines = readFileSync(new URL(name, directory), 'utf8').split('\n').length - 1
      assert.ok(lines < limit, `${lines} lines`)
    })
  }
})
