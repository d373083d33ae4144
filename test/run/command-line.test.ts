import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { type Command, type RunOptions, readCommandLine, UsageError } from '../../src/run/command-line.js'

const read = (line: string, env: NodeJS.ProcessEnv = {}): Command => readCommandLine(line.split(' '), env)

function runOptions(line: string, env?: NodeJS.ProcessEnv): RunOptions {
  const command = read(`run ${line}`, env)
  assert.equal(command.command, 'run')
  return (command as { options: RunOptions }).options
}

describe('The command line of run', () => {
  it('has a default for everything but the program', () => {
    assert.deepEqual(runOptions('path/to/server.js', { PORT: '8080' }), {
      name: { text: 'server', chosen: false },
      workers: availableParallelism(),
      addresses: [{ name: '8080', options: { host: undefined, port: 8080 } }],
      exec: false,
      command: 'path/to/server.js',
      args: [],
      maxConnections: undefined,
      settings: {},
      startTimeout: 60_000,
      drainTimeout: 30_000,
      killAfter: 5_000,
      settle: 2_000,
      watchdog: undefined,
      maxAge: undefined,
      maxRss: undefined,
      termDelay: 0,
      user: undefined,
      probe: undefined,
      probeInterval: 5_000,
      watch: undefined,
    })
  })

  it('has a name that is a directory of its own, whatever the program is called', () => {
    for (const [program, text] of Object.entries({ '/': 'program', '..': '__', '.x.js': '_x' })) {
      assert.equal(runOptions(program).name.text, text)
    }
  })

  it('prints the version of the package', () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8'))
    assert.deepEqual(read('--version'), { command: 'help', text: `${version}\n` })
  })

  it('leaves the arguments of the program alone', () => {
    const { workers, command, args } = runOptions('-n 2 server.js -n 3 --help -- x')
    assert.deepEqual([workers, command, args], [2, 'server.js', ['-n', '3', '--help', '--', 'x']])
    const other = runOptions('--exec -- program --name x')
    assert.deepEqual([other.exec, other.command, other.args], [true, 'program', ['--name', 'x']])
  })

  it('reads addresses, named or not', () => {
    const { addresses } = runOptions(
      '-l web=3000 -l 127.0.0.1:80 -l [::1]:81 -l v6=[::]:82 -l localhost:83 -l /run/a:b.sock -l x=./y -l ./ü=.sock -l @abstract s.js',
    )
    assert.deepEqual(addresses, [
      { name: 'web', options: { host: undefined, port: 3000 } },
      { name: '80', options: { host: '127.0.0.1', port: 80 } },
      { name: '81', options: { host: '::1', port: 81 } },
      { name: 'v6', options: { host: '::', port: 82 } },
      { name: '83', options: { host: 'localhost', port: 83 } },
      { name: 'a-b.sock', options: { path: '/run/a:b.sock' } },
      { name: 'x', options: { path: './y' } },
      { name: '-=.sock', options: { path: './ü=.sock' } },
      { name: '@abstract', options: { path: '\0abstract' } },
    ])
  })

  it('checks the settings of the preload that have options, and passes them as variables', () => {
    assert.deepEqual(runOptions('--proxy-protocol optional --trust 10.0.0.0/8,::1 s.js').settings, {
      ASYNC_ACCEPT_PROXY_PROTOCOL: 'optional',
      ASYNC_ACCEPT_TRUST: '10.0.0.0/8,::1',
    })
    const { settings } = runOptions('--proxy-protocol require s.js', { ASYNC_ACCEPT_TRUST: '::1' })
    assert.deepEqual(settings, { ASYNC_ACCEPT_PROXY_PROTOCOL: 'require' })
  })

  it('has one worker, a short drain and an optional glob with --watch', () => {
    const { watch, workers, drainTimeout, command, args } = runOptions('--watch s.js --watch')
    assert.deepEqual([workers, drainTimeout, command, args], [1, 1000, 's.js', ['--watch']])
    assert.ok(watch?.test('a/b'))
    const other = runOptions('--drain-timeout 3 --watch=*.js s.js')
    assert.deepEqual([other.watch, other.drainTimeout], [/^[^/]*\.js$/s, 3000])
  })

  it('reads seconds and sizes', () => {
    const { startTimeout, watchdog, maxRss } = runOptions('--start-timeout 1.5 --watchdog 2 --max-rss 3M s.js')
    assert.deepEqual([startTimeout, watchdog, maxRss], [1500, 2000, 3 * 2 ** 20])
  })
})

