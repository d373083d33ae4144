import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { invalidArgType, invalidArgValue } from './errors.js'
import { Listener } from './listener.js'
import * as validate from './validate.js'

/** What a child is to find, by name. */
export type Passed = Readonly<Record<string, Listener | readonly Listener[]>>

/**
 * Starts a program that finds our listeners as it would under systemd: `activation()`, or sd_listen_fds(3). They are shared
 * with it, and stay ours too. `options` are those of `child_process.spawn`, whose `stdio` may have the three standard
 * streams only: the listeners come behind them.
 *
 * Errors: Node's own for a wrong argument, `ERR_LISTENER_CLOSED`.
 */
export function spawnActivated(
  command: string,
  args: readonly string[],
  passed: Passed,
  options: SpawnOptions = {},
): ChildProcess {
  validate.object('passed', passed)
  const named = Object.entries(passed).flatMap(([name, listeners]) =>
    [listeners].flat().map((each) => [name, each] as const),
  )
  const fds = named.map(([name, listener]) => {
    if (!Listener.isListener(listener))
      throw invalidArgType(`passed.${name}`, 'a Listener or an array of them', listener)
    validate.fdName('passed', name)
    // After close(): nothing to share.
    listener.backlog()
    return listener.fd
  })
  // A copy of its own options, as Node makes it: a getter may answer otherwise the next time.
  const own = { ...options }
  const { stdio = 'pipe', env = process.env, shell } = own
  const standard = typeof stdio === 'string' ? [stdio, stdio, stdio] : [...stdio]
  if (standard.length > 3) throw invalidArgValue('options.stdio', 'must be the three standard streams', stdio)
  // It would take our own words apart.
  if (shell) throw invalidArgValue('options.shell', 'must not be set', shell)
  while (standard.length < 3) standard.push('pipe')
  // LISTEN_PID is the child's own, which nobody knows before there is one; a shell knows its own, and keeps it in exec.
  return spawn('/bin/sh', ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', command, ...args], {
    ...own,
    stdio: [...standard, ...fds],
    env: {
      ...env,
      LISTEN_FDS: String(fds.length),
      LISTEN_FDNAMES: named.map(([name]) => name).join(':'),
      // Ours, if we were activated ourselves: the child would think that the listeners are not for it.
      LISTEN_PIDFDID: undefined,
    },
  })
}
