import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, extname } from 'node:path'
import { parseArgs } from 'node:util'
import { networkList, type Parse, positiveInteger, proxyProtocolMode, seconds } from '../inherit/settings.js'
import { type Address, parseAddress } from './addresses.js'
import { globPattern } from './glob.js'
import { maxPlaces, maxSlots } from './scoreboard.js'
import { findUser, type User } from './user.js'

/** The options of `async-accept run`. Times are in ms. */
export interface RunOptions {
  /** The name of the supervisor, and whether the user has chosen it. */
  name: { text: string; chosen: boolean }
  workers: number
  addresses: readonly Address[]
  /** Whether `command` is any program, and not a file for Node. */
  exec: boolean
  command: string
  args: readonly string[]
  /** Over all workers; undefined: no limit. */
  maxConnections: number | undefined
  /** The settings of the preload that have options, as environment variables. */
  settings: Readonly<Record<string, string>>
  startTimeout: number
  drainTimeout: number
  killAfter: number
  settle: number
  watchdog: number | undefined
  maxAge: number | undefined
  /** Bytes. */
  maxRss: number | undefined
  termDelay: number
  user: User | undefined
  probe: ProbeAddress | undefined
  probeInterval: number
  /** The paths of the files that start the only worker anew. */
  watch: RegExp | undefined
}

/** The value of `--probe`: a path of the server on the first socket, or on that of a name. */
export interface ProbeAddress {
  name: string | undefined
  path: string
}

export type CommandName = 'run' | 'reload' | 'scale' | 'stop' | 'status'

/** A command line that was understood. */
export type Command =
  | { command: 'run'; options: RunOptions }
  | { command: 'help'; text: string }
  | { command: 'reload' | 'stop'; name: string | undefined }
  | { command: 'scale'; name: string | undefined; target: number }
  | { command: 'status'; name: string | undefined; format: 'text' | 'json' | 'prometheus'; watch: boolean }

/** The command line is wrong. The message is one line. */
export class UsageError extends Error {}

interface Option {
  short?: string
  multiple?: boolean
  /** What the help calls the value; undefined for a flag. */
  value?: string
  /** Whether `--name` stands for `--name=`. A value needs the '='. */
  optionalValue?: boolean
  help: string
}

const helpOption = { help: { short: 'h', help: 'print this help' } } satisfies Record<string, Option>
const nameOption = {
  name: { value: 'NAME', help: 'the supervisor; default: the only one that runs' },
} satisfies Record<string, Option>

const runOptions = {
  workers: { short: 'n', value: 'N', help: 'workers; default: the available parallelism' },
  listen: { short: 'l', multiple: true, value: '[NAME=]ADDRESS', help: 'bound before the first start; default: $PORT' },
  exec: { help: 'the program is any program that speaks sd_listen_fds(3) and sd_notify(3), not a file for Node' },
  name: { value: 'NAME', help: 'the name for the other commands; default: that of the program' },
  'max-connections': {
    value: 'N',
    help: 'connections of all workers together, those that drain included; default: no limit',
  },
  'proxy-protocol': { value: 'MODE', help: 'PROXY headers of trusted proxies: require or optional; default: off' },
  trust: { value: 'ADDRESSES', help: 'the trusted proxies, such as 10.0.0.0/8,::1; needed for --proxy-protocol' },
  'start-timeout': { value: 'S', help: 'seconds from the start of a worker to READY=1; default: 60' },
  'drain-timeout': { value: 'S', help: 'seconds for the drain of a worker; default: 30; with --watch: 1' },
  'kill-after': { value: 'S', help: 'seconds from the end of the drain to SIGKILL; default: 5' },
  settle: { value: 'S', help: 'seconds for which the first new worker of a reload must stay ready; default: 2' },
  probe: {
    value: '[NAME=]/PATH',
    help: 'a worker is ready when it answers a GET with 2xx, and replaced when it does so no more; default: off',
  },
  'probe-interval': {
    value: 'S',
    help: 'seconds between two probes; after three that failed it is replaced; default: 5',
  },
  watchdog: {
    value: 'S',
    help: 'replaces a worker whose event loop stands still for S seconds after READY=1; default: off',
  },
  'max-age': { value: 'S', help: 'replaces a worker after S seconds, one at a time; default: off' },
  'max-rss': { value: 'SIZE', help: 'replaces a worker that uses more memory, such as 512M; default: off' },
  user: { value: 'NAME', help: 'runs as this user from the time when the sockets are bound; needs root' },
  watch: {
    value: 'GLOB',
    optionalValue: true,
    help: 'for development: one worker, started anew when a file changes; default: any in the current directory',
  },
  'term-delay': { value: 'S', help: 'goes on for S seconds after SIGTERM, while a load balancer still sends clients' },
  ...helpOption,
} satisfies Record<string, Option>

