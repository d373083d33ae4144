import assert from 'node:assert/strict'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Listener, type Passed, spawnActivated } from '../src/index.js'
import { ended, ours, plainEnvironment, printed, program, type Report } from './activated.js'
import { connect, flagsOf, listen, temporaryDirectory } from './helpers.js'
import { leaveNoFds } from './leaks.js'

/** The fixture as a child that has `passed`. */
function start(passed: Passed, options: Parameters<typeof spawnActivated>[3] = {}, ...words: string[]) {
  const [node, ...args] = program(...words)
  return ours(spawnActivated(node, args, passed, { env: plainEnvironment(), ...options }))
}

describe('spawnActivated', () => {
  leaveNoFds()

  it('starts a child that finds our listeners by name', async () => {
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

  it('shares them: the child serves, and so do we', async () => {
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

  it('passes nothing when there is nothing to pass', async () => {
    const { found, error } = await printed(start({}, {}, 'print'))
    assert.deepEqual({ found, error }, { found: [], error: undefined })
  })

  it('gives the child none of what we were activated with ourselves', async () => {
    const listener = await listen()
    const env = plainEnvironment({ LISTEN_PID: '1', LISTEN_PIDFDID: '1', LISTEN_FDS: '9', LISTEN_FDNAMES: 'a:b' })
    const { found } = await printed(start({ web: listener }, { env }, 'print'))
    assert.deepEqual(
      found.map(({ name }) => name),
      ['web'],
    )
  })

  it('keeps to the pid that it says, arguments included', async () => {
    const child = ours(spawnActivated('/bin/sh', ['-c', 'echo $$ $LISTEN_PID "$1"', 'sh', "it's $HOME"], {}))
    const { stdout } = await ended(child)
    assert.equal(stdout, `${child.pid} ${child.pid} it's $HOME\n`)
  })

  it('leaves the standard streams as they are asked for', async () => {
    const child = ours(spawnActivated('cat', [], {}, { stdio: ['pipe', 'pipe'] }))
    child.stdin?.end('through the child')
    assert.equal((await ended(child)).stdout, 'through the child')
  })

  it('ends with 127 when there is no such program', async () => {
    assert.equal((await ended(ours(spawnActivated('/no/such/program', [], {})))).code, 127)
  })

  it('refuses what it cannot pass, and starts nothing', async () => {
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
      [{ web: listener }, { stdio: ['pipe', 'pipe', 'pipe', 'ipc'] }, 'ERR_INVALID_ARG_VALUE'],
    ]
    for (const [passed, options, code] of wrong) {
      assert.throws(() => spawnActivated('true', [], passed, options), { code })
    }
    assert.notEqual(flagsOf(fd), undefined)
  })

  it('refuses a listener that is closed', async () => {
    const listener = await Listener.listen()
    await listener.close()
    assert.throws(() => spawnActivated('true', [], { web: listener }), { code: 'ERR_LISTENER_CLOSED' })
  })
})
