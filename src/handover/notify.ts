import { binding } from '../core/binding.js'
import { deadlineAfterPoll, longestTimer } from '../core/deadline.js'
import { check, codedError, invalidArgType, invalidArgValue, systemError } from '../core/errors.js'
import { onReady } from '../core/readiness.js'
import * as validate from '../core/validate.js'
import { warn } from '../core/warning.js'

/** @internal The environment variables of sd_notify(3) and sd_watchdog_enabled(3). */
export const notifyVariables = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'] as const

type NotifyVariable = (typeof notifyVariables)[number]

// The values that `unsetEnvironment` has removed from `process.env`. This thread still uses them, but its child
// processes do not inherit them.
const removed: Partial<Record<NotifyVariable, string>> = {}

/** @internal The value of a variable, even after `unsetEnvironment` has removed it from `process.env`. */
export const notifyVariable = (name: NotifyVariable): string | undefined => process.env[name] ?? removed[name]

export interface NotifyOptions {
  /**
   * Remove `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` from `process.env`, so that child processes do not
   * inherit them (`unset_environment` of sd_notify(3)). Later calls in this thread still work. Default: false.
   */
  unsetEnvironment?: boolean
}

const notifyNames: validate.Names<NotifyOptions> = { unsetEnvironment: true }
const barrierNames: validate.Names<{ timeout?: number }> = { timeout: true }

function unset(): void {
  for (const name of notifyVariables) {
    const value = process.env[name]
    if (value === undefined) continue
    removed[name] = value
    delete process.env[name]
  }
}

/** The state that `notify` sends to the service manager: sd_notify(3). */
export interface Notification {
  /** `READY=1`: startup or reloading is complete. */
  ready?: boolean
  /** `RELOADING=1` and `MONOTONIC_USEC`: the service reloads its configuration. `ready` must follow. */
  reloading?: boolean
  /** `STOPPING=1`: the service begins to shut down. */
  stopping?: boolean
  /** `STATUS`: one line of text, shown by `systemctl status`. */
  status?: string
  /** `ERRNO`: the reason for which the service fails, as an errno value, 0 to 4,095. */
  errno?: number
  /** `MAINPID`: the main process of the service, if the service manager has not started it itself. */
  mainPid?: number
  /** True: `WATCHDOG=1`, resets the watchdog timer once. 'trigger': `WATCHDOG=trigger`, reports a failure at once. */
  watchdog?: boolean | 'trigger'
  /** `WATCHDOG_USEC`: a new watchdog interval, in microseconds. */
  watchdogUsec?: number
  /**
   * `EXTEND_TIMEOUT_USEC`: the current startup, runtime, reload or shutdown timeout does not end before this many
   * microseconds from now.
   */
  extendTimeoutUsec?: number
}

type Field = (value: never) => string[]

const flag = (name: string, assignments: () => string[]) => (value: boolean) => {
  validate.optionalBoolean(`state.${name}`, value)
  return value ? assignments() : []
}
const microseconds = (name: string, variable: string) => (value: number) => {
  validate.integer(`state.${name}`, value, 0, Number.MAX_SAFE_INTEGER)
  return [`${variable}=${value}`]
}

