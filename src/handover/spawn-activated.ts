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

/** The listeners that are passed to a child process, by name. */
export type Passed = Readonly<Record<string, Listener | readonly Listener[]>>

export interface SpawnActivatedOptions extends SpawnOptions {
  /**
   * If true, the child gets `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of this process, and notifies the same
   * service manager. Values in `env` take precedence. If false, the child does not get the values of this process, even
   * if `env` contains them. It still gets different values from `env`. Default: false.
   */
  inheritNotify?: boolean
}

type Environment = Record<string, string | undefined>

/**
 * Starts a program and passes listeners to it as systemd does. The program reads them with `activation()` or
 * sd_listen_fds(3). They are fds 3, 4, ... of the child, in the order of `passed`. Borrows the listeners: both
 * processes accept from the same accept queues, and the caller still owns its listeners.
 *
 * `options` are those of `child_process.spawn`, with the same effect except on the `LISTEN_*` variables. `stdio` may
 * contain the three standard streams and `'ipc'`, whose fd follows the listeners. `shell` is not allowed.
 *
 * Blocks until the program has started, and needs four fds in this process for that time.
 *
 * Errors: Node's codes for an invalid argument, `ERR_LISTENER_CLOSED`, `EMFILE`, `ENFILE`, `ENOMEM`. A program that
 * cannot be started is reported as by `spawn`.
 *
 * @example
 * ```js
 * const child = spawnActivated('node', ['server.mjs'], { http: listener }, { stdio: 'inherit' })
 * ```
 */
export function spawnActivated(
  command: string,
  args: readonly string[],
  passed: Passed,
  options: SpawnActivatedOptions = {},
): ChildProcess {
  return start(command, args, readListeners(passed), options)
}

/** @internal Listeners and their names, in the order of their fds. An object would move names that are numbers to the front. */
export type Named = readonly (readonly [name: string, listener: Listener])[]

/**
 * @internal As `spawnActivated`. When this process ends in any way, the kernel sends SIGTERM to the child (prctl(2),
 * `PR_SET_PDEATHSIG`).
 */
export function spawnDependent(
  command: string,
  args: readonly string[],
  named: Named,
  options: SpawnActivatedOptions,
): ChildProcess {
  return start(command, args, named, options, `,${constants.signals.SIGTERM},${process.pid}`)
}

function start(
  command: string,
  args: readonly string[],
  named: Named,
  options: SpawnActivatedOptions,
  helperNumbers = '',
): ChildProcess {
  validate.object('options', options)
  // Copy the own properties, as Node's spawn() does, because a getter may return another value the next time.
  const own: SpawnActivatedOptions = { ...options }
  const { inheritNotify, ...spawnOptions } = own
  validate.optionalBoolean('options.inheritNotify', inheritNotify)
  // LISTEN_PID would be the pid of the shell, and some shells do not exec the command in their own process.
  if (own.shell)
    throw invalidArgValue('options.shell', 'must not be set; start the shell as the command instead', own.shell)
  const [standard, ipc] = streamsOf(own)
  const fds = named.map(([, { fd }]) => fd)
  const stdio = [...standard, ...fds, ...ipc]
  const env = environmentOf(own, named)
  if (args !== undefined && args !== null && !Array.isArray(args)) {
    throw invalidArgType('args', 'an array of strings', args)
  }
  const child = spawnThroughHelper({
    command,
    args: args ?? [],
    options: { ...spawnOptions, stdio, env },
    helperNumbers,
  })
  for (const fd of fds) binding.sharePath(fd)
  return child
}

function readListeners(passed: Passed): Named {
  validate.object('passed', passed)
  const named = Object.entries(passed).flatMap(([name, listeners]) =>
    [listeners].flat().map((each) => [name, each] as const),
  )
  for (const [name, listener] of named) {
    if (!Listener.isListener(listener)) {
      throw invalidArgType(`passed.${name}`, 'a Listener or an array of Listeners', listener)
    }
    validate.fdName('passed', name)
    if (listener.fd < 0) throw codedError('ERR_LISTENER_CLOSED')
  }
  return named
}

type Stdio = NonNullable<Extract<SpawnOptions['stdio'], readonly unknown[]>>

/** Splits `stdio` into the three standard streams and the entries that follow the listeners. */
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
      "must contain only the three standard streams, optionally followed by 'ipc'",
      stdio,
    )
  }
  while (standard.length < 3) standard.push('pipe')
  return [standard, others]
}

// The values at startup. The `env` of a caller may be a copy of `process.env` from before `unsetEnvironment` removed
// the variables.
const initialValues: Environment = Object.fromEntries(notifyVariables.map((name) => [name, process.env[name]]))

function environmentOf(options: SpawnActivatedOptions, named: readonly (readonly [string, Listener])[]): Environment {
  const env: Environment = options.env || process.env
  const omitted = new Set<string>(activationVariables)
  const result: Environment = Object.create(null)
  for (const name of notifyVariables) {
    const own = notifyVariable(name)
    if (options.inheritNotify) result[name] = own
    else if (env[name] === own || env[name] === initialValues[name]) omitted.add(name)
  }
  // Includes inherited properties, as spawn does.
  for (const name in env) if (!omitted.has(name)) result[name] = env[name]
  result.LISTEN_PID = pidPlaceholder
  // sd_listen_fds(3) fails if LISTEN_FDS is 0, and returns 0 if it is not set.
  if (named.length === 0) return result
  result.LISTEN_FDS = String(named.length)
  result.LISTEN_FDNAMES = named.map(([name]) => name).join(':')
  return result
}

