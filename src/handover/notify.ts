import { binding } from '../core/binding.js'
import { deadlineAfterPoll, longestTimer } from '../core/deadline.js'
import { check, codedError, invalidArgType, invalidArgValue, systemError } from '../core/errors.js'
import { onReady } from '../core/readiness.js'
import * as validate from '../core/validate.js'

/** What sd_notify(3) and sd_watchdog_enabled(3) read. */
export const notifyVariables = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'] as const

type NotifyVariable = (typeof notifyVariables)[number]

// What `unsetEnvironment` has removed: the variables are gone for children, not for this thread.
const removed: Partial<Record<NotifyVariable, string>> = {}

/** The value that this process was given. */
export const notifyVariable = (name: NotifyVariable): string | undefined => process.env[name] ?? removed[name]

export interface NotifyOptions {
  /**
   * Remove `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` from `process.env`, so that no child speaks to the service
   * manager in our place: `unset_environment` of sd_notify(3). Later calls in this thread still work. Default: false.
   */
  unsetEnvironment?: boolean
}

function unset(): void {
  for (const name of notifyVariables) {
    const value = process.env[name]
    if (value === undefined) continue
    removed[name] = value
    delete process.env[name]
  }
}

/** What may be said to the service manager: sd_notify(3). */
export interface Notification {
  /** Starting is done, or reloading. */
  ready?: boolean
  /** The configuration is being read anew; `ready` must follow. `MONOTONIC_USEC` goes with it. */
  reloading?: boolean
  stopping?: boolean
  /** One line for people: `systemctl status` shows it. */
  status?: string
  /** An errno, positive: why the service fails. */
  errno?: number
  /** Of the process that the service manager is to watch, where it has not started it itself. */
  mainPid?: number
  /** True: still alive, once. 'trigger': an error that must end the service. */
  watchdog?: boolean | 'trigger'
  /** A new interval for the watchdog, in microseconds. */
  watchdogUsec?: number
  /** So many microseconds more for what is going on. */
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
  // The monotonic clock is what hrtime shows.
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
    validate.optionalBoolean('state.watchdog', value)
    return value ? ['WATCHDOG=1'] : []
  },
  watchdogUsec: microseconds('watchdogUsec', 'WATCHDOG_USEC'),
  extendTimeoutUsec: microseconds('extendTimeoutUsec', 'EXTEND_TIMEOUT_USEC'),
}

/**
 * Tells the service manager how we are: sd_notify(3), over `$NOTIFY_SOCKET`. False, and nothing else, when there is none.
 * The manager may not have read it when this returns; see {@link notifyBarrier}.
 *
 * Errors: `ERR_NOTIFY_SOCKET`, those of sendmsg(2) (`ENOENT`, `ECONNREFUSED`, `EAGAIN` when it is full), and Node's own for
 * a wrong state.
 */
export function notify(state: Notification, options: NotifyOptions = {}): boolean {
  validate.object('state', state)
  validate.object('options', options)
  validate.optionalBoolean('options.unsetEnvironment', options.unsetEnvironment)
  const lines: string[] = []
  for (const [name, value] of Object.entries(state)) {
    if (!Object.hasOwn(fields, name)) throw invalidArgValue('state', `has no field '${name}'`, state)
    if (value !== undefined) lines.push(...fields[name as keyof Notification](value as never))
  }
  if (options.unsetEnvironment) unset()
  return send(lines)
}

/**
 * Resolves when the service manager has read everything that was sent before: sd_notify_barrier(3). False when there is none.
 *
 * Errors: `ERR_NOTIFY_TIMEOUT` after `timeout` ms (5,000 by default; negative: never; 0: unless the answer is there
 * already), and those of {@link notify}. An answer that is there at the deadline counts, however late the event loop is.
 */
export async function notifyBarrier(options: { timeout?: number } = {}): Promise<boolean> {
  validate.object('options', options)
  const timeout = validate.timeout('options.timeout', options.timeout ?? 5_000)
  if (notifySocket() === undefined) return false
  // The manager closes its copy of the writing end when it has come to it, and then the reading end is at its end.
  const [reading, writing] = check(binding.pipe(), 'pipe2')
  try {
    try {
      send(['BARRIER=1'], [writing])
    } finally {
      binding.close(writing)
    }
    await new Promise<void>((resolve, reject) => {
      // The state of the pipe decides: an event may be meant for an fd that had its number before, and at the deadline the
      // loop may not have come to it.
      const answered = (otherwise?: () => Error) => {
        const state = binding.poll(reading)
        if (state === 0 && otherwise === undefined) return
        stopTimer()
        unwatch()
        if (state > 0) resolve()
        else reject(state < 0 ? systemError('poll', state) : otherwise?.())
      }
      const unwatch = onReady(reading, 'read', () => answered())
      const stopTimer = deadlineAfterPoll(timeout, () => answered(() => codedError('ERR_NOTIFY_TIMEOUT')))
    })
    return true
  } finally {
    binding.close(reading)
  }
}

/**
 * Has the service manager keep copies of fds over a restart (`FileDescriptorStoreMax=` of systemd.service(5)); after it
 * `activation()` gives them back by that name. Borrows the fds. False when there is no service manager.
 *
 * Errors: `ERR_INVALID_ARG_VALUE` for what cannot be a name, `EBADF`, and those of {@link notify}.
 */
export function storeFds(name: string, fds: readonly number[]): boolean {
  validate.fdName('name', name)
  if (!Array.isArray(fds) || fds.length === 0) throw invalidArgType('fds', 'an array of fds', fds)
  // A copy: what is checked is what is sent.
  const borrowed: readonly number[] = [...fds]
  for (const fd of borrowed) {
    validate.fd('fds', fd)
    // Now, because the socket that carries the message may get the number of an fd that is closed.
    check(binding.checkOpen(fd), 'fcntl')
  }
  const { maxFds } = binding
  for (let i = 0; i < borrowed.length; i += maxFds) {
    if (!send(['FDSTORE=1', `FDNAME=${name}`], borrowed.slice(i, i + maxFds))) return false
  }
  return true
}

/** Has it close all that it keeps by that name. Errors: as of {@link storeFds}. */
export function removeFds(name: string): boolean {
  validate.fdName('name', name)
  return send(['FDSTOREREMOVE=1', `FDNAME=${name}`])
}

/**
 * Says at half the interval of `WatchdogSec=` (systemd.service(5)) that we are alive, for as long as the event loop turns.
 * The function that is returned ends that; false when no watchdog waits for us: sd_watchdog_enabled(3). It does not keep
 * the process alive.
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
      // The service manager is busy, or gone. What that means for us is its decision, at the end of the interval.
      process.emitWarning(error as Error)
    }
  }, interval).unref()
  return () => clearInterval(timer)
}

/** A path, with '\0' first for an abstract name. */
function notifySocket(): string | undefined {
  const NOTIFY_SOCKET = notifyVariable('NOTIFY_SOCKET')
  if (NOTIFY_SOCKET === undefined || NOTIFY_SOCKET === '') return undefined
  if (NOTIFY_SOCKET.length > 1 && NOTIFY_SOCKET[0] === '/') return NOTIFY_SOCKET
  if (NOTIFY_SOCKET.length > 1 && NOTIFY_SOCKET[0] === '@') return `\0${NOTIFY_SOCKET.slice(1)}`
  throw codedError('ERR_NOTIFY_SOCKET', JSON.stringify(NOTIFY_SOCKET))
}

function send(lines: readonly string[], fds: readonly number[] = []): boolean {
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
