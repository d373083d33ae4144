import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type net from 'node:net'
import { text } from 'node:stream/consumers'
import type { Connection, Listener, ProxyHeader } from '../../src/index.js'
import { temporary } from '../descriptors.js'
import { cleanUp } from '../helpers.js'

/**
 * Runs a proxy in the foreground until the current test ends. It inherits `front`, a socket that listens already, as its
 * fd 3: there is no port to choose and nothing to wait for.
 */
export function runProxy(front: Listener, program: string, args: string[], env: NodeJS.ProcessEnv = {}): void {
  const stdio = ['ignore', 'ignore', 'pipe', front.fd] as const
  const child = spawn(program, args, { stdio: [...stdio], env: { ...process.env, ...env } })
  const said = text(child.stderr as NodeJS.ReadableStream)
  const closed = once(child, 'close')
  let over = false
  cleanUp(async () => {
    over = true
    // Not SIGKILL: it would leave the workers of a master behind.
    child.kill('SIGTERM')
    await closed
  })
  closed.then(async () => {
    if (!over) console.log(`      ${program} ended: ${await said}`)
  })
}

/** What the header says, when `client` has said hello and got it back. */
export async function echoed(connection: Connection, client: net.Socket): Promise<ProxyHeader> {
  const header = await connection.proxyHeader()
  const socket = temporary(connection.toSocket())
  socket.pipe(socket)
  client.end('hello')
  assert.equal(await text(client), 'hello')
  return header ?? assert.fail('no header')
}
