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

// Python shows bytes as they are: its environment is not decoded, and has every entry of a name that comes twice.
const tell = `
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

/** How it fails: what is thrown, or what the events say. */
async function failure(start: () => ChildProcess): Promise<unknown> {
  const told = (error: Error) => ({ ...error, message: error.message, name: error.name })
  try {
    const child = start()
    const { spawnfile, spawnargs, pid, stdio } = child
    const events: string[] = []
    child.on('spawn', () => events.push('spawn'))
    const [error] = (await Promise.race([once(child, 'error'), once(child, 'exit').then((code) => [{ code }])])) as [
      Error,
    ]
    return { events, error: told(error), spawnfile, spawnargs, pid, stdio: stdio.map((each) => each === null) }
  } catch (error) {
    return { thrown: told(error as Error) }
  }
}

describe('spawnActivated, beside child_process.spawn', () => {
  leaveNoFds()
  let web: Listener
  let interpreter: string

  before(function () {
    interpreter = needs(this, 'python3', '-c', 'import sys; print(sys.executable)').trim()
  })

  beforeEach(async () => {
    web = await listen({ host: '127.0.0.1' })
  })

  /** What the program says, which must be the same. */
  async function same(...args: Arguments): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const run = async (start: () => ChildProcess) => {
      const child = ours(start())
      const { spawnfile, spawnargs, stdio } = child
      return { spawnfile, spawnargs, stdio: stdio.map((each) => each === null), ...(await ended(child)) }
    }
    const [plain, activated] = await both(web, args, run)
    // The listener is a null more.
    assert.deepEqual(activated, { ...plain, stdio: [...plain.stdio, true] })
    return plain
  }

  /** What Python is told. */
  async function told(args: readonly string[], options?: SpawnOptions): Promise<Record<string, unknown>> {
    const { code, stdout } = await same(interpreter, ['-c', tell, ...args], options)
    assert.equal(code, 0)
    return JSON.parse(stdout)
  }

  const inherited = nodeEnvironment()

  const environments: Record<string, NodeJS.ProcessEnv> = {
    'none but a PATH': { PATH: inherited.PATH },
    'names that a shell cannot hold': {
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
    'variables that a shell changes': {
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
    'values of every kind': {
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
      await told([], { env })
    })
  }

  it('passes the environment of this process when none is given', async () => {
    await told([])
    await told([], { env: undefined })
  })

  it('passes arguments, argv0 and the directory', async () => {
    await told(['', ' ', "it's", '$HOME', '-c', '--', 'a\nb', 'ü', '*', '\\'])
    for (const argv0 of ['my name', '', '-sh', '7']) {
      const { arguments: said } = await told(['x'], { argv0 })
      assert.equal((said as string[])[0], Buffer.from(argv0).toString('hex'))
    }
    const directory = temporaryDirectory()
    for (const cwd of [directory, pathToFileURL(directory)]) {
      assert.equal((await told([], { cwd })).directory, directory)
    }
    const program = join(directory, 'program')
    symlinkSync(interpreter, program)
    await same('./program', ['-c', tell], { cwd: directory })
    await same('program', ['-c', tell], { env: { PATH: `/nowhere:${directory}` } })
  })

  it('passes detached, and a user and a group', async function () {
    assert.equal((await told([], { detached: true })).session, true)
    if (process.getuid?.() !== 0) skip(this, 'it needs root')
    assert.deepEqual((await same('id', ['-u'], { uid: 65534, gid: 65534, cwd: '/' })).stdout, '65534\n')
  })

  it('runs a script with no interpreter as execvp does', async () => {
    const script = join(temporaryDirectory(), 'script')
    writeFileSync(script, 'echo "$0 $1"', { mode: 0o755 })
    const { stdout, code } = await same(script, ['first'])
    assert.deepEqual([stdout, code], [`${script} first\n`, 0])
  })

  it('passes a signal, a timeout and a signal to kill with', async () => {
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

  it('has the standard streams of every kind', async () => {
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

  it('fails as spawn does, and tells it as spawn does', async () => {
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
      // Wrong arguments, of which spawn says what is wrong.
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
      // The listener is a third null.
      if (Array.isArray(activated?.stdio)) activated.stdio = activated.stdio.slice(0, 3)
      assert.deepEqual(activated, plain, what)
    }
  })

  it('starts it without a shell, without /proc, and without a directory for temporary files', async function () {
    if (process.getuid?.() !== 0) skip(this, 'chroot needs root')
    needs(this, 'chroot', '/', 'true')
    const root = temporaryDirectory()
    const put = (file: string) => {
      mkdirSync(dirname(join(root, file)), { recursive: true })
      copyFileSync(file, join(root, file))
    }
    const { stdout } = await ended(ours(spawn('ldd', [process.execPath], { stdio: ['ignore', 'pipe', 'pipe'] })))
    put(process.execPath)
    for (const [library] of stdout.matchAll(/\/\S+(?= \()/g)) put(library)
    for (const each of ['package.json', 'dist', 'build/Release/async_accept.node', 'node_modules/node-gyp-build']) {
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
