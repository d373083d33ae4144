import assert from 'node:assert/strict'
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, copyFileSync, cpSync, mkdirSync, openSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Listener, spawnActivated } from '../../src/index.js'
import { ended, ours } from '../activated.js'
import { temporaryFd } from '../descriptors.js'
import { listen, nodeEnvironment, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needs, skip } from '../needs.js'

// Python prints raw bytes: it does not decode the environment, and includes every entry of a duplicate name.
const printReceived = `
import json, os
read = lambda name: open('/proc/self/' + name, 'rb').read().split(b'\\0')[:-1]
environment = sorted(entry.hex() for entry in read('environ') if not entry.startswith(b'LISTEN_'))
print(json.dumps({
  'arguments': [each.hex() for each in read('cmdline')],
  'environment': environment,
  'directory': os.getcwd(),
  'session': os.getsid(0) == os.getpid(),
}))
`

type Arguments = [command: string, args: readonly string[], options?: SpawnOptions]

/** Runs `spawn` and `spawnActivated` with the same arguments. */
const both = <Result>(web: Listener, args: Arguments, run: (start: () => ChildProcess) => Promise<Result>) =>
  Promise.all([
    run(() => spawn(...(args as unknown as [string, string[], SpawnOptions]))),
    run(() => spawnActivated(args[0], args[1], { web }, args[2])),
  ])

/** Describes how the start fails: the thrown error, or the events. */
async function failure(start: () => ChildProcess): Promise<unknown> {
  const fieldsOf = (error: Error) => ({ ...error, message: error.message, name: error.name })
  try {
    const child = start()
    const { spawnfile, spawnargs, pid, stdio } = child
    const events: string[] = []
    child.on('spawn', () => events.push('spawn'))
    const [error] = (await Promise.race([once(child, 'error'), once(child, 'exit').then((code) => [{ code }])])) as [
      Error,
    ]
    return { events, error: fieldsOf(error), spawnfile, spawnargs, pid, stdio: stdio.map((each) => each === null) }
  } catch (error) {
    return { thrown: fieldsOf(error as Error) }
  }
}