interface Description {
  usage: string
  help: string
  options: Record<string, Option>
}

const descriptions: Record<CommandName, Description> = {
  run: {
    usage: 'run [options] SERVER.js [args]\n       async-accept run [options] --exec -- PROGRAM [args]',
    help: 'Starts workers that share listening sockets, and replaces them without losing a request.',
    options: runOptions,
  },
  reload: {
    usage: 'reload [--name NAME]',
    help: 'Replaces all workers, one after the other. Exits with 0 when all new ones are ready, and with 1 if one fails.',
    options: { ...nameOption, ...helpOption },
  },
  scale: {
    usage: 'scale N [--name NAME]',
    help: 'Changes the number of workers. Exits with 0 when that many are ready, and with 1 if one fails.',
    options: { ...nameOption, ...helpOption },
  },
  stop: {
    usage: 'stop [--name NAME]',
    help: 'Drains and ends all workers. Exits with 0 when all have ended, and with 1 if some were killed.',
    options: { ...nameOption, ...helpOption },
  },
  status: {
    usage: 'status [--json | --prometheus] [--watch] [--name NAME]',
    help: 'Prints the workers. Exits with 0 if as many are ready as there shall be, otherwise with 1.',
    options: {
      json: { help: 'as JSON' },
      prometheus: { help: 'as text for Prometheus' },
      watch: { help: 'prints them each second until the supervisor has ended, and then exits with 0' },
      ...nameOption,
      ...helpOption,
    },
  },
}

/** Reads the arguments of the process. Throws `UsageError`. */
export function readCommandLine(argv: readonly string[], env: NodeJS.ProcessEnv): Command {
  const [first = '', ...rest] = argv
  if (first === '--help' || first === '-h' || first === 'help') return { command: 'help', text: overview() }
  if (first === '--version' || first === '-v') return { command: 'help', text: `${version()}\n` }
  if (!Object.hasOwn(descriptions, first)) {
    throw new UsageError(
      `${first === '' ? 'a command is missing' : `unknown command ${first}`}; see async-accept --help`,
    )
  }
  const command = first as CommandName
  const { options } = descriptions[command]
  const [own, program] = command === 'run' ? splitAtProgram(rest, options) : [rest, []]
  const { values, positionals } = parse(command, own, options)
  if (values.help === true) return { command: 'help', text: helpOf(command) }
  if (command === 'run') return { command, options: readRunOptions(values, program, env) }
  const name = values.name as string | undefined
  const wanted = command === 'scale' ? 1 : 0
  if (positionals.length > wanted) throw new UsageError(`unexpected argument ${positionals[wanted]}`)
  if (command === 'scale')
    return { command, name, target: read('the number of workers', positionals[0] ?? '', workerCount) }
  if (command === 'status') {
    if (values.json && values.prometheus) throw new UsageError('choose one of --json and --prometheus')
    const format = values.json === true ? 'json' : values.prometheus === true ? 'prometheus' : 'text'
    return { command, name, format, watch: values.watch === true }
  }
  return { command, name }
}

