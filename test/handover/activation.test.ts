import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import dgram from 'node:dgram'
import { once } from 'node:events'
import { constants, openSync } from 'node:fs'
import type net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { binding } from '../../src/core/binding.js'
import { activation, Listener } from '../../src/index.js'
import {
  ended,
  fixture,
  ours,
  plainEnvironment,
  printed,
  program,
  type Report,
  reportOf,
  startActivated,
} from '../activated.js'
import { makeBlocking, openFile, pair, temporaryFd } from '../descriptors.js'
import { cleanUp, connect, flagsOf, listen, O_CLOEXEC, O_NONBLOCK, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsFamilyOf } from '../needs.js'

const { AF_INET, AF_UNIX, SOCK_DGRAM } = binding.constants as Record<string, number>

/** Creates a bound datagram socket. */
function datagram(path?: string): number {
  const fd = binding.socket((path === undefined ? AF_INET : AF_UNIX) as number, SOCK_DGRAM as number)
  assert.ok(fd >= 0)
  binding.release(fd)
  temporaryFd(fd)
  assert.equal(path === undefined ? binding.bindIp(fd, '127.0.0.1', 0) : binding.bindPath(fd, path), 0)
  return fd
}

/** Asserts that the environment and the fds are unchanged. */
function assertUnchanged({ before, after }: Report): void {
  assert.deepEqual(after, before)
}

const one = { LISTEN_FDS: '1' }

