import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import nodeModule, { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { cleanUp, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { skip } from '../needs.js'
import { directoryWith } from '../package/packed.js'
import { listenOnLoopback, type StartOptions, startPlain, startPreloaded } from './preloaded.js'

const major = Number.parseInt(process.versions.node, 10)
const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href
const importOf = (code: string) => ['--import', `data:text/javascript,${encodeURIComponent(code)}`]

const server = `
  import { createServer } from 'node:http'
  import answers from './answers.cjs'
  createServer((request, response) => response.end(answers.answer))
    .listen(process.env.PORT, () => console.log('ready'))
`

const typed = server.replace('request, response', 'request: unknown, response: any')

/** A directory with these files. */
function directoryOf(files: Record<string, string>): string {
  const directory = temporaryDirectory()
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content)
  return directory
}

/** Each makes a program answer with `changed` instead of the text in answers.cjs, in its own way. */
const others: Record<string, { program?: string; flags: string[]; api?: string }> = {
  'a hook of require()': {
    program: `
      const answers = require('./answers.cjs')
      require('node:http').createServer((request, response) => response.end(answers.answer))
        .listen(process.env.PORT, () => console.log('ready'))`,
    flags: importOf(`
      import Module from 'node:module'
      const { require } = Module.prototype
      Module.prototype.require = function (id) {
        const exported = Reflect.apply(require, this, [id])
        return id === './answers.cjs' ? { answer: 'changed' } : exported
      }`),
  },
  'a hook that compiles': {
    flags: importOf(`
      import Module from 'node:module'
      const { _compile } = Module.prototype
      Module.prototype._compile = function (code, file, ...args) {
        return Reflect.apply(_compile, this, [code.replace('as written', 'changed'), file, ...args])
      }`),
  },
  'hooks of import in a thread': {
    flags: importOf(`
      import { register } from 'node:module'
      const hooks = "export async function load(url, context, next) {" +
        "const loaded = await next(url, context);" +
        "return url.endsWith('/answers.cjs') ? { format: 'module', source: 'export default { answer: \\\\'changed\\\\' }', shortCircuit: true } : loaded }"
      register('data:text/javascript,' + encodeURIComponent(hooks))`),
  },
  'hooks of import in the same thread': {
    api: 'registerHooks',
    flags: importOf(`
      import { registerHooks } from 'node:module'
      registerHooks({ load: (url, context, next) => url.endsWith('/answers.cjs')
        ? { format: 'commonjs', source: 'exports.answer = "changed"', shortCircuit: true } : next(url, context) })`),
  },
  'a preload that replaces listen() and createServer()': {
    flags: importOf(`
      import http from 'node:http'
      import { syncBuiltinESMExports } from 'node:module'
      const { createServer } = http
      const { listen } = http.Server.prototype
      http.createServer = (handler) => createServer((request, response) => {
        const { end } = response
        response.end = () => end.call(response, 'changed')
        handler(request, response)
      })
      http.Server.prototype.listen = function (...args) { return Reflect.apply(listen, this, args) }
      syncBuiltinESMExports()`),
  },
}

describe('The preload beside another preload', () => {
  leaveNoFds()

  /** Starts a server, and asserts what it answers. Returns what it has printed. */
  async function assertAnswers(program: string, expected: string, options: StartOptions): Promise<string> {
    const web = await listenOnLoopback()
    const env = { ...options.env, PORT: String(web.port) }
    const running = startPreloaded(program, { web }, { ...options, env })
    await running.says(/ready/)
    assert.equal(await (await fetch(`http://127.0.0.1:${web.port}`)).text(), expected)
    running.signal('SIGTERM')
    assert.deepEqual([await running.ended, running.stderr], [0, ''])
    return running.stdout
  }

  for (const [what, { program = server, flags, api }] of Object.entries(others)) {
    for (const order of ['before', 'after']) {
      it(`serves, and leaves the other's effects alone: ${what}, ${order} it`, async function () {
        if (api !== undefined && !(api in nodeModule)) skip(this, `Node ${major} has no ${api}()`)
        const name = program === server ? 'server.mjs' : 'server.cjs'
        const directory = directoryOf({ [name]: program, 'answers.cjs': "exports.answer = 'as written'" })
        const warnings = '--no-deprecation'
        const options = order === 'before' ? { flags: [warnings, ...flags] } : { flags: [warnings], flagsAfter: flags }
        await assertAnswers(join(directory, name), 'changed', options)
      })
    }
  }

  for (const order of ['before', 'after']) {
    it(`serves a program in TypeScript: tsx ${order} it`, async () => {
      const directory = directoryOf({ 'server.ts': typed, 'answers.cjs': "exports.answer = 'typed'" })
      const flags = ['--import', tsx]
      await assertAnswers(join(directory, 'server.ts'), 'typed', order === 'before' ? { flags } : { flagsAfter: flags })
    })

    it(`serves a program that OpenTelemetry traces: ${order} it`, async function () {
      this.timeout(120_000)
      // Newer versions need Node 22.
      const version = major < 22 ? '0.200' : '0.301'
      const names = ['instrumentation-http', 'instrumentation'].map((name) => `@opentelemetry/${name}@${version}`)
      const directory = directoryWith(...names, '@opentelemetry/sdk-trace-node@2', '@opentelemetry/api@1')
      // Other runs of the tests use the same directory.
      const traced = join(directory, `traced-${process.pid}.mjs`)
      cleanUp(() => rmSync(traced))
      writeFileSync(
        traced,
        `import { register } from 'node:module'
        import { registerInstrumentations } from '@opentelemetry/instrumentation'
        import { HttpInstrumentation } from '@opentelemetry/instrumentation-http'
        import { NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
        register('@opentelemetry/instrumentation/hook.mjs', import.meta.url)
        const exporter = {
          export: (spans, done) => { for (const { name, kind } of spans) console.log('span', name, kind); done({ code: 0 }) },
          shutdown: async () => {},
        }
        new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).register()
        registerInstrumentations({ instrumentations: [new HttpInstrumentation()] })`,
      )
      const program = directoryOf({ 'server.mjs': server, 'answers.cjs': "exports.answer = 'traced'" })
      const flags = ['--import', pathToFileURL(traced).href]
      const warnings = ['--no-deprecation']
      const printed = await assertAnswers(
        join(program, 'server.mjs'),
        'traced',
        order === 'before' ? { flags: [...warnings, ...flags] } : { flags: warnings, flagsAfter: flags },
      )
      // 1 is a span of a server.
      assert.match(printed, /^span GET 1$/m)
    })
  }
})

describe('With the preload,', () => {
  leaveNoFds()

  const listens = (port: number) => `
    const { test } = require('node:test')
    const { once } = require('node:events')
    test('listens', async () => {
      const server = require('node:http').createServer().listen(${port})
      await once(server, 'listening')
      await new Promise((resolve) => server.close(resolve))
    })`

  it('node --test runs the tests in processes that get no socket', async () => {
    const web = await listenOnLoopback()
    const directory = directoryOf({ 'taken.test.cjs': listens(web.port), 'free.test.cjs': listens(0) })
    const flags = ['--test', '--test-reporter=tap']
    for (const [name, end, pattern] of [
      ['taken', 1, /EADDRINUSE/],
      ['free', 0, /# pass 1/],
    ] as const) {
      const running = startPreloaded(join(directory, `${name}.test.cjs`), { web }, { flags })
      assert.equal(await running.ended, end, running.stdout + running.stderr)
      assert.match(running.stdout, pattern)
    }
  })

  it('node --test --test-isolation=none runs them with the sockets', async function () {
    if (major < 24) skip(this, `--test-isolation is experimental in Node ${major}`)
    const web = await listenOnLoopback()
    const directory = directoryOf({ 'listens.test.cjs': listens(web.port) })
    const flags = ['--test', '--test-isolation=none', '--test-reporter=tap']
    const running = startPreloaded(join(directory, 'listens.test.cjs'), { web }, { flags })
    assert.equal(await running.ended, 0, running.stdout + running.stderr)
  })

  it('node --watch runs the program in a process that gets no socket', async () => {
    const web = await listenOnLoopback()
    const code = `require('net').createServer().listen(${web.port}).on('error', ({ code }) => console.log(code))`
    const file = join(directoryOf({ 'listens.cjs': code }), 'listens.cjs')
    const running = startPreloaded(file, { web }, { flags: ['--watch'] })
    await running.says(/EADDRINUSE/)
    running.signal('SIGTERM')
    await running.ended
  })

  it('programs without sockets run as without it: node --test, --watch, tsx', async () => {
    const directory = directoryOf({
      'free.test.cjs': listens(0),
      'listens.cjs':
        "const server = require('net').createServer().listen(0, () => { console.log('ready'); server.close() })",
      'server.ts': 'const text: string = "typed"; console.log(text)',
    })
    const preload = ['--import', 'async-accept/inherit']
    const tested = startPlain(join(directory, 'free.test.cjs'), { flags: [...preload, '--test'] })
    assert.deepEqual([await tested.ended, tested.stderr], [0, ''])
    const typed = startPlain(join(directory, 'server.ts'), { flags: [...preload, '--import', tsx] })
    assert.deepEqual([await typed.ended, typed.stdout, typed.stderr], [0, 'typed\n', ''])
    const watched = startPlain(join(directory, 'listens.cjs'), { flags: [...preload, '--watch'] })
    await watched.says(/ready/)
    watched.signal('SIGTERM')
    await watched.ended
  })

  it('the children of a program with the preload in NODE_OPTIONS get no socket', async () => {
    const web = await listenOnLoopback()
    const child = `require('net').createServer().listen(${web.port}).on('error', ({ code }) => console.log('child', code))`
    const program = `
      require('node:net').createServer((socket) => socket.end('answer')).listen(${web.port}, () => {
        require('node:child_process').spawn(process.execPath, ['-e', ${JSON.stringify(child)}], { stdio: 'inherit' })
      })`
    // It is also given as a flag: it runs once.
    const before = process.permission === undefined ? '' : process.env.NODE_OPTIONS
    const env = { NODE_OPTIONS: `${before} --import=async-accept/inherit` }
    const running = startPreloaded(program, { web }, { env })
    await running.says(/child EADDRINUSE/)
    running.signal('SIGTERM')
    assert.deepEqual([await running.ended, running.stderr], [0, ''])
  })
})