type Values = Record<string, string | boolean | (string | boolean)[] | undefined>

const configOf = (options: Record<string, Option>) =>
  Object.fromEntries(
    Object.entries(options).map(([name, { short, multiple = false, value }]) => [
      name,
      { type: value === undefined ? ('boolean' as const) : ('string' as const), multiple, ...(short && { short }) },
    ]),
  )

function parse(command: CommandName, args: string[], options: Record<string, Option>) {
  try {
    const { values, positionals } = parseArgs({ args, options: configOf(options), allowPositionals: true })
    return { values: values as Values, positionals }
  } catch (error) {
    const [line = ''] = (error as Error).message.split(/\.?\n|\. /)
    throw new UsageError(`${line}; see async-accept ${command} --help`)
  }
}

/** Splits the arguments of `run` at the program: its own options are not ours. */
function splitAtProgram(args: string[], options: Record<string, Option>): [string[], string[]] {
  // parseArgs() has no optional values.
  const needsNone = (arg: string) => arg.startsWith('--') && options[arg.slice(2)]?.optionalValue === true
  const own = args.map((arg) => (needsNone(arg) ? `${arg}=` : arg))
  const { tokens } = parseArgs({ args: own, options: configOf(options), strict: false, tokens: true })
  const program = tokens.find(({ kind }) => kind !== 'option')
  if (program === undefined) return [own, []]
  const { index, kind } = program
  return [own.slice(0, index), args.slice(kind === 'positional' ? index : index + 1)]
}

function readRunOptions(values: Values, [command, ...args]: string[], env: NodeJS.ProcessEnv): RunOptions {
  if (command === undefined || command === '')
    throw new UsageError('the program is missing; see async-accept run --help')
  const given = <T, Default>(name: keyof typeof runOptions, parse: Parse<T>, byDefault: Default): T | Default => {
    const text = values[name]
    return text === undefined ? byDefault : read(`--${name}`, text as string, parse)
  }
  // The base name of '/' is empty.
  const ofProgram = (basename(command, extname(command)) || 'program').replaceAll(/[^\w-]/g, '_').slice(0, 64)
  const forNode = ['max-connections', 'probe', 'proxy-protocol', 'trust'].find((name) => values[name] !== undefined)
  if (forNode !== undefined && values.exec === true) throw new UsageError(`--${forNode} needs a file for Node`)
  const maxConnections = given('max-connections', positiveInteger, undefined)
  if (maxConnections !== undefined && maxConnections > maxPlaces)
    throw new UsageError(`--max-connections can be at most ${maxPlaces}`)
  const watch = given('watch', files, undefined)
  if (watch !== undefined && values.workers !== undefined) throw new UsageError('--watch has one worker: leave out -n')
  return {
    name: { text: given('name', supervisorName, ofProgram), chosen: values.name !== undefined },
    workers: watch === undefined ? given('workers', workerCount, availableParallelism()) : 1,
    addresses: readAddresses(values.listen as string[] | undefined, env),
    exec: values.exec === true,
    maxConnections,
    settings: readProxySettings(values, env),
    command,
    args,
    startTimeout: given('start-timeout', seconds(1), 60_000),
    drainTimeout: given('drain-timeout', seconds(0), watch === undefined ? 30_000 : 1_000),
    killAfter: given('kill-after', seconds(0), 5_000),
    settle: given('settle', seconds(0), 2_000),
    watchdog: given('watchdog', seconds(1), undefined),
    maxAge: given('max-age', seconds(1), undefined),
    maxRss: given('max-rss', memorySize, undefined),
    termDelay: given('term-delay', seconds(0), 0),
    user: given('user', knownUser, undefined),
    probe: given('probe', probeAddress, undefined),
    probeInterval: given('probe-interval', seconds(1), 5_000),
    watch,
  }
}