describe('A wrong command line', () => {
  for (const [line, message] of Object.entries({
    '': 'a command is missing; see async-accept --help',
    start: 'unknown command start; see async-accept --help',
    toString: 'unknown command toString; see async-accept --help',
    run: 'the program is missing; see async-accept run --help',
    'run -n': "Option '-n, --workers <value>' argument missing; see async-accept run --help",
    'run --port 3000 s.js': "Unknown option '--port'; see async-accept run --help",
    'run -n -1 s.js': "Option '-n' argument is ambiguous; see async-accept run --help",
    'run -n 0 s.js': '--workers is "0", but must be an integer from 1 to 1023',
    'run -l 70000 s.js': `--listen is "70000", but must be [name=]address: 3000, 127.0.0.1:3000, [::1]:3000, /run/app.sock or @name`,
    'run --watchdog 1m s.js': '--watchdog is "1m", but must be a number of seconds from 0.001 to 2147483',
    'run --max-rss 5 s.js': '--max-rss is "5", but must be a number of KiB, MiB or GiB, such as 512M',
    'run --user no:body s.js': '--user is "no:body", but must be the name of a user in /etc/passwd',
    'run --name ../x s.js': '--name is "../x", but must be at most 64 letters, digits, ".", "_" and "-"',
    'run --max-connections 5 --exec -- x': '--max-connections needs a file for Node',
    'run --probe /x --exec -- x': '--probe needs a file for Node',
    'run --probe health s.js': '--probe is "health", but must be a path such as /health or admin=/health',
    'run --proxy-protocol yes s.js': '--proxy-protocol is "yes", but must be require or optional',
    'run --proxy-protocol require s.js': '--proxy-protocol needs --trust, the addresses of the trusted proxies',
    'run --trust me s.js':
      '--trust is "me", but must be IP addresses and networks such as 10.0.0.0/8, separated by commas',
    'run --trust ::1 --exec -- x': '--trust needs a file for Node',
    'run -n 2 --watch s.js': '--watch has one worker: leave out -n',
    'run --watch={ s.js': `--watch is "{", but must be a glob, such as '**/*.{js,json}'`,
    scale: 'the number of workers is "", but must be an integer from 1 to 1023',
    'scale 1024': 'the number of workers is "1024", but must be an integer from 1 to 1023',
    'run -n 1024 s.js': '--workers is "1024", but must be an integer from 1 to 1023',
    'scale 1 2': 'unexpected argument 2',
    'reload x': 'unexpected argument x',
    'status --json --prometheus': 'choose one of --json and --prometheus',
    'status --yaml': "Unknown option '--yaml'; see async-accept status --help",
  })) {
    it(`is one line: ${line === '' ? '(none)' : line}`, () => {
      assert.throws(
        () => read(line),
        (error: Error) => {
          assert.ok(error instanceof UsageError)
          assert.equal(error.message, message)
          return true
        },
      )
    })
  }
})

describe('The other command lines', () => {
  it('are understood', () => {
    assert.deepEqual(read('reload'), { command: 'reload', name: undefined })
    assert.deepEqual(read('stop --name x'), { command: 'stop', name: 'x' })
    assert.deepEqual(read('scale 4 --name x'), { command: 'scale', name: 'x', target: 4 })
    assert.deepEqual(read('status --json'), { command: 'status', name: undefined, format: 'json', watch: false })
    assert.deepEqual(read('status --watch'), { command: 'status', name: undefined, format: 'text', watch: true })
  })

  for (const command of ['run', 'reload', 'scale', 'stop', 'status']) {
    it(`have help: ${command}`, () => {
      const help = read(`${command} --help`)
      assert.equal(help.command, 'help')
      assert.match((help as { text: string }).text, new RegExp(`^Usage: async-accept ${command}.*--help`, 's'))
    })
  }
})