describe('activation', () => {
  leaveNoFds()

  it('returns an empty list in a process that was not activated', async () => {
    const { found, error } = await reportOf([], { LISTEN_PID: undefined })
    assert.deepEqual({ found, error }, { found: [], error: undefined })
  })

  it('describes fds of every kind, in order', async function () {
    needsFamilyOf(this, '::1')
    const directory = temporaryDirectory()
    const tcp4 = await listen({ host: '127.0.0.1' })
    const tcp6 = await listen({ host: '::1' })
    const unix = await listen({ path: join(directory, 'unix') })
    const abstract = await listen({ path: `\0${directory}` })
    const { connection } = await pair({ host: '127.0.0.1' })
    const fifo = join(directory, 'fifo')
    spawnSync('mkfifo', [fifo])
    const fds = [
      tcp4.fd,
      tcp6.fd,
      unix.fd,
      abstract.fd,
      connection.fd,
      datagram(),
      datagram(join(directory, 'datagram')),
      temporaryFd(openSync(fifo, constants.O_RDWR)),
      openFile(fixture),
      openFile('/dev/null'),
    ]
    const names = 'web web path hidden client udp log fifo file device'
    const { found, error } = await reportOf(fds, { LISTEN_FDS: '10', LISTEN_FDNAMES: names.replaceAll(' ', ':') })
    assert.equal(error, undefined)
    assert.deepEqual(
      found.map(({ fd, name }) => `${fd} ${name}`),
      names.split(' ').map((name, i) => `${3 + i} ${name}`),
    )
    const ip = (domain: 'IPv4' | 'IPv6', type: string, address: unknown) => ({ domain, type, address })
    const expected = [
      { kind: 'listener', ...ip('IPv4', 'stream', tcp4.address()) },
      { kind: 'listener', ...ip('IPv6', 'stream', tcp6.address()) },
      { kind: 'listener', domain: 'unix', type: 'stream', address: unix.address() },
      { kind: 'listener', domain: 'unix', type: 'stream', address: abstract.address() },
      {
        kind: 'connection',
        ...ip('IPv4', 'stream', { address: '127.0.0.1', port: connection.localPort, family: 'IPv4' }),
      },
      { kind: 'datagram', ...ip('IPv4', 'datagram', binding.localAddress(fds[5] as number)) },
      { kind: 'datagram', domain: 'unix', type: 'datagram', address: join(directory, 'datagram') },
      { kind: 'fifo' },
      { kind: 'file' },
      { kind: 'other' },
    ]
    assert.deepEqual(
      found.map(({ fd, name, ...rest }) => rest),
      expected,
    )
  })

  it('describes a seqpacket listener', async () => {
    const script = [
      'import os, socket, sys',
      's = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)',
      's.bind("\\0" + sys.argv[1])',
      's.listen()',
      'os.set_inheritable(s.fileno(), True)',
      'os.environ["LISTEN_PID"] = str(os.getpid())',
      'os.execv(sys.argv[2], sys.argv[2:])',
    ]
    const { found } = await python(script, [temporaryDirectory(), ...program('print')], one)
    assert.deepEqual(
      found.map(({ kind, domain, type }) => ({ kind, domain, type })),
      [{ kind: 'listener', domain: 'unix', type: 'seqpacket' }],
    )
  })

  it('returns no address for a netlink socket', async () => {
    const script = [
      'import os, socket, sys',
      's = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)',
      'os.set_inheritable(s.fileno(), True)',
      'os.environ["LISTEN_PID"] = str(os.getpid())',
      'os.execv(sys.argv[1], sys.argv[1:])',
    ]
    const { found } = await python(script, program('print'), one)
    assert.deepEqual(found, [{ name: 'unknown', fd: 3, kind: 'other', domain: 'other', type: 'other' }])
  })

  it('names every fd "unknown" without LISTEN_FDNAMES', async () => {
    const { fd } = await listen()
    const { found } = await reportOf([fd, fd], { LISTEN_FDS: '2' })
    assert.deepEqual(
      found.map(({ name, kind }) => `${name} ${kind}`),
      ['unknown listener', 'unknown listener'],
    )
  })

  it('sets close-on-exec on the fds', async () => {
    const { fd } = await listen()
    const { after } = await reportOf([fd, fd], { LISTEN_FDS: '2' })
    for (const flags of after.flags.slice(3, 5)) {
      assert.notEqual(Number.parseInt(flags as string, 8) & O_CLOEXEC, 0)
    }
  })

  it('removes the variables from the environment', async () => {
    const { fd } = await listen()
    const { found, before, after } = await reportOf([fd], { ...one, LISTEN_FDNAMES: 'web' })
    assert.equal(found.length, 1)
    assert.deepEqual(Object.keys(before.environment).sort(), ['LISTEN_FDNAMES', 'LISTEN_FDS', 'LISTEN_PID'])
    assert.deepEqual(after.environment, {})
  })

  it('keeps the variables with keepEnvironment', async () => {
    const { fd } = await listen()
    const report = await reportOf([fd], { ...one, LISTEN_FDNAMES: 'web' }, 'print', 'keep')
    assert.equal(report.found.length, 1)
    assertUnchanged(report)
  })

  for (const pid of ['1', String(process.pid)]) {
    it(`ignores fds for ${pid === '1' ? 'process 1' : 'the parent process'}`, async () => {
      const { fd } = await listen()
      const { found, error } = await reportOf([fd], { ...one, LISTEN_PID: pid })
      assert.deepEqual({ found, error }, { found: [], error: undefined })
    })
  }

  describe('with LISTEN_PIDFDID', () => {
    const script = (id: string) => [
      'import os, sys',
      'pid = os.getpid()',
      'own = os.fstat(os.pidfd_open(pid)).st_ino',
      `os.environ.update(LISTEN_PID=str(pid), LISTEN_PIDFDID=${id})`,
      'os.execv(sys.argv[1], sys.argv[1:])',
    ]

    it('returns fds that are for this process', async () => {
      const { fd } = await listen()
      const { found, after } = await python(script('str(own)'), program('print'), one, [fd])
      assert.equal(found.length, 1)
      assert.deepEqual(after.environment, {})
    })

    it('ignores fds that were for an earlier process with the same pid', async () => {
      const { fd } = await listen()
      const { found, error } = await python(script('str(own + 1)'), program('print'), one, [fd])
      assert.deepEqual({ found, error }, { found: [], error: undefined })
    })

    it('rejects a value that is not a number', async () => {
      const { fd } = await listen()
      const report = await python(script('"0x1f"'), program('print'), one, [fd])
      assert.equal(report.error?.code, 'ERR_ACTIVATION')
      assertUnchanged(report)
    })
  })

  const malformed: Record<string, NodeJS.ProcessEnv> = {
    'a count that is not a number': { LISTEN_FDS: 'two' },
    'a negative count': { LISTEN_FDS: '-1' },
    'a fractional count': { LISTEN_FDS: '1.0' },
    'an empty count': { LISTEN_FDS: '' },
    'more fds than are open': { LISTEN_FDS: '3' },
    'more fds than a process can have': { LISTEN_FDS: '4294967299' },
    'too few names': { LISTEN_FDS: '2', LISTEN_FDNAMES: 'web' },
    'too many names': { LISTEN_FDS: '2', LISTEN_FDNAMES: 'web:web:' },
    'a pid that is not a number': { LISTEN_FDS: '2', LISTEN_PID: ' 1' },
  }
  for (const [what, env] of Object.entries(malformed)) {
    it(`throws on ${what}, and changes nothing`, async () => {
      const { fd } = await listen()
      const report = await reportOf([fd, fd], env)
      assert.equal(report.error?.code, 'ERR_ACTIVATION')
      assertUnchanged(report)
    })
  }

  it('throws in a worker thread, and then still works in the main thread', async () => {
    const { fd } = await listen()
    const { worker, found } = await reportOf([fd], one, 'worker')
    assert.equal(worker?.error?.code, 'ERR_ACTIVATION_THREAD')
    assertUnchanged(worker as Report)
    assert.equal(found.length, 1)
  })

  it('rejects invalid options', () => {
    for (const options of [null, { inetd: 1 }, { keepEnvironment: 'yes' }] as never[]) {
      assert.throws(() => activation(options), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })
})

describe('The activation environment', () => {
  leaveNoFds()

  it('is either valid or rejected, and reading it has no side effects', async () => {
    const { fd } = await listen()
    const program = fileURLToPath(new URL('../fixtures/fuzzed-environment.mjs', import.meta.url))
    const child = ours(
      spawn(process.execPath, ['--import=tsx', program, '3'], {
        stdio: ['ignore', 'pipe', 'pipe', fd, fd, fd],
        env: plainEnvironment(),
      }),
    )
    const { code, stdout, stderr } = await ended(child)
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' })
    assert.equal(stdout.split('\n').length - 1, 5)
  })
})

describe('An activated socket', () => {
  leaveNoFds()

  it('accepts connections as a Listener', async () => {
    const listeners = [await listen({ host: '127.0.0.1' }), await listen({ host: '127.0.0.1' })]
    for (const { fd } of listeners) makeBlocking(fd)
    startActivated(
      listeners.map(({ fd }) => fd),
      { LISTEN_FDS: '2', LISTEN_FDNAMES: 'web:web' },
      'serve',
    )
    for (const listener of listeners) {
      const { found } = JSON.parse(await text(await connect(listener))) as Report
      assert.deepEqual(
        found.map(({ name }) => name),
        ['web', 'web'],
      )
      // The fds of both processes share one open file description.
      assert.notEqual((flagsOf(listener.fd) as number) & O_NONBLOCK, 0)
    }
  })

  it('can be used by dgram if it is a datagram socket', async () => {
    const fd = datagram()
    makeBlocking(fd)
    startActivated([fd], { ...one, LISTEN_FDNAMES: 'udp' }, 'serve')
    const client = dgram.createSocket('udp4')
    cleanUp(() => client.close())
    const { port, address } = binding.localAddress(fd) as { port: number; address: string }
    client.send('who are you?', port, address)
    const [message] = await once(client, 'message')
    assert.equal(JSON.parse(String(message)).found[0].name, 'udp')
  })

  describe('as a connection', () => {
    const serve = async (remote: (client: net.Socket) => NodeJS.ProcessEnv, host = '127.0.0.1') => {
      const { connection, client } = await pair({ host })
      makeBlocking(connection.fd)
      const child = startActivated(
        [connection.fd],
        { ...one, LISTEN_FDNAMES: 'connection', ...remote(client) },
        'serve',
      )
      connection.close()
      return { child, client }
    }
    const served = async (client: net.Socket) => JSON.parse(await text(client)) as Report

    it('serves its client', async () => {
      const { client } = await serve(() => ({}))
      const { found } = await served(client)
      assert.deepEqual([found[0]?.kind, found[0]?.name], ['connection', 'connection'])
    })

    for (const host of ['127.0.0.1', '::1']) {
      it(`serves a client whose address matches REMOTE_ADDR and REMOTE_PORT: ${host}`, async function () {
        needsFamilyOf(this, host)
        const remote = ({ localPort }: net.Socket) => ({ REMOTE_ADDR: host, REMOTE_PORT: String(localPort) })
        const { client } = await serve(remote, host)
        assert.equal((await served(client)).error, undefined)
      })
    }

    it('serves a client of a dual-stack socket whose IPv4 address matches REMOTE_ADDR', async function () {
      needsFamilyOf(this, '::')
      const { client } = await serve(() => ({ REMOTE_ADDR: '127.0.0.1' }), '::')
      assert.equal((await served(client)).error, undefined)
    })

    for (const [what, remote] of [
      ['REMOTE_ADDR', { REMOTE_ADDR: '127.0.0.2' }],
      ['REMOTE_PORT', { REMOTE_ADDR: '127.0.0.1', REMOTE_PORT: '1' }],
    ] as const) {
      it(`is rejected when ${what} differs from the peer's address`, async () => {
        const { connection } = await pair()
        const { code, stderr } = await ended(startActivated([connection.fd], { ...one, ...remote }, 'serve'))
        assert.equal(code, 1)
        assert.match(stderr, /ERR_ACTIVATION/)
        assert.ok(stderr.includes(what))
      })
    }
  })

  it('does not block when another process accepts from the same socket', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const listening = temporaryFd(listener.detach())
    makeBlocking(listening)
    // With two threads there and this process, some of them wake up for each client without getting it.
    const script = [
      'import os, select, socket, threading',
      's = socket.socket(fileno=3)',
      'def take():',
      '    while True:',
      '        select.select([s], [], [])',
      '        try: client, _ = s.accept()',
      '        except BlockingIOError: continue',
      '        client.sendall(b"other")',
      '        client.close()',
      'for _ in range(2): threading.Thread(target=take, daemon=True).start()',
      'print("ready", flush=True)',
      'os.read(0, 1)',
      'os._exit(0)',
    ]
    const other = ours(spawn('python3', ['-c', script.join('\n')], { stdio: ['pipe', 'pipe', 'inherit', listening] }))
    await once(other.stdout as NodeJS.ReadableStream, 'data')
    const shared = Listener.fromFd(listening)
    cleanUp(() => shared.close())
    let taken = 0
    const serving = (async () => {
      for await (const connection of shared) {
        taken++
        connection.toSocket().end('ours')
      }
    })()
    const answers: string[] = []
    for (let round = 0; round < 20; round++) {
      const clients = await Promise.all(Array.from({ length: 10 }, () => connect(shared)))
      answers.push(...(await Promise.all(clients.map((client) => text(client)))))
    }
    assert.equal(answers.filter((answer) => answer === 'ours').length, taken)
    assert.equal(answers.filter((answer) => answer === 'other').length, 200 - taken)
    await shared.close()
    await serving
  })
})

/** Runs `script` in Python, which can do what a shell cannot, and executes the fixture from it. Returns its report. */
function python(
  script: readonly string[],
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  fds: readonly number[] = [],
): Promise<Report> {
  return printed(
    ours(
      spawn('python3', ['-c', script.join('\n'), ...args], {
        stdio: ['ignore', 'pipe', 'pipe', ...fds],
        env: plainEnvironment(env),
      }),
    ),
  )
}
