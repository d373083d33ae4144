import { spawn } from 'node:child_process'
import { type Listener, type Passed, spawnActivated } from '../../src/index.js'
import { cleanUp, listen, nodeEnvironment, until } from '../helpers.js'
import { RunningExample } from '../running-example.js'

export interface StartOptions {
  env?: NodeJS.ProcessEnv
  /** Flags of Node, before the preload. */
  flags?: readonly string[]
  /** Flags of Node, after the preload. */
  flagsAfter?: readonly string[]
  args?: readonly string[]
}

export const preload = ['--import', 'async-accept/inherit']

// A file, or code that Node runs as CommonJS.
const commandOf = (program: string, args: readonly string[]) =>
  /^\S+\.[cm]?[jt]s$/.test(program) ? [program, ...args] : ['-e', program, '--', ...args]

function running(child: ReturnType<typeof spawn>): RunningExample {
  cleanUp(() => child.kill('SIGKILL'))
  return new RunningExample(child)
}

// With any preload, Node runs the program in a promise job. So microtasks of the program run before its ticks.
const anyPreload = ['--import', 'data:text/javascript,']

/** Starts a program without our preload. */
export function startPlain(program: string, { env, flags = [], args = [] }: StartOptions = {}): RunningExample {
  const options = { env: { ...nodeEnvironment(), ...env }, stdio: ['ignore', 'pipe', 'pipe'] as const }
  return running(spawn(process.execPath, [...anyPreload, ...flags, ...commandOf(program, args)], options as never))
}

/** Starts a program with the preload, and passes listeners to it. This process keeps them open, as systemd does. */
export function startPreloaded(program: string, passed: Passed, options: StartOptions = {}): RunningExample {
  const { env, flags = [], flagsAfter = [], args = [] } = options
  return running(
    spawnActivated(process.execPath, [...flags, ...preload, ...flagsAfter, ...commandOf(program, args)], passed, {
      env: { ...nodeEnvironment(), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      inheritNotify: true,
    }),
  )
}

/**
 * Starts a program with the preload under systemd-socket-activate(1), with listeners on `addresses`. systemd starts the
 * program when a client connects. Resolves when systemd listens.
 */
export async function startSocketActivated(
  program: string,
  addresses: readonly string[],
  { env, flags = [], args = [] }: StartOptions = {},
): Promise<RunningExample> {
  // It passes on only the variables that it is told to.
  const { NODE_OPTIONS, ASYNC_ACCEPT_ADDON } = nodeEnvironment()
  const variables = Object.entries({ NODE_OPTIONS, ASYNC_ACCEPT_ADDON, ...env })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `--setenv=${name}=${value}`)
  const listens = addresses.map((address) => `--listen=${address}`)
  const words = [...listens, ...variables, process.execPath, ...flags, ...preload, ...commandOf(program, args)]
  const started = running(spawn('systemd-socket-activate', words, { stdio: ['ignore', 'pipe', 'pipe'] }))
  const listening = () => started.stderr.match(/^Listening on /gm)?.length === addresses.length
  await until(() => listening() || started.child.exitCode !== null)
  return started
}

export const listenOnLoopback = (): Promise<Listener> => listen({ host: '127.0.0.1', port: 0 })