const fields: Record<keyof Notification, Field> = {
  ready: flag('ready', () => ['READY=1']),
  // hrtime reads CLOCK_MONOTONIC.
  reloading: flag('reloading', () => ['RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`]),
  stopping: flag('stopping', () => ['STOPPING=1']),
  status: (value: string) => {
    if (typeof value !== 'string') throw invalidArgType('state.status', 'of type string', value)
    if (/[\n\0]/.test(value)) throw invalidArgValue('state.status', 'must be one line', value)
    return [`STATUS=${value}`]
  },
  errno: (value: number) => {
    validate.integer('state.errno', value, 0, 4095)
    return [`ERRNO=${value}`]
  },
  mainPid: (value: number) => {
    validate.integer('state.mainPid', value, 1, 2 ** 31 - 1)
    return [`MAINPID=${value}`]
  },
  watchdog: (value: boolean | 'trigger') => {
    if (value === 'trigger') return ['WATCHDOG=trigger']
    if (typeof value !== 'boolean') throw invalidArgType('state.watchdog', "of type boolean, or 'trigger'", value)
    return value ? ['WATCHDOG=1'] : []
  },
  watchdogUsec: microseconds('watchdogUsec', 'WATCHDOG_USEC'),
  extendTimeoutUsec: microseconds('extendTimeoutUsec', 'EXTEND_TIMEOUT_USEC'),
}

const fieldNames = Object.fromEntries(Object.keys(fields).map((name) => [name, true])) as validate.Names<Notification>

/**
 * Sends a state notification to the service manager over `$NOTIFY_SOCKET`: sd_notify(3). Returns false and sends
 * nothing if the variable is not set. Does not wait until the service manager has read it; {@link notifyBarrier} does.
 *
 * Errors: `ERR_NOTIFY_SOCKET`, those of sendmsg(2) (`ENOENT`, `ECONNREFUSED`, `EAGAIN` if the queue of the socket is
 * full), and Node's codes for an invalid argument.
 */
export function notify(state: Notification, options: NotifyOptions = {}): boolean {
  for (const name of Object.keys(Object(state))) notifiedFields.add(name)
  return sendState(state, options)
}

const notifiedFields = new Set<string>()

/** @internal Whether the program has called `notify` with this field, or `watchdog`. */
export const hasNotified = (field: keyof Notification): boolean => notifiedFields.has(field)

/** @internal As `notify`, for a caller other than the program. */
export function sendState(state: Notification, options: NotifyOptions = {}): boolean {
  validate.options('state', state, fieldNames, 'field')
  validate.options('options', options, notifyNames)
  validate.optionalBoolean('options.unsetEnvironment', options.unsetEnvironment)
  const lines: string[] = []
  for (const [name, value] of Object.entries(state)) {
    if (value !== undefined) lines.push(...fields[name as keyof Notification](value as never))
  }
  if (options.unsetEnvironment) unset()
  return sendAssignments(lines)
}

/**
 * Waits until the service manager has read every notification sent before, or has exited: sd_notify_barrier(3).
 * Resolves with true then, and with false if `NOTIFY_SOCKET` is not set.
 *
 * `timeout` is in ms. Default: 5,000; negative: no timeout; 0: succeeds only if the answer has arrived already. An
 * answer that has arrived by the deadline counts, even if the event loop was blocked.
 *
 * Errors: `ERR_NOTIFY_TIMEOUT`, those of pipe(2), and those of {@link notify}.
 */
export async function notifyBarrier(options: { timeout?: number } = {}): Promise<boolean> {
  validate.options('options', options, barrierNames)
  const timeout = validate.timeout('options.timeout', options.timeout ?? 5_000)
  if (notifySocket() === undefined) return false
  // The service manager closes its copy of the write end when it reads the message. The read end then reports POLLHUP.
  const [reading, writing] = check(binding.pipe(), 'pipe2')
  try {
    try {
      sendAssignments(['BARRIER=1'], [writing])
    } finally {
      binding.close(writing)
    }
    await new Promise<void>((resolve, reject) => {
      // Poll the pipe, because the event alone is not reliable. An event may belong to a closed fd with the same
      // number. At the deadline, the event loop may not have delivered the event yet.
      const settleIfAnswered = (timeoutError?: () => Error) => {
        const state = binding.poll(reading)
        if (state === 0 && timeoutError === undefined) return
        stopTimer()
        unwatch()
        if (state > 0) resolve()
        else reject(state < 0 ? systemError('poll', state) : timeoutError?.())
      }
      const unwatch = onReady(reading, 'read', () => settleIfAnswered())
      const stopTimer = deadlineAfterPoll(timeout, () => settleIfAnswered(() => codedError('ERR_NOTIFY_TIMEOUT')))
    })
    return true
  } finally {
    binding.close(reading)
  }
}

/**
 * Stores duplicates of fds in the service manager across a restart (`FileDescriptorStoreMax=`, systemd.service(5)).
 * After the restart, `activation()` returns them with this name. Borrows the fds. Returns false if `NOTIFY_SOCKET` is
 * not set.
 *
 * `name` has 1 to 255 printable ASCII characters without ':'.
 *
 * Errors: `ERR_INVALID_ARG_VALUE` (an invalid name), `EBADF` (an fd is not open), and those of {@link notify}.
 */
export function storeFds(name: string, fds: readonly number[]): boolean {
  validate.fdName('name', name)
  if (!Array.isArray(fds) || fds.length === 0) throw invalidArgType('fds', 'an array of fds', fds)
  // Copy the array, so that it cannot change between the check and the send.
  const borrowed: readonly number[] = [...fds]
  for (const fd of borrowed) {
    validate.fd('fds', fd)
    // Check the fd here, because `send` opens a socket, which could get the number of a closed fd.
    check(binding.checkOpen(fd), 'fcntl', { fd })
  }
  const { maxFds } = binding
  for (let i = 0; i < borrowed.length; i += maxFds) {
    if (!sendAssignments(['FDSTORE=1', `FDNAME=${name}`], borrowed.slice(i, i + maxFds))) return false
  }
  return true
}

/**
 * Makes the service manager close all stored fds with this name. Returns false if `NOTIFY_SOCKET` is not set.
 *
 * Errors: `ERR_INVALID_ARG_VALUE` (an invalid name), and those of {@link notify}.
 */
export function removeFds(name: string): boolean {
  validate.fdName('name', name)
  return sendAssignments(['FDSTOREREMOVE=1', `FDNAME=${name}`])
}

/**
 * Sends a watchdog notification at once, and then twice in each interval of `WatchdogSec=` (systemd.service(5)). If the
 * event loop is blocked for longer than the interval, the service manager ends the process. The timer does not keep the
 * process alive.
 *
 * Returns a function that stops the timer, or false if no watchdog is enabled for this process: sd_watchdog_enabled(3).
 *
 * Errors: `ERR_ACTIVATION` (`WATCHDOG_USEC` is malformed), and those of {@link notify}. Later failures are emitted as
 * process warnings.
 */
export function watchdog(): (() => void) | false {
  const [WATCHDOG_USEC, WATCHDOG_PID] = [notifyVariable('WATCHDOG_USEC'), notifyVariable('WATCHDOG_PID')]
  if (notifySocket() === undefined || WATCHDOG_USEC === undefined) return false
  if (WATCHDOG_PID !== undefined && Number(WATCHDOG_PID) !== process.pid) return false
  if (!/^[1-9]\d{0,15}$/.test(WATCHDOG_USEC)) {
    throw codedError('ERR_ACTIVATION', `WATCHDOG_USEC is ${JSON.stringify(WATCHDOG_USEC)}`)
  }
  const ping = () => notify({ watchdog: true })
  ping()
  const interval = Math.min(Math.max(Math.floor(Number(WATCHDOG_USEC) / 2000), 1), longestTimer)
  const timer = setInterval(() => {
    try {
      ping()
    } catch (error) {
      // The service manager is busy or gone. At the end of the interval it decides what happens to this process.
      warn(error as Error)
    }
  }, interval).unref()
  return () => clearInterval(timer)
}

/** The path of `NOTIFY_SOCKET`; an abstract name begins with '\0'. Undefined if the variable is not set or empty. */
function notifySocket(): string | undefined {
  const NOTIFY_SOCKET = notifyVariable('NOTIFY_SOCKET')
  if (NOTIFY_SOCKET === undefined || NOTIFY_SOCKET === '') return undefined
  if (NOTIFY_SOCKET.length > 1 && NOTIFY_SOCKET[0] === '/') return NOTIFY_SOCKET
  if (NOTIFY_SOCKET.length > 1 && NOTIFY_SOCKET[0] === '@') return `\0${NOTIFY_SOCKET.slice(1)}`
  throw codedError('ERR_NOTIFY_SOCKET', JSON.stringify(NOTIFY_SOCKET))
}

/** @internal Sends assignments such as `READY=1`, and fds. Returns false if `NOTIFY_SOCKET` is not set. */
export function sendAssignments(lines: readonly string[], fds: readonly number[] = []): boolean {
  const path = notifySocket()
  if (path === undefined) return false
  if (lines.length === 0) return true
  const socket = binding.socket(binding.constants.AF_UNIX as number, binding.constants.SOCK_DGRAM as number)
  check(socket, 'socket')
  try {
    const sent = binding.sendMessage(socket, Buffer.from(lines.join('\n')), fds, path)
    if (sent < 0) throw systemError('sendmsg', sent, { path })
  } finally {
    binding.close(socket)
  }
  return true
}
