import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { readSync } from 'node:fs'
import { constants, endianness } from 'node:os'
import { Listener } from '../accept/listener.js'
import { binding } from '../core/binding.js'
import { check, codedError, invalidArgType, invalidArgValue, systemError } from '../core/errors.js'
import * as validate from '../core/validate.js'
import { activationVariables } from './activation.js'
import { type ExecHelper, helperInFile, helperInMemory } from './exec-helper.js'
import { notifyVariable, notifyVariables } from './notify.js'

/** The listeners that a child gets, by name. */
export type Passed = Readonly<Record<string, Listener | readonly Listener[]>>

export interface SpawnActivatedOptions extends SpawnOptions {
  /**
   * Let the child have the `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of this process, unless `env` has others: it
   * then speaks to our service manager. Without it those of this process are left out, and others in `env` are passed on.
   * Default: false.
   */
  inheritNotify?: boolean
}

type Environment = Record<string, string | undefined>

/**
 * Starts a program that finds our listeners as it would under systemd: by `activation()`, or by sd_listen_fds(3). They are
 * shared with it, and stay ours. They are its fds 3, 4, ... in the order of `passed`.
 *
 * `options` are those of `child_process.spawn`, and everything but the `LISTEN_*` variables reaches the program as spawn
 * passes it, without a shell. `stdio` may have the three standard streams and `'ipc'`, which comes behind the listeners.
 * `shell` is refused.
 *
 * Errors: Node's own for a wrong argument, `ERR_LISTENER_CLOSED`; a program that cannot be started is reported as by spawn.
 * `EMFILE` and `ENFILE`: it takes four fds of ours while the program starts.
 */
export function spawnActivated(
  command: string,
  args: readonly string[],
  passed: Passed,
  options: SpawnActivatedOptions = {},
): ChildProcess {
  const named = listenersOf(passed)
  validate.object('options', options)
  // A copy of its own options, as Node makes it: a getter may answer otherwise the next time.
  const own: SpawnActivatedOptions = { ...options }
  const { inheritNotify, ...spawnOptions } = own
  validate.optionalBoolean('options.inheritNotify', inheritNotify)
  // LISTEN_PID would be the pid of the shell, and some shells do not become the command.
  if (own.shell) throw invalidArgValue('options.shell', 'must not be set: start the shell itself', own.shell)
  const [standard, ipc] = streamsOf(own)
  const fds = named.map(([, { fd }]) => fd)
  const stdio = [...standard, ...fds, ...ipc]
  const env = environmentOf(own, named)
  if (args !== undefined && args !== null && !Array.isArray(args)) {
    throw invalidArgType('args', 'an array of strings', args)
  }
  const start: Start = { command, args: args ?? [], options: { ...spawnOptions, stdio, env } }
  const child = withOwnPid(start)
  for (const fd of fds) binding.sharePath(fd)
  return child
}

function listenersOf(passed: Passed): (readonly [string, Listener])[] {
  validate.object('passed', passed)
  const named = Object.entries(passed).flatMap(([name, listeners]) =>
    [listeners].flat().map((each) => [name, each] as const),
  )
  for (const [name, listener] of named) {
    if (!Listener.isListener(listener)) {
      throw invalidArgType(`passed.${name}`, 'a Listener or an array of them', listener)
    }
    validate.fdName('passed', name)
    if (listener.fd < 0) throw codedError('ERR_LISTENER_CLOSED')
  }
  return named
}

type Stdio = NonNullable<Extract<SpawnOptions['stdio'], readonly unknown[]>>

/** The three standard streams, and what comes behind the listeners. */
function streamsOf(options: SpawnOptions): [Stdio, Stdio] {
  const stdio = options.stdio || 'pipe'
  if (typeof stdio === 'string' && ['pipe', 'ignore', 'inherit', 'overlapped'].includes(stdio)) {
    return [[stdio, stdio, stdio], []]
  }
  if (!Array.isArray(stdio)) throw invalidArgValue('options.stdio', 'is invalid', stdio)
  const [standard, others] = [stdio.slice(0, 3), stdio.slice(3)]
  if (others.length > 1 || (others.length === 1 && others[0] !== 'ipc')) {
    throw invalidArgValue(
      'options.stdio',
      "must be the three standard streams, and no more than 'ipc' behind them",
      stdio,
    )
  }
  while (standard.length < 3) standard.push('pipe')
  return [standard, others]
}

// A caller may have copied the environment before they were removed from it.
const atFirst: Environment = Object.fromEntries(notifyVariables.map((name) => [name, process.env[name]]))