/** The options that are settings of the preload. Those of the environment stay where no option replaces them. */
function readProxySettings(values: Values, env: NodeJS.ProcessEnv): Record<string, string> {
  const settings: Record<string, string> = {}
  const set = (option: string, variable: string, parse: Parse<unknown>) => {
    const text = values[option] as string | undefined
    if (text === undefined) return
    read(`--${option}`, text, parse)
    settings[variable] = text
  }
  set('proxy-protocol', 'ASYNC_ACCEPT_PROXY_PROTOCOL', proxyProtocolMode)
  set('trust', 'ASYNC_ACCEPT_TRUST', networkList)
  if (settings.ASYNC_ACCEPT_PROXY_PROTOCOL && !{ ...env, ...settings }.ASYNC_ACCEPT_TRUST) {
    throw new UsageError('--proxy-protocol needs --trust, the addresses of the trusted proxies')
  }
  return settings
}

function readAddresses(texts: readonly string[] | undefined, { PORT }: NodeJS.ProcessEnv): Address[] {
  if (texts !== undefined) return texts.map((text) => read('--listen', text, parseAddress))
  return PORT ? [read('$PORT', PORT, parseAddress)] : []
}

const workerCount: Parse<number> = (text) => {
  const parsed = positiveInteger(text)
  return 'value' in parsed && parsed.value <= maxSlots ? parsed : { expected: `an integer from 1 to ${maxSlots}` }
}

const supervisorName: Parse<string> = (text) =>
  /^(?!\.)[\w.-]{1,64}$/.test(text) ? { value: text } : { expected: 'at most 64 letters, digits, ".", "_" and "-"' }

const probeAddress: Parse<ProbeAddress> = (text) => {
  const { name, path } = /^(?:(?<name>[^=/]+)=)?(?<path>\/[!-~]*)$/.exec(text)?.groups ?? {}
  return path === undefined ? { expected: 'a path such as /health or admin=/health' } : { value: { name, path } }
}

const knownUser: Parse<User> = (text) => {
  const value = findUser(text)
  return value === undefined ? { expected: 'the name of a user in /etc/passwd' } : { value }
}

// An empty one stands for all files.
const files: Parse<RegExp> = (text) => {
  try {
    return { value: globPattern(text || '**') }
  } catch {
    return { expected: "a glob, such as '**/*.{js,json}'" }
  }
}

const units = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }

const memorySize: Parse<number> = (text) => {
  const [, digits, unit] = /^([1-9]\d{0,9})([KMG])$/.exec(text) ?? []
  return unit === undefined
    ? { expected: 'a number of KiB, MiB or GiB, such as 512M' }
    : { value: Number(digits) * units[unit as keyof typeof units] }
}

function read<T>(what: string, text: string, parse: Parse<T>): T {
  const parsed = parse(text)
  if ('value' in parsed) return parsed.value
  throw new UsageError(`${what} is ${JSON.stringify(text.slice(0, 128))}, but must be ${parsed.expected}`)
}

function overview(): string {
  const lines = Object.values(descriptions).map(
    ({ usage, help }) => `  async-accept ${usage.replace('\n     ', '\n')}\n      ${help}`,
  )
  return `Usage:\n${lines.join('\n')}\n\nasync-accept COMMAND --help lists the options of a command.\n`
}

function version(): string {
  return JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version
}

function helpOf(command: CommandName): string {
  const { usage, help, options } = descriptions[command]
  const rows = Object.entries(options).map(([name, { short, value, optionalValue, help }]) => {
    const left = `  ${short === undefined ? '' : `-${short}, `}--${name}${value === undefined ? '' : optionalValue ? `[=${value}]` : ` ${value}`}`
    return `${left.padEnd(30)} ${help}`
  })
  return `Usage: async-accept ${usage}\n\n${help}\n\n${rows.join('\n')}\n`
}
