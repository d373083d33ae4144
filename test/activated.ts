import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { binding } from '../src/core/binding.js'
import type { Activated } from '../src/index.js'
import { temporaryFd } from './descriptors.js'
import { cleanUp } from './helpers.js'

const { AF_INET, SOCK_STREAM, SOL_SOCKET, SO_REUSEADDR } = binding.constants as Record<string, number>

interface State {
  environment: Record<string, string>
  /** By fd: the flags of /proc/self/fdinfo, null where there is none. */
  flags: (string | null)[]
}

/** What fixtures/activated.mjs says. */
export interface Report {
  found: Activated[]
  error?: { code: string; message: string }
  before: State
  after: State
  worker?: Report
}

export const fixture = fileURLToPath(new URL('fixtures/activated.mjs', import.meta.url))

/** The fixture as `words` say, with plain Node. */
export const program = (...words: string[]): [string, ...string[]] => [process.execPath, fixture, ...words]

/** Without the options of the test runner. */
export function plainEnvironment(more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  return { ...process.env, NODE_OPTIONS: undefined, ...more }
}

/** Ended with the current test, if it has not ended by itself. */
export function ours<Child extends ChildProcess>(child: Child): Child {
  const closed = once(child, 'close')
  cleanUp(async () => {
    child.kill('SIGKILL')
    await closed
  })
  return child
}

/**
 * Starts the fixture as a service manager starts a service: `fds` are 3 and so on. LISTEN_PID is the child's own unless
 * `env` says something else.
 */
export function startActivated(fds: readonly number[], env: NodeJS.ProcessEnv, ...words: string[]): ChildProcess {
  const script = 'LISTEN_PID' in env ? 'exec "$@"' : 'LISTEN_PID=$$ exec "$@"'
  return ours(
    spawn('/bin/sh', ['-c', script, 'sh', ...program(...words)], {
      stdio: ['ignore', 'pipe', 'pipe', ...fds],
      env: plainEnvironment(env),
    }),
  )
}

/** What such a child prints. */
export async function reportOf(
  fds: readonly number[],
  env: NodeJS.ProcessEnv,
  how = 'print',
  ...words: string[]
): Promise<Report> {
  return printed(startActivated(fds, env, how, ...words))
}

export async function printed(child: ChildProcess): Promise<Report> {
  const { code, stdout, stderr } = await ended(child)
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  return JSON.parse(stdout)
}

/** What it has said, when it has ended. */
export async function ended(child: ChildProcess): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout ?? Readable.from([])),
    text(child.stderr ?? Readable.from([])),
    once(child, 'close'),
  ])
  return { code, stdout, stderr }
}

/** A TCP port that nobody else gets until the test ends, but who asks for it by number, with SO_REUSEADDR, can. */
export function reservedPort(): number {
  const fd = binding.socket(AF_INET as number, SOCK_STREAM as number)
  binding.release(fd)
  temporaryFd(fd)
  assert.equal(binding.setOption(fd, SOL_SOCKET as number, SO_REUSEADDR as number, 1), 0)
  assert.equal(binding.bindIp(fd, '127.0.0.1', 0), 0)
  return (binding.localAddress(fd) as { port: number }).port
}
