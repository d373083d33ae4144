import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { opendir } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type AcceptRef, type AcceptResult, type CodedError, Listener, type ListenOptions } from '../src/index.js'

/**
 * Resolves when `condition` holds. Checks the condition once per event loop turn. Mocha's timeout is the deadline:
 * throws when the test has ended.
 */
export async function until(condition: () => unknown): Promise<void> {
  const test = testsEnded
  while (!(await condition())) {
    if (test !== testsEnded) throw new Error('the test ended before its condition held')
    await nextTurn()
  }
}

let testsEnded = 0

/** The open fds of this process, except that of reading `/proc/self/fd`. */
export function openFds(): number[] {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => flagsOf(fd) !== undefined)
}

/** The open(2) flags of an fd, from proc(5); undefined when it is not open. */
export function flagsOf(fd: number): number | undefined {
  try {
    return Number.parseInt(/^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8)
  } catch {
    return undefined
  }
}

export const O_NONBLOCK = 0o4000
export const O_CLOEXEC = 0o2000000

/** Creates a directory, and removes it when the current test ends. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

const cleanups: (() => unknown)[] = []

/** Calls `run` when the current test ends, also after a failure. The last registered function runs first. */
export function cleanUp(run: () => unknown): void {
  cleanups.push(run)
}

/** The root-level afterEach hook. */
export async function runCleanups(): Promise<void> {
  testsEnded++
  for (let run = cleanups.pop(); run !== undefined; run = cleanups.pop()) await run()
}

/** The uncaught exceptions of the current test. Mocha's own handler does not see them. */
export function captureExceptions(): unknown[] {
  const captured: unknown[] = []
  process.setUncaughtExceptionCaptureCallback((error) => captured.push(error))
  cleanUp(() => process.setUncaughtExceptionCaptureCallback(null))
  return captured
}

/** Calls `run` in the read callback of an fs.Dir, where Node 24 and 26 lose exceptions, also those of a tick. */
export async function whileReadingDirectory(run: () => void): Promise<void> {
  const directory = await opendir('.')
  await new Promise<void>((resolve) => {
    directory.read(() => {
      run()
      resolve()
    })
  })
  await directory.close()
}

/** Opens a listener, and closes it when the current test ends. */
export async function listen(options: ListenOptions | number = {}): Promise<Listener> {
  const listener = await Listener.listen(options)
  cleanUp(() => listener.close())
  return listener
}

/** The `net.connect` options for a listener. */
export function target(listener: Listener): net.NetConnectOpts {
  const address = listener.address()
  if (address === null) throw new Error('the listener is closed')
  if (typeof address === 'string') return { path: address }
  const host = address.address === '::' ? '127.0.0.1' : address.address
  return { port: address.port, host }
}

/** Connects a client, whose connection is then in the backlog or accepted. Ignores its errors. */
export async function connect(listener: Listener): Promise<net.Socket> {
  const socket = net.connect({ ...target(listener), allowHalfOpen: true } as net.NetConnectOpts)
  cleanUp(() => socket.destroy())
  await once(socket, 'connect')
  socket.on('error', () => {})
  return socket
}

/** The results of `asyncAccept` on one listener, in order of arrival. Closes the connections. */
export function collect(listener: Listener): AcceptResult[] {
  const results: AcceptResult[] = []
  listener.on('accept', (result) => {
    results.push(result)
    result.connection?.close()
  })
  return results
}

export const refsOf = (results: readonly AcceptResult[]): AcceptRef[] => results.map(({ ref }) => ref)

export const codeOf = (error: unknown): string | undefined => (error as CodedError | undefined)?.code

/** Resolves when the server has closed or reset the client's connection. */
export async function gone(client: net.Socket): Promise<void> {
  client.resume()
  await until(() => client.readableEnded || client.destroyed)
}

export interface Finished {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** The environment of plain Node. */
export function nodeEnvironment(): NodeJS.ProcessEnv {
  const env = { ...process.env }
  // Keeps the flags of the permission model that scripts/matrix.mjs sets.
  if (process.permission === undefined) delete env.NODE_OPTIONS
  // Node 22 and later read the certificates in a separate thread, which holds an fd for some time after the start.
  delete env.NODE_EXTRA_CA_CERTS
  return env
}

/** Starts plain Node on a file of `test/fixtures` or, with a slash in `file`, on any file of the package or machine. */
export function startNode(file: string, args: readonly string[] = [], command: readonly string[] = []): ChildProcess {
  const path = file.includes('/') ? file : `test/fixtures/${file}`
  const [program, ...words] = [
    ...command,
    process.execPath,
    fileURLToPath(new URL(path, new URL('..', import.meta.url))),
    ...args,
  ]
  const child = spawn(program as string, words, { stdio: ['pipe', 'pipe', 'pipe'], env: nodeEnvironment() })
  cleanUp(() => child.kill('SIGKILL'))
  return child
}

/** Runs Node until it exits. `command` precedes Node on the command line, such as `['prlimit', '--nofile=64']`. */
export async function runNode(file: string, args?: readonly string[], command?: readonly string[]): Promise<Finished> {
  const child = startNode(file, args, command)
  child.stdin?.end()
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    once(child, 'close'),
  ])
  return { code, signal, stdout, stderr }
}
