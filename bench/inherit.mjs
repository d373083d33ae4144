// What does the preload cost an unchanged Express application?
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Listener, spawnActivated } from 'async-accept'
import { has, slice, wrk } from './http.mjs'
import { fileOf, pinned, Server } from './measure.mjs'
import { again, cpuCells, cpuColumns, inPairs } from './pairs.mjs'

const preload = ['--import', fileOf('../dist/inherit/inherit.js')]
const application = fileOf('inherit-server.cjs')

const plain = { name: 'without the preload', flags: [] }
const idle = { name: 'with it, nothing inherited', flags: preload }
const inherited = { name: 'with it, an inherited socket', flags: preload, inherits: true }
// Its parent passes a socket that the program does not use.
const unused = { name: 'without it, an inherited socket', flags: [], inherits: true }

// `connections` of serve.mjs is here the number of requests.
export const contenders = [
  {
    name: 'Express',
    serve: async (port) => {
      const { default: app } = await import('./inherit-server.cjs')
      let requests = 0
      const server = app.listen(Number(port)).on('request', () => requests++)
      if (!server.listening || server.address() === null) await once(server, 'listening')
      return { address: server.address(), connections: () => requests }
    },
  },
]

const loads = { 'keep-alive': wrk('http'), 'one request per connection': wrk('http', '-H', 'Connection: close') }

// `warmUp` and `slice` in seconds, as in http.mjs. `starts` is the number of starts of each contender.
export const defaults = { warmUp: 3, slice: 1, slices: 4, rounds: 3, starts: 60 }
export const smoke = { warmUp: 0, slice: 0, slices: 1, rounds: 1, starts: 1 }

/** Starts an application under a parent that passes a socket to it. */
async function passSocket([program, ...args]) {
  const listener = await Listener.listen({ port: 0, backlog: 4096 })
  const child = spawnActivated(program, [...args, String(listener.port)], { web: listener }, { stdio: 'inherit' })
  const [code] = await once(child, 'exit')
  process.exit(code ?? 1)
}

async function cpuTables({ node, rounds, slices, progress, ...sizes }) {
  const others = [again(plain), idle, inherited]
  const tables = []
  const checks = []
  for (const [what, load] of Object.entries(loads)) {
    const results = await inPairs({
      contenders: others,
      references: [plain],
      rounds,
      slices,
      start: async ({ flags, inherits }) => {
        const command = [node, ...flags, fileOf('serve.mjs'), './inherit.mjs', 'Express']
        const parent = inherits ? [node, fileOf('inherit.mjs'), 'pass'] : []
        const server = await Server.start(inherits ? [...parent, ...command] : [...command, '0'])
        if (sizes.warmUp > 0) {
          await slice(server, load, sizes.warmUp, sizes)
          await slice(server, load, sizes.slice, sizes)
        }
        return server
      },
      measure: (server) => slice(server, load, sizes.slice, sizes),
      progress: (text) => progress(`${what}: ${text}`),
    })
    const ratioOf = ({ name }) => results.ratio(name, plain.name)
    tables.push({
      title: `CPU per request, ${what}`,
      columns: ['contender', ...cpuColumns, 'ratio', 'requests/s'],
      bars: { columns: ['CPU, us'], title: `CPU per request, us: ${what}`, ours },
      rows: [plain, ...others].map((each) => [
        each.name,
        ...cpuCells(results, each.name, 1),
        { ...ratioOf(each), digits: 2 },
        { median: results.of(each.name, 'rate').median, digits: 0 },
      ]),
    })
    for (const each of [idle, inherited]) {
      // Rounded as printed: a third digit is noise.
      const measured = Number(ratioOf(each).median.toFixed(2))
      checks.push({ what: `CPU per request, ${what}: ${each.name}, relative to ${plain.name}`, measured, most: 1 })
    }
  }
  return { tables, checks }
}

/** Returns the time from the start of a process to its 'listening', and the CPU that it has used until then, in ms. */
async function startOnce(node, { flags, inherits }, listener) {
  const port = inherits && flags.length > 0 ? listener.port : 0
  const [program, ...args] = pinned('server', [node, ...flags, application, String(port)])
  const stdio = ['ignore', 'pipe', 'inherit']
  const start = performance.now()
  const child = inherits ? spawnActivated(program, args, { web: listener }, { stdio }) : spawn(program, args, { stdio })
  const ended = once(child, 'exit')
  const [printed] = await once(child.stdout, 'data')
  const time = performance.now() - start
  child.kill('SIGKILL')
  await ended
  const { user, system } = JSON.parse(printed)
  return { time, cpu: (user + system) / 1000 }
}

async function startTable({ node, starts, progress }) {
  const listener = await Listener.listen({ port: 0 })
  const pairs = [
    { reference: plain, ours: idle },
    { reference: unused, ours: inherited },
  ]
  const rows = []
  const checks = []
  for (const { reference, ours } of pairs) {
    const results = await inPairs({
      contenders: [ours],
      references: [reference],
      rounds: 1,
      slices: starts,
      start: async () => ({ stop: async () => {} }),
      measure: (_, contender) => startOnce(node, contender, listener),
      progress: (text) => progress(`start: ${text}`),
    })
    const median = ({ name }) => results.of(name, 'time').median
    const more = median(ours) - median(reference)
    for (const each of [reference, ours]) {
      rows.push([
        each.name,
        { ...results.of(each.name, 'time'), digits: 1 },
        { ...results.ratio(each.name, reference.name, 'time'), digits: 2 },
        each === ours ? { median: more, digits: 1 } : '',
        { ...results.of(each.name, 'cpu'), digits: 1 },
      ])
    }
    checks.push({ what: `start, ${ours.name}: ms more than ${reference.name}`, measured: more, most: 30, digits: 1 })
  }
  await listener.close()
  const columns = ['contender', 'time, ms', 'ratio', 'more, ms', 'CPU, ms']
  const title = 'From the start of the process until it listens'
  return { table: { title, columns, bars: { columns: ['time, ms'], title: `${title}, ms`, ours }, rows }, checks }
}

const ours = ([label]) => label.startsWith('with it')

export async function measure(how) {
  const start = await startTable(how)
  const missing = has('wrk') ? [] : ['not measured: wrk not found']
  const cpu = missing.length > 0 ? { tables: [], checks: [] } : await cpuTables(how)
  const checks = [...start.checks, ...cpu.checks]
  const lost = checks.filter(({ measured, most }) => measured > most)
  return {
    tables: [start.table, ...cpu.tables],
    checks,
    losses: [...lost.map(({ what, measured, digits = 2 }) => `${what}: ${measured.toFixed(digits)}`), ...missing],
  }
}

export const title = 'An unchanged server with the preload'
export const about = [
  'The same Express application with and without `--import async-accept/inherit`. It knows nothing of this package.',
  'Nothing inherited: the process starts as in a shell, and listens by itself. An inherited socket: a parent process has',
  'passed a listening socket to it, and its `listen()` gets that socket.',
  '',
  `The start is measured ${defaults.starts} times for each contender, in turn with its reference, and the medians are subtracted.`,
  'The reference of an inherited socket gets the socket too, but listens by itself, because it has no preload. CPU per',
  'request is that of the server process, under wrk with 64 connections, as in the question `http`.',
].join('\n')

if (process.argv[2] === 'pass') await passSocket(process.argv.slice(3))