function environmentOf(options: SpawnActivatedOptions, named: readonly (readonly [string, Listener])[]): Environment {
  const env: Environment = options.env || process.env
  const left = new Set<string>(activationVariables)
  const result: Environment = Object.create(null)
  for (const name of notifyVariables) {
    const own = notifyVariable(name)
    if (options.inheritNotify) result[name] = own
    else if (env[name] === own || env[name] === atFirst[name]) left.add(name)
  }
  // As spawn does: with what comes from the prototype.
  for (const name in env) if (!left.has(name)) result[name] = env[name]
  result.LISTEN_PID = roomForPid
  // sd_listen_fds(3) fails where LISTEN_FDS is 0, and finds nothing where there is none.
  if (named.length === 0) return result
  result.LISTEN_FDS = String(named.length)
  result.LISTEN_FDNAMES = named.map(([name]) => name).join(':')
  return result
}

// exec_helper.c writes the pid in its place, which has ten digits at most. As it is it is no pid.
const roomForPid = '0000000000'

interface Start {
  command: string
  args: readonly string[]
  options: SpawnOptions & { stdio: Stdio; env: Environment }
}

const plainly = ({ command, args, options }: Start) => spawn(command, args, options)

/** Starts it by way of exec_helper.c, which puts its own pid into LISTEN_PID. */
function withOwnPid(start: Start): ChildProcess {
  const { command, options } = start
  // As arguments of the helper they would become strings.
  if (typeof command !== 'string' || typeof (options.argv0 ?? '') !== 'string') return plainly(start)
  // The child's fds must not take the number of the helper's before it is executed. One more is for the report.
  const inMemory = helperInMemory(options.stdio.length + 1)
  if (inMemory !== undefined) {
    const child = attempt(start, inMemory)
    if (child !== undefined) return child
  }
  const child = attempt(start, helperInFile())
  if (child !== undefined) return child
  throw systemError('execve', -constants.errno.EACCES, { path: 'async-accept-exec' })
}

/** Undefined when the helper itself cannot be executed. */
function attempt(start: Start, helper: ExecHelper): ChildProcess | undefined {
  try {
    const { child, error } = launch(start, helper.path)
    if (child !== undefined && error === 0) return child
    if (child !== undefined) discard(child)
    // It was the helper that could not be started, or what comes before: the directory, the user, an argument.
    if (error === undefined && spawnSync(helper.path, [], { argv0: 'trial', stdio: 'ignore' }).status !== 0) return
    return failing(start, error)
  } finally {
    helper.remove()
  }
}

/** `error`: 0, the errno with which the program did not start, or undefined when the helper did not. */
function launch({ command, args, options }: Start, path: string): { child?: ChildProcess; error?: number } {
  const [theirs, ours] = check(binding.socketPair(binding.constants.SOCK_STREAM as number), 'socketpair')
  try {
    const { argv0, stdio, env } = options
    const report = String(stdio.length)
    const argv = [argv0 ?? command, ...args]
    let child: ChildProcess
    try {
      child = spawn(path, [command, ...argv], {
        ...options,
        argv0: report,
        stdio: [...stdio, theirs],
        env: withoutEffect(env),
      })
    } catch {
      return {}
    } finally {
      binding.close(theirs)
    }
    if (child.pid === undefined) return { child }
    // As spawn has it, and without the fd of the report.
    Object.assign(child, { spawnfile: command, spawnargs: argv })
    child.stdio.pop()
    return { child, error: readError(ours) }
  } finally {
    binding.close(ours)
  }
}

// What the dynamic linker and the C library obey; exec_helper.c removes the '=', also that of the caller's own.
const effective = /^(LD_|GLIBC_TUNABLES$|=|$)/

function withoutEffect(env: Environment): Environment {
  const result: Environment = Object.create(null)
  for (const name in env) result[effective.test(name) ? `=${name}` : name] = env[name]
  return result
}

/** Waits until the program has started, which closes the other end, as uv_spawn does. 0, or an errno. */
function readError(fd: number): number {
  const bytes = Buffer.alloc(4)
  for (;;) {
    try {
      if (readSync(fd, bytes) < bytes.length) return 0
      return endianness() === 'LE' ? bytes.readInt32LE() : bytes.readInt32BE()
    } catch (error) {
      if ((error as { code?: string }).code !== 'EINTR') throw error
    }
  }
}

/** Has spawn itself report the failure: as an event or an exception, in its own words. */
function failing(start: Start, errno = constants.errno.EAGAIN): ChildProcess {
  const child = plainly(start)
  if (child.pid === undefined) return child
  // The reason has gone since. But this one does not know its listeners.
  child.kill('SIGKILL')
  discard(child)
  throw systemError('spawn', -errno, { path: start.command })
}

/** Forgets a child that the caller has not got. */
function discard(child: ChildProcess): void {
  child.on('error', () => {})
  for (const stream of child.stdio) stream?.destroy()
  if (child.connected) child.disconnect()
  child.unref()
}
