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
  /** The flags in /proc/self/fdinfo by fd; null for a closed fd. */
  flags: (string | null)[]
}

/** The output of fixtures/activated.mjs. */
export interface Report {
  found: Activated[]
  error?: { code: string; message: string }
  before: State
  after: State
  worker?: Report
}

export const fixture = fileURLToPath(new URL('fixtures/activated.mjs', import.meta.url))

/** The command line of the fixture, with plain Node. */
export const program = (...words: string[]): [string, ...string[]] => [process.execPath, fixture, ...words]

/** The environment without the options of the test runner. */
export function plainEnvironment(more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  return { ...process.env, NODE_OPTIONS: undefined, ...more }
}

/** Kills the child at the end of the current test, if it still runs. */
export function ours<Child extends ChildProcess>(child: Child): Child {
  const closed = once(child, 'close')
  cleanUp(async () => {
    child.kill('SIGKILL')
    await closed
  })
  return child
}

/**
 * Starts the fixture as a service manager starts a service: with `fds` as fd 3 and up. LISTEN_PID is the child's pid
 * unless `env` sets it.
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

/** Starts the fixture, and returns its report. */
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

/** Resolves with the output of the child when it has exited. */
export async function ended(child: ChildProcess): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout ?? Readable.from([])),
    text(child.stderr ?? Readable.from([])),
    once(child, 'close'),
  ])
  return { code, stdout, stderr }
}

/** Reserves a TCP port until the test ends. A bind to this port number with SO_REUSEADDR still succeeds. */
export function reservedPort(): number {
  const fd = binding.socket(AF_INET as number, SOCK_STREAM as number)
  binding.release(fd)
  temporaryFd(fd)
  assert.equal(binding.setOption(fd, SOL_SOCKET as number, SO_REUSEADDR as number, 1), 0)
  assert.equal(binding.bindIp(fd, '127.0.0.1', 0), 0)
  return (binding.localAddress(fd) as { port: number }).port
}
