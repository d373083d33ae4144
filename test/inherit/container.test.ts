import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { constants } from 'node:os'
import { text } from 'node:stream/consumers'
import { reservedPort } from '../activated.js'
import { cleanUp, connect, gone, nodeEnvironment, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needs } from '../needs.js'
import { RunningExample } from '../running-example.js'
import { listenOnLoopback, preload } from './preloaded.js'

const program = `
  const server = require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    console.log('open')
    socket.resume().on('end', () => socket.end('answer'))
  })
  server.listen(process.env.PORT, () => console.log('listening as', process.pid))
`

const passed = { LISTEN_PID: '1', LISTEN_FDS: '1' }

/** The only child of a process, when it exists. */
async function childOf(pid: number): Promise<number> {
  let child = ''
  await until(() => {
    child = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
    return /^\d+$/.test(child)
  })
  return Number(child)
}

/** Starts the program as PID 1 of a namespace without a shell, as the runtime of a container does. */
async function startAsInit(
  context: Mocha.Context,
  port: number,
  flags: readonly string[],
  fds: readonly number[],
  env: NodeJS.ProcessEnv,
) {
  const namespace = ['--pid', '--fork', '--mount-proc', '--kill-child']
  needs(context, 'unshare', ...namespace, 'true')
  const child = spawn('unshare', [...namespace, process.execPath, ...flags, '-e', program], {
    env: { ...nodeEnvironment(), PORT: String(port), ...env },
    stdio: ['ignore', 'pipe', 'pipe', ...fds],
  })
  cleanUp(() => child.kill('SIGKILL'))
  const running = new RunningExample(child)
  await running.says(/^listening as 1$/m)
  return { running, init: await childOf(child.pid as number) }
}

/** Whether a process has a handler of the signal. */
function catches(pid: number, signal: number): boolean {
  const [, mask = ''] = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return (BigInt(`0x${mask}`) & (1n << BigInt(signal - 1))) !== 0n
}

describe('As PID 1 of a container, an unchanged program', () => {
  leaveNoFds()

  it('drains on SIGTERM with the preload, and exits with 0', async function () {
    const web = await listenOnLoopback()
    const { running, init } = await startAsInit(this, web.port, preload, [web.fd], passed)
    const client = await connect(web)
    await running.says(/open/)
    process.kill(init, 'SIGTERM')
    client.end()
    assert.equal(await text(client), 'answer')
    assert.deepEqual([await running.ended, running.stderr], [0, ''])
    // Clients wait for the next process.
    await connect(web)
    assert.equal(web.backlog().queued, 1)
  })

  it('cuts off the remaining connections at the drain timeout', async function () {
    const web = await listenOnLoopback()
    const env = { ...passed, ASYNC_ACCEPT_DRAIN_TIMEOUT: '0.2' }
    const { running, init } = await startAsInit(this, web.port, preload, [web.fd], env)
    const client = await connect(web)
    await running.says(/open/)
    process.kill(init, 'SIGTERM')
    assert.equal(await running.ended, 0)
    await gone(client)
  })

  it('is not ended by SIGTERM without the preload', async function () {
    const port = reservedPort()
    const { running, init } = await startAsInit(this, port, [], [], {})
    process.kill(init, 'SIGTERM')
    // Node restores the default action and raises the signal again. The kernel ignores a signal of PID 1 to itself that
    // has the default action.
    await until(() => !catches(init, constants.signals.SIGTERM))
    assert.equal(await text(net.connect(port, '127.0.0.1').end()), 'answer')
    assert.equal(running.child.exitCode, null)
  })
})
