import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ListenOptions, spawnActivated } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { cleanUp, listen, nodeEnvironment, temporaryDirectory, until } from '../helpers.js'
import { beginning, programs } from '../inherit/as-node-programs.js'
import { startPlain } from '../inherit/preloaded.js'
import { needsFamilyOf } from '../needs.js'
import { RunningExample } from '../running-example.js'

/** A program, and the sockets that it is passed. */
interface Case {
  code: string
  env: NodeJS.ProcessEnv
  sockets: Record<string, ListenOptions>
}

/** Of the programs with one socket, those about which socket a server gets. `AS_NODE=all` runs all of them. */
const chosen = [
  'a second server on the same port',
  'close() in the tick of listen()',
  'listen() in the tick of close()',
  'a port that is not passed',
  'http',
  'worker threads and a child process that use the port',
]

function caseOf(code: string): Case {
  const port = reservedPort()
  const host = /listen\([^\n]*'(127|localhost)/.test(code) ? '127.0.0.1' : undefined
  return { code, env: { PORT: String(port) }, sockets: { web: { port, host } } }
}

/** Programs with several sockets, with one that is not at a port, and with an option of Node. */
function furtherCases(): Record<string, Case> {
  const [first, second] = [reservedPort(), reservedPort()]
  const path = join(temporaryDirectory(), 'app.sock')
  const closing = (...names: string[]) => `
    let count = 0
    for (const server of [${names}]) server.on('listening', () => { if (++count === ${names.length}) for (const each of [${names}]) each.close() })
  `
  return {
    'two ports': {
      code: `
        const first = watched(net.createServer(), 'first').listen(port)
        const second = watched(net.createServer(), 'second').listen(process.env.OTHER)
        log(first.address(), second.address())
        ${closing('first', 'second')}
      `,
      env: { PORT: String(first), OTHER: String(second) },
      sockets: { web: { port: first }, admin: { port: second } },
    },
    'port 0 beside a port': {
      code: `
        const first = watched(net.createServer(), 'first').listen(port)
        const second = net.createServer().listen(0, () => { log(second.address().port > 0, second.address().port !== port); second.close() })
        ${closing('first')}
      `,
      env: { PORT: String(first) },
      sockets: { web: { port: first } },
    },
    'a path with a mode': {
      code: `
        const server = watched(net.createServer()).listen({ path: PATH_OF_SOCKET, readableAll: true, writableAll: true }, () => {
          log(require('node:fs').statSync(PATH_OF_SOCKET).mode & 0o666)
          server.close()
        })
        log(server.address())
      `,
      env: { PATH_OF_SOCKET: path },
      // The mode is that of the passed socket.
      sockets: { web: { path, mode: 0o666 } },
    },
    'IPv4 beside IPv6': {
      code: `
        const four = watched(net.createServer(), 'four').listen(port, '127.0.0.1')
        const six = watched(net.createServer(), 'six').listen(port, '::1')
        ${closing('four', 'six')}
      `,
      env: { PORT: String(first) },
      sockets: { four: { port: first, host: '127.0.0.1' }, six: { port: first, host: '::1' } },
    },
    '--inspect': {
      code: `
        log(typeof require('node:inspector').url())
        const server = watched(net.createServer()).listen(port, () => server.close())
      `,
      env: { PORT: String(first), NODE_OPTIONS: `${nodeEnvironment().NODE_OPTIONS ?? ''} --inspect=127.0.0.1:0` },
      sockets: { web: { port: first } },
    },
  }
}

/** What a program prints, and how each of its processes ended. */
interface Transcript {
  ends: string[]
  lines: string[]
}

const linesOf = (text: string) =>
  text
    .split('\n')
    // Not stacks, and not the place in the code of an uncaught error.
    .filter((line) => /^\[(?!eval)|^\w*(Error|Warning)\b/.test(line))
    .map((line) => line.replaceAll(/Date: [^\\]*/g, 'Date: now'))

async function plain({ code, env }: Case): Promise<Transcript> {
  const run = startPlain(beginning + code, { env })
  const end = await run.ended
  const ends = [typeof end === 'number' ? `exited with code ${end}` : `was ended by ${end}`]
  return { ends, lines: linesOf(run.stderr) }
}

/** Runs a program as `count` workers, until each has ended. */
async function supervised({ code, env, sockets }: Case, count: number): Promise<Transcript> {
  const directory = temporaryDirectory()
  const file = join(directory, 'program.cjs')
  writeFileSync(file, beginning + code)
  const passed = Object.fromEntries(
    await Promise.all(Object.entries(sockets).map(async ([name, options]) => [name, await listen(options)] as const)),
  )
  // An address of the same name, so that $PORT is not bound.
  const addresses = Object.keys(passed).flatMap((name) => ['-l', `${name}=127.0.0.1:0`])
  const words = ['dist/run/main.js', 'run', '-n', String(count), ...addresses, file]
  const environment = { ...nodeEnvironment(), ...env, ASYNC_ACCEPT_RUN_DIRECTORY: directory }
  const child = spawnActivated(process.execPath, words, passed, {
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const run = new RunningExample(child)
  cleanUp(async () => {
    child.kill('SIGQUIT')
    await run.ended
  })
  const ends = () => [...run.stderr.matchAll(/^async-accept: worker \d+ (exited with code \d+|was ended by \w+)/gm)]
  await until(() => ends().length >= count || child.exitCode !== null)
  child.kill('SIGQUIT')
  await run.ended
  return { ends: ends().map(([, end]) => end as string), lines: linesOf(run.stderr) }
}

const times = (count: number, values: readonly string[]) => Array.from({ length: count }, () => values).flat()

async function compare(given: Case): Promise<void> {
  const expected = await plain(given)
  assert.notEqual(expected.lines.length, 0)
  // A client may get to any worker.
  const count = /connect\(|http\.(get|request)|exchange\(/.test(given.code) ? 1 : 2
  const actual = await supervised(given, count)
  assert.deepEqual(actual.ends, times(count, expected.ends))
  if (count === 1) assert.deepEqual(actual.lines, expected.lines)
  else assert.deepEqual(actual.lines.sort(), times(count, expected.lines).sort())
}

describe('With async-accept run, a program sees what it sees without it', function () {
  this.timeout(60_000)
  const names = process.env.AS_NODE === 'all' ? Object.keys(programs) : chosen
  for (const name of names) it(name, () => compare(caseOf(programs[name] as string)))
  for (const name of ['two ports', 'port 0 beside a port', 'a path with a mode', 'IPv4 beside IPv6', '--inspect']) {
    it(name, async function () {
      if (name.includes('IPv6')) needsFamilyOf(this, '::1')
      await compare(furtherCases()[name] as Case)
    })
  }
})
