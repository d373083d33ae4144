import assert from 'node:assert/strict'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Listener, type Passed, type SpawnActivatedOptions, spawnActivated } from '../../src/index.js'
import { ended, ours, plainEnvironment, printed, program, type Report } from '../activated.js'
import { cleanUp, connect, flagsOf, listen, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

/** Starts the fixture as a child with `passed`. */
function start(passed: Passed, options: Parameters<typeof spawnActivated>[3] = {}, ...words: string[]) {
  const [node, ...args] = program(...words)
  return ours(spawnActivated(node, args, passed, { env: plainEnvironment(), ...options }))
}

describe('spawnActivated', () => {
  leaveNoFds()

  it('starts a child that finds the listeners by name', async () => {
    const web = [await listen({ host: '127.0.0.1' }), await listen({ host: '127.0.0.1' })]
    const control = await listen({ path: join(temporaryDirectory(), 'control') })
    const { found, after } = await printed(start({ web, control }, {}, 'print'))
    assert.deepEqual(
      found.map(({ fd, name, address }) => ({ fd, name, address })),
      [
        { fd: 3, name: 'web', address: web[0]?.address() },
        { fd: 4, name: 'web', address: web[1]?.address() },
        { fd: 5, name: 'control', address: control.address() },
      ],
    )
    assert.deepEqual(after.environment, {})
  })

  it('shares the listeners: parent and child both accept', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const child = start({ web: listener }, {}, 'serve')
    const closed = once(child, 'close')
    const client = await connect(listener)
    const { found } = JSON.parse(await text(client)) as Report
    assert.equal(found[0]?.name, 'web')
    client.destroy()
    await closed
    const accepting = listener.accept()
    await connect(listener)
    ;(await accepting).close()
  })

  it('omits LISTEN_FDS when there are no listeners, because sd_listen_fds(3) rejects 0', async () => {
    for (const passed of [{}, { web: [] }] as Passed[]) {
      const { found, error, before } = await printed(start(passed, {}, 'print'))
      assert.deepEqual({ found, error }, { found: [], error: undefined })
      assert.deepEqual(Object.keys(before.environment), ['LISTEN_PID'])
    }
  })

  it('passes one listener with two names as two fds', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const { found } = await printed(start({ web: listener, other: [listener] }, {}, 'print'))
    assert.deepEqual(
      found.map(({ fd, name, address }) => ({ fd, name, address })),
      ['web', 'other'].map((name, i) => ({ fd: 3 + i, name, address: listener.address() })),
    )
  })

  it('passes hundreds of listeners', async () => {
    const web = await Promise.all(Array.from({ length: 300 }, () => listen({ host: '127.0.0.1' })))
    const { found } = await printed(start({ web }, {}, 'print'))
    assert.deepEqual(
      found.map(({ fd, address }) => [fd, address]),
      web.map((listener, i) => [3 + i, listener.address()]),
    )
  })

  it('opens an IPC channel after the listeners, with the requested serialization', async () => {
    const web = [await listen({ host: '127.0.0.1' }), await listen({ host: '127.0.0.1' })]
    for (const serialization of ['json', 'advanced'] as const) {
      const program = `process.on('message', (message) => {
        process.send([message, process.env.LISTEN_FDS, process.env.LISTEN_PID === String(process.pid)])
        process.disconnect()
      })`
      const options = {
        env: plainEnvironment(),
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'] as const,
        serialization,
      }
      const child = ours(spawnActivated(process.execPath, ['-e', program], { web }, options as never))
      child.send({ hello: 1 })
      const [answer] = await once(child, 'message')
      assert.deepEqual(answer, [{ hello: 1 }, '2', true])
    }
  })

  it("does not pass the parent's activation environment to the child", async () => {
    const listener = await listen()
    const env = plainEnvironment({ LISTEN_PID: '1', LISTEN_PIDFDID: '1', LISTEN_FDS: '9', LISTEN_FDNAMES: 'a:b' })
    const { found } = await printed(start({ web: listener }, { env }, 'print'))
    assert.deepEqual(
      found.map(({ name }) => name),
      ['web'],
    )
  })

  it('sets LISTEN_PID to the pid of the child, and passes arguments unchanged', async () => {
    const child = ours(spawnActivated('/bin/sh', ['-c', 'echo $$ $LISTEN_PID "$1"', 'sh', "it's $HOME"], {}))
    const { stdout } = await ended(child)
    assert.equal(stdout, `${child.pid} ${child.pid} it's $HOME\n`)
  })

  it('passes the standard streams as requested', async () => {
    const child = ours(spawnActivated('cat', [], {}, { stdio: ['pipe', 'pipe'] }))
    child.stdin?.end('through the child')
    assert.equal((await ended(child)).stdout, 'through the child')
  })

  it('passes the service manager of the parent only with inheritNotify or in env', async () => {
    const print = ['-c', 'echo "$NOTIFY_SOCKET $WATCHDOG_USEC $WATCHDOG_PID"']
    const inherited = { NOTIFY_SOCKET: '/run/ours', WATCHDOG_USEC: '7', WATCHDOG_PID: String(process.pid) }
    const before = { ...process.env }
    Object.assign(process.env, inherited)
    cleanUp(() => {
      for (const name of Object.keys(inherited)) delete process.env[name]
      Object.assign(process.env, before)
    })
    const web = await listen({ host: '127.0.0.1' })
    const said = async (options: SpawnActivatedOptions) =>
      (await ended(ours(spawnActivated('/bin/sh', print, { web }, options)))).stdout.trim()
    assert.equal(await said({}), '')
    assert.equal(await said({ env: { ...process.env } }), '')
    const ourOwn = `/run/ours 7 ${process.pid}`
    assert.equal(await said({ inheritNotify: true }), ourOwn)
    assert.equal(await said({ inheritNotify: true, env: {} }), ourOwn)
    assert.equal(await said({ inheritNotify: true, env: { NOTIFY_SOCKET: '/x' } }), ourOwn.replace('/run/ours', '/x'))
    assert.equal(await said({ env: { ...process.env, NOTIFY_SOCKET: '/run/theirs' } }), '/run/theirs')
    assert.equal(await said({ env: { NOTIFY_SOCKET: '@theirs', WATCHDOG_USEC: '8' } }), '@theirs 8')
  })

  it('rejects invalid arguments, and starts no process', async () => {
    const listener = await listen()
    const fd = listener.fd
    const wrong: [Passed, object, string][] = [
      [null as never, {}, 'ERR_INVALID_ARG_TYPE'],
      [{ web: fd as never }, {}, 'ERR_INVALID_ARG_TYPE'],
      [{ web: [listener, null as never] }, {}, 'ERR_INVALID_ARG_TYPE'],
      [{ 'a:b': listener }, {}, 'ERR_INVALID_ARG_VALUE'],
      [{ '': listener }, {}, 'ERR_INVALID_ARG_VALUE'],
      [{ '\u00e9': listener }, {}, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { shell: true }, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { shell: '/bin/bash' }, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { stdio: ['pipe', 'pipe', 'pipe', 'pipe'] }, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { stdio: ['pipe', 'pipe', 'pipe', 'ipc', 'pipe'] }, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { stdio: ['pipe', 'pipe', 'pipe', fd] }, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { stdio: 'ipc' }, 'ERR_INVALID_ARG_VALUE'],
      [{ web: listener }, { inheritNotify: 'yes' }, 'ERR_INVALID_ARG_TYPE'],
      [{ web: listener }, null as never, 'ERR_INVALID_ARG_TYPE'],
    ]
    for (const [passed, options, code] of wrong) {
      assert.throws(() => spawnActivated('true', [], passed, options), { code })
    }
    assert.throws(() => spawnActivated('true', 'true' as never, { web: listener }), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.notEqual(flagsOf(fd), undefined)
  })

  it('rejects a closed listener', async () => {
    const listener = await Listener.listen()
    await listener.close()
    assert.throws(() => spawnActivated('true', [], { web: listener }), { code: 'ERR_LISTENER_CLOSED' })
  })
})