describe('spawnActivated compared with child_process.spawn', () => {
  leaveNoFds()
  let web: Listener
  let interpreter: string

  before(function () {
    interpreter = needs(this, 'python3', '-c', 'import sys; print(sys.executable)').trim()
  })

  beforeEach(async () => {
    web = await listen({ host: '127.0.0.1' })
  })

  /** Asserts that both start the same program with the same output, which is returned. */
  async function assertSame(...args: Arguments): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const run = async (start: () => ChildProcess) => {
      const child = ours(start())
      const { spawnfile, spawnargs, stdio } = child
      return { spawnfile, spawnargs, stdio: stdio.map((each) => each === null), ...(await ended(child)) }
    }
    const [plain, activated] = await both(web, args, run)
    // spawnActivated adds one null to stdio, for the listener.
    assert.deepEqual(activated, { ...plain, stdio: [...plain.stdio, true] })
    return plain
  }

  /** Returns the arguments, environment and directory that Python receives. */
  async function received(args: readonly string[], options?: SpawnOptions): Promise<Record<string, unknown>> {
    const { code, stdout } = await assertSame(interpreter, ['-c', printReceived, ...args], options)
    assert.equal(code, 0)
    return JSON.parse(stdout)
  }

  const inherited = nodeEnvironment()

  const environments: Record<string, NodeJS.ProcessEnv> = {
    'only PATH': { PATH: inherited.PATH },
    'names that a shell does not support': {
      PATH: inherited.PATH,
      'spring.datasource.url': 'x',
      'my-app': '1',
      '1st': 'digit',
      'a b': 'space',
      größe: 'ß',
      'a\nb': 'line',
      '': 'no name',
      '=': 'equals',
      '==x': 'equals',
      __proto__x: '1',
    },
    'variables that a shell modifies': {
      PATH: inherited.PATH,
      PWD: '/srv',
      OLDPWD: '/nowhere',
      IFS: ',',
      _: '/bin/x',
      SHLVL: '9',
      PPID: '1',
      OPTIND: '7',
      PS1: '$',
      ENV: '/etc/passwd',
    },
    'values of every type': {
      PATH: inherited.PATH,
      empty: '',
      left: undefined,
      lines: 'a\nb\n',
      quotes: '\'"$HOME`id`\\',
      number: 5 as never,
      nothing: null as never,
      truth: true as never,
      list: [1, 2] as never,
      object: { toString: () => 'object' } as never,
      lone: '\ud800',
      long: 'x'.repeat(100_000),
    },
    'a prototype': Object.assign(Object.create({ PATH: inherited.PATH, inherited: 'yes', shadowed: 'no' }), {
      shadowed: 'yes',
      own: '1',
    }),
    'no prototype, and __proto__ as a name': Object.assign(Object.create(null), JSON.parse('{"__proto__":"x"}'), {
      PATH: inherited.PATH,
      constructor: 'c',
    }),
    '10,000 variables': {
      PATH: inherited.PATH,
      ...Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`VARIABLE_${i}`, String(i)])),
    },
    'variables of an activation': {
      PATH: inherited.PATH,
      LISTEN_PID: '1',
      LISTEN_FDS: '9',
      LISTEN_FDNAMES: 'a:b',
      LISTEN_PIDFDID: '1',
      LISTENING: '1',
      XLISTEN_PID: '0',
    },
    'variables of a channel': { PATH: inherited.PATH, NODE_CHANNEL_FD: '9', NODE_OPTIONS: '--no-warnings' },
    'variables of the dynamic linker': {
      PATH: inherited.PATH,
      LD_PRELOAD: '/no/such/library.so',
      LD_LIBRARY_PATH: '/nowhere',
      GLIBC_TUNABLES: 'glibc.malloc.check=0',
    },
  }

  for (const [name, env] of Object.entries(environments)) {
    it(`passes an environment with ${name}`, async () => {
      await received([], { env })
    })
  }

  it('passes the environment of this process by default', async () => {
    await received([])
    await received([], { env: undefined })
  })

  it('passes arguments, argv0 and the working directory', async () => {
    await received(['', ' ', "it's", '$HOME', '-c', '--', 'a\nb', 'ü', '*', '\\'])
    for (const argv0 of ['my name', '', '-sh', '7']) {
      const { arguments: said } = await received(['x'], { argv0 })
      assert.equal((said as string[])[0], Buffer.from(argv0).toString('hex'))
    }
    const directory = temporaryDirectory()
    for (const cwd of [directory, pathToFileURL(directory)]) {
      assert.equal((await received([], { cwd })).directory, directory)
    }
    const program = join(directory, 'program')
    symlinkSync(interpreter, program)
    await assertSame('./program', ['-c', printReceived], { cwd: directory })
    await assertSame('program', ['-c', printReceived], { env: { PATH: `/nowhere:${directory}` } })
  })

  it('passes detached, uid and gid', async function () {
    assert.equal((await received([], { detached: true })).session, true)
    if (process.getuid?.() !== 0) skip(this, 'requires root')
    assert.deepEqual((await assertSame('id', ['-u'], { uid: 65534, gid: 65534, cwd: '/' })).stdout, '65534\n')
  })

  it('runs a script without an interpreter line as execvp does', async () => {
    const script = join(temporaryDirectory(), 'script')
    writeFileSync(script, 'echo "$0 $1"', { mode: 0o755 })
    const { stdout, code } = await assertSame(script, ['first'])
    assert.deepEqual([stdout, code], [`${script} first\n`, 0])
  })

  it('passes signal, timeout and killSignal', async () => {
    const sleep: [string, string[]] = ['sleep', ['60']]
    const end = async (start: () => ChildProcess) => (await once(ours(start()), 'exit'))[1]
    const [plain, activated] = await both(web, [...sleep, { timeout: 50, killSignal: 'SIGINT' }], end)
    assert.deepEqual([plain, activated], ['SIGINT', 'SIGINT'])
    for (const aborted of [true, false]) {
      const controller = new AbortController()
      if (aborted) controller.abort()
      const fails = async (start: () => ChildProcess) => {
        const failed = failure(start) as Promise<{ error: Error; pid: number }>
        setImmediate(() => controller.abort())
        return (await failed).error.name
      }
      assert.deepEqual(await both(web, [...sleep, { signal: controller.signal }], fails), ['AbortError', 'AbortError'])
    }
  })

  it('passes standard streams of every kind', async () => {
    const file = temporaryFd(openSync(join(temporaryDirectory(), 'file'), 'w+'))
    const kinds: SpawnOptions['stdio'][] = [
      'pipe',
      'ignore',
      'overlapped',
      ['ignore', 'pipe'],
      [file, file, null],
      [undefined, 'ignore', file],
      [process.stdin, 'pipe', 'inherit'],
      [],
    ]
    const links = 'ls -l /proc/self/fd 2>/dev/null | wc -l; test -t 0'
    for (const stdio of kinds) {
      const streams = async (start: () => ChildProcess) => {
        const child = ours(start())
        const has = [child.stdin, child.stdout, child.stderr].map((each) => each !== null)
        child.stdin?.end()
        child.stdout?.resume()
        child.stderr?.resume()
        return [has, (await once(child, 'exit'))[0]]
      }
      const [plain, activated] = await both(web, ['/bin/sh', ['-c', links], { stdio }], streams)
      assert.deepEqual(activated, plain)
    }
  })

  it('fails in the same way as spawn, with the same errors', async () => {
    const directory = temporaryDirectory()
    const file = (name: string, content: string, mode: number) => {
      writeFileSync(join(directory, name), content)
      chmodSync(join(directory, name), mode)
      return join(directory, name)
    }
    symlinkSync('loop', join(directory, 'loop'))
    const closed = join(directory, 'closed')
    mkdirSync(closed, { mode: 0o700 })
    copyFileSync('/bin/true', join(closed, 'true'))
    const failing: Arguments[] = [
      ['/no/such/program', []],
      ['no-such-program', ['one', 'two']],
      ['no-such-program', ['one'], { argv0: 'named' }],
      ['true', [], { env: { PATH: '/nowhere' } }],
      [file('not-executable', 'x', 0o644), []],
      [directory, []],
      [file('no-interpreter', '#!/no/such/interpreter\n', 0o755), []],
      [join(directory, 'not-executable', 'below'), []],
      [join(directory, 'loop'), []],
      ['x'.repeat(300), []],
      [`/${'x'.repeat(5000)}`, []],
      ['true', [], { cwd: '/no/such/directory' }],
      ['true', [], { cwd: join(directory, 'not-executable') }],
      ['true', ['x'.repeat(200_000)]],
      ['true', Array(30).fill('x'.repeat(100_000))],
      ['true', [], { env: { PATH: process.env.PATH, long: 'x'.repeat(200_000) } }],
      ['true', [], { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/no/such/directory' }],
      // Invalid arguments, for which spawn throws a specific error.
      ['', []],
      [5 as never, []],
      ['a\0b', []],
      ['true', ['a\0b']],
      ['true', [], { argv0: 'a\0b' }],
      ['true', [], { argv0: 5 as never }],
      ['true', [], { cwd: 5 as never }],
      ['true', [], { env: { 'a\0b': 'x' } }],
      ['true', [], { env: { a: 'x\0y' } }],
      ['true', [], { uid: 'root' as never }],
      ['true', [], { detached: 'yes' as never }],
      ['true', [], { stdio: ['ipc', 'ipc'] }],
      ['true', [], { timeout: -1 }],
      ['true', [], { killSignal: 'SIGNOTHING' as never }],
      ['true', [], { serialization: 'xml' as never, stdio: ['ipc', 'ignore', 'ignore'] }],
    ]
    if (process.getuid?.() === 0) {
      failing.push([join(closed, 'true'), [], { uid: 65534, cwd: '/' }])
      failing.push(['no-such-program', [], { uid: 65534, gid: 65534, cwd: '/' }])
    } else {
      failing.push(['true', [], { uid: 0 }])
    }
    for (const args of failing) {
      const [plain, activated] = (await both(web, args, failure)) as Record<string, unknown>[]
      const what = JSON.stringify(args)?.slice(0, 120)
      assert.ok(plain?.thrown !== undefined || (plain?.pid === undefined && plain?.error !== undefined), what)
      // spawnActivated adds a null to stdio, for the listener.
      if (Array.isArray(activated?.stdio)) activated.stdio = activated.stdio.slice(0, 3)
      assert.deepEqual(activated, plain, what)
    }
  })

  it('needs no shell, no /proc, and no directory for temporary files', async function () {
    if (process.getuid?.() !== 0) skip(this, 'chroot requires root')
    needs(this, 'chroot', '/', 'true')
    const root = temporaryDirectory()
    const put = (file: string) => {
      mkdirSync(dirname(join(root, file)), { recursive: true })
      copyFileSync(file, join(root, file))
    }
    const { stdout } = await ended(ours(spawn('ldd', [process.execPath], { stdio: ['ignore', 'pipe', 'pipe'] })))
    put(process.execPath)
    for (const [library] of stdout.matchAll(/\/\S+(?= \()/g)) put(library)
    for (const each of ['package.json', 'dist', 'build/Release/async_accept.node']) {
      cpSync(each, join(root, 'app', each), { recursive: true })
    }
    writeFileSync(
      join(root, 'app/program.mjs'),
      `import { activation, Listener, spawnActivated } from './dist/index.js'
      import { readdirSync } from 'node:fs'
      if (process.argv[2]) console.log(JSON.stringify(activation()))
      else {
        const web = await Listener.listen({ host: '127.0.0.1' })
        const child = spawnActivated(process.execPath, [import.meta.filename ?? '/app/program.mjs', 'child'], { web }, { stdio: 'inherit' })
        child.on('exit', () => web.close().then(() => console.log(JSON.stringify(readdirSync('.')))))
        const failing = spawnActivated('/bin/sh', [], { web })
        failing.on('error', ({ code }) => console.log(JSON.stringify(code)))
      }`,
    )
    const before = [...readdirSync(root)].sort()
    const child = ours(spawn('chroot', [root, process.execPath, '/app/program.mjs'], { env: nodeEnvironment() }))
    const said = await ended(child)
    assert.equal(said.stderr, '')
    const [code, found, left] = said.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    assert.equal(code, 'ENOENT')
    assert.deepEqual([found[0]?.name, found[0]?.kind], ['web', 'listener'])
    assert.deepEqual(left.sort(), before)
  })
})
