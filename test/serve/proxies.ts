import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import type { Connection, Listener, ProxyHeader } from '../../src/index.js'
import { temporary } from '../descriptors.js'
import { cleanUp } from '../helpers.js'

/**
 * Runs a proxy in the foreground until the current test ends. The proxy inherits `front`, a listening socket, as fd 3.
 * The test therefore neither chooses a port nor waits until the proxy listens.
 */
export function runProxy(front: Listener, program: string, args: string[], env: NodeJS.ProcessEnv = {}): void {
  const stdio = ['ignore', 'ignore', 'pipe', front.fd] as const
  const child = spawn(program, args, { stdio: [...stdio], env: { ...process.env, ...env } })
  const said = text(child.stderr as NodeJS.ReadableStream)
  const closed = once(child, 'close')
  let over = false
  cleanUp(async () => {
    over = true
    // SIGKILL would leave the worker processes of a master running.
    child.kill('SIGTERM')
    await closed
  })
  closed.then(async () => {
    if (!over) console.log(`      ${program} exited: ${await said}`)
  })
}

/** Returns the PROXY header of `connection`, after `client` has sent a message and received its echo. */
export async function echoed(connection: Connection, client: net.Socket): Promise<ProxyHeader> {
  const header = await connection.proxyHeader()
  const socket = temporary(connection.toSocket())
  socket.pipe(socket)
  client.end('hello')
  assert.equal(await text(client), 'hello')
  return header ?? assert.fail('no header')
}