// exec_helper.c overwrites it with the pid, which has at most ten digits. The placeholder is not a valid pid.
const pidPlaceholder = '0000000000'

interface Start {
  command: string
  args: readonly string[]
  options: SpawnOptions & { stdio: Stdio; env: Environment }
  /** What follows the fd of the report in the first argument of exec_helper.c. */
  helperNumbers: string
}

const spawnDirectly = ({ command, args, options }: Start) => spawn(command, args, options)

/** Starts the program through exec_helper.c, which sets LISTEN_PID to its own pid and then executes the program. */
function spawnThroughHelper(start: Start): ChildProcess {
  const { command, options } = start
  // spawn() rejects values that are not strings. As arguments of the helper, they would be converted to strings.
  if (typeof command !== 'string' || typeof (options.argv0 ?? '') !== 'string') return spawnDirectly(start)
  // The fd of the helper must be above the fds of the child. Otherwise, one of these would replace it before execve(2).
  // The child has one fd more than `stdio`: the helper reports an errno on it.
  const inMemory = helperInMemory(options.stdio.length + 1)
  if (inMemory !== undefined) {
    const child = attempt(start, inMemory)
    if (child !== undefined) return child
  }
  const child = attempt(start, helperInFile())
  if (child !== undefined) return child
  throw systemError('execve', -constants.errno.EACCES, { path: 'async-accept-exec' })
}

// With these codes, no process can be started at the moment.
const shortages = new Set(['EAGAIN', 'ENOMEM', 'EMFILE', 'ENFILE'])
const codeOf = (error: Error | undefined) => (error as NodeJS.ErrnoException | undefined)?.code ?? ''

/** Starts the program through `helper`. Returns undefined if the helper itself cannot be executed. */
function attempt(start: Start, helper: ExecHelper): ChildProcess | undefined {
  try {
    const { child, error } = launch(start, helper.path)
    if (child !== undefined && error === 0) return child
    if (child !== undefined) discard(child)
    // Run the helper alone to find out whether it was the cause, and not the directory, the user or an argument.
    const trial = error === undefined && spawnSync(helper.path, [], { argv0: 'trial', stdio: 'ignore' })
    if (trial && trial.status !== 0 && !shortages.has(codeOf(trial.error))) return
    return reportBySpawn(start, error)
  } finally {
    helper.remove()
  }
}

/**
 * Starts the program through the helper at `path`. The returned `error` is 0 if the program has started, or else its
 * errno. It is undefined if the helper did not start.
 */
function launch(
  { command, args, options, helperNumbers }: Start,
  path: string,
): { child?: ChildProcess; error?: number } {
  const [childEnd, parentEnd] = check(binding.socketPair(binding.constants.SOCK_STREAM as number), 'socketpair')
  try {
    const { argv0, stdio, env } = options
    const report = `${stdio.length}${helperNumbers}`
    const argv = [argv0 ?? command, ...args]
    let child: ChildProcess
    try {
      child = spawn(path, [command, ...argv], {
        ...options,
        argv0: report,
        stdio: [...stdio, childEnd],
        env: disableLoaderVariables(env),
      })
    } catch {
      return {}
    } finally {
      binding.close(childEnd)
    }
    if (child.pid === undefined) return { child }
    // Set the properties that spawn would set for the program, and hide the fd of the report.
    Object.assign(child, { spawnfile: command, spawnargs: argv })
    child.stdio.pop()
    return { child, error: readError(parentEnd) }
  } finally {
    binding.close(parentEnd)
  }
}

// Variables that change how the dynamic linker and the C library run the helper. A leading '=' disables them.
// exec_helper.c removes one leading '=' from every name, so names that begin with '=' get a second one.
const loaderVariables = /^(LD_|GLIBC_TUNABLES$|=|$)/

function disableLoaderVariables(env: Environment): Environment {
  const result: Environment = Object.create(null)
  for (const name in env) result[loaderVariables.test(name) ? `=${name}` : name] = env[name]
  return result
}

/** Blocks until the program has started, as uv_spawn does. The start closes the peer socket. Returns 0 or an errno. */
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

/** Spawns without the helper, so that spawn reports the failure: by an event or an exception with its own message. */
function reportBySpawn(start: Start, errno = constants.errno.EAGAIN): ChildProcess {
  const child = spawnDirectly(start)
  if (child.pid === undefined) return child
  // The cause of the failure is gone by now, and the program runs. End it, because it has no valid LISTEN_PID.
  child.kill('SIGKILL')
  discard(child)
  throw systemError('spawn', -errno, { path: start.command })
}

/** Releases a child process that is not returned to the caller. */
function discard(child: ChildProcess): void {
  child.on('error', () => {})
  for (const stream of child.stdio) stream?.destroy()
  if (child.connected) child.disconnect()
  child.unref()
}
