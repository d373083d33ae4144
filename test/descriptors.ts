import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import type net from 'node:net'
import { constants } from 'node:os'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { binding } from '../src/core/binding.js'
import type { Connection, Listener, ListenOptions } from '../src/index.js'
import { cleanUp, connect, flagsOf, listen, O_NONBLOCK, until } from './helpers.js'

/** Both ends of one connection, and its listener. All are closed when the current test ends. */
export interface Pair {
  listener: Listener
  connection: Connection
  client: net.Socket
}

export async function pair(options: ListenOptions = { host: '127.0.0.1' }): Promise<Pair> {
  const listener = await listen(options)
  const accepting = listener.accept()
  const client = await connect(listener)
  const connection = await accepting
  cleanUp(() => connection.close())
  return { listener, connection, client }
}

/** Destroys the socket when the current test ends, and ignores its errors. */
export function temporary<Socket extends net.Socket>(socket: Socket): Socket {
  cleanUp(() => socket.destroy())
  return socket.on('error', () => {})
}

/** Closes the fd when the current test ends, unless it is already closed. */
export function temporaryFd(fd: number): number {
  cleanUp(() => {
    if (flagsOf(fd) !== undefined) closeSync(fd)
  })
  return fd
}

/** Resolves when the kernel no longer knows the peer, whose reset arrives slightly after it was sent. */
export async function peerForgotten(fd: number): Promise<void> {
  await until(() => typeof binding.peerAddress(fd) === 'number')
}

/** Returns when `count` bytes can be read, in the same event loop turn. */
export function awaitBytes(fd: number, count = 1): void {
  for (;;) {
    const bytes = binding.receive(fd, count, true)
    if (typeof bytes === 'number' ? bytes !== -constants.errno.EAGAIN : bytes.length === count) return
  }
}

/** Blocks the event loop. */
export function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

/** Makes the open file description blocking: libuv makes the stdin of a child blocking. */
export function makeBlocking(fd: number): void {
  spawnSync('true', { stdio: [fd, 'ignore', 'ignore'] })
  assert.equal((flagsOf(fd) as number) & O_NONBLOCK, 0)
}

const readOptions = `
import json, socket
s = socket.socket(fileno=3)
tcp = socket.IPPROTO_TCP
print(json.dumps({
  'noDelay': s.getsockopt(tcp, socket.TCP_NODELAY) != 0,
  'keepAlive': s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0,
  'keepIdle': s.getsockopt(tcp, socket.TCP_KEEPIDLE),
}))
`

/** Reads the options of a TCP socket in Python, which the build needs anyway. */
export function socketOptions(fd: number): { noDelay: boolean; keepAlive: boolean; keepIdle: number } {
  const { stdout, status } = spawnSync('python3', ['-c', readOptions], { stdio: ['ignore', 'pipe', 'inherit', fd] })
  assert.equal(status, 0)
  return JSON.parse(String(stdout))
}

// Node makes the fds that it inherits close-on-exec when it starts, but stops at the first gap after fd 15.
const inherited = 40

/** Starts a child that inherits `fd`, as from a service manager or a parent process. */
export function startWithFd(fd: number, file: string, args: readonly string[]) {
  const path = fileURLToPath(new URL(`fixtures/${file}`, import.meta.url))
  const stdio = [...Array(inherited).fill('ignore'), fd]
  stdio.splice(1, 2, 'pipe', 'inherit')
  const child = spawn(process.execPath, [path, String(inherited), ...args], { stdio })
  cleanUp(() => child.kill('SIGKILL'))
  const finished = Promise.all([text(child.stdout as NodeJS.ReadableStream), once(child, 'close')])
  return finished.then(([stdout, [code, signal]]) => ({ stdout, code, signal }))
}

/** Opens a file: an fd that is not a socket. */
export const openFile = (path: string, flags: string | number = 'r'): number => temporaryFd(openSync(path, flags))
