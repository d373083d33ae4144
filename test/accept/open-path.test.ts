import assert from 'node:assert/strict'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import net from 'node:net'
import { basename, dirname, join } from 'node:path'
import { binding } from '../../src/core/binding.js'
import { Listener, type ListenOptions, type SystemError } from '../../src/index.js'
import { cleanUp, connect, listen, openFds, runNode, temporaryDirectory, until } from '../helpers.js'
import { needsStrace } from '../needs.js'

const newPath = () => join(temporaryDirectory(), 'socket')

async function refusal(options: ListenOptions): Promise<SystemError> {
  const before = openFds().length
  const error = await Listener.listen(options).then(
    (listener) => listener.close().then(() => undefined),
    (error) => error,
  )
  // The client of an earlier step, and a connection to a live listener at the path, may still be closing.
  await until(() => openFds().length <= before)
  return error
}

/** Leaves a socket without a listener, as a crashed process does. */
async function leaveStale(path: string): Promise<void> {
  closeSync((await Listener.listen({ path })).detach())
  assert.ok(lstatSync(path).isSocket())
}

/** Asserts that a client that connects to `path` reaches this listener. */
async function serves(listener: Listener, path: string): Promise<void> {
  const client = net.connect({ path })
  cleanUp(() => client.destroy())
  await once(client, 'connect')
  const connection = await listener.accept()
  connection.toSocket().end('served')
  assert.equal(String((await once(client, 'data'))[0]), 'served')
}

describe('Listener.listen on a path', () => {
  it('listens on the path, which address() returns', async () => {
    const path = newPath()
    const listener = await listen({ path })
    assert.equal(listener.address(), path)
    await serves(listener, path)
  })

  it('makes no file for an abstract name, and releases the name on close', async () => {
    // As long as possible: Node 20's client pads a shorter name with '\0', and so connects to another name.
    const path = `\0async-accept-${process.pid}`.padEnd(108, '-')
    const listener = await Listener.listen({ path })
    assert.equal(listener.address(), path)
    await serves(listener, path)
    const { code, message } = await refusal({ path })
    assert.deepEqual([code, message], ['EADDRINUSE', `bind EADDRINUSE: address already in use @${path.slice(1)}`])
    await listener.close()
    await serves(await listen({ path }), path)
  })

  it('rejects a path that is too long for a socket address', async () => {
    const longest = join('/', 'x'.repeat(106))
    for (const path of [`${longest}x`, `\0${'x'.repeat(108)}`]) {
      const error = await refusal({ path })
      assert.deepEqual([error.code, error.syscall, error.path], ['ENAMETOOLONG', 'bind', path])
    }
  })

  it('accepts the longest path and the longest abstract name', async () => {
    const directory = temporaryDirectory()
    const paths = [join(directory, 'x'.repeat(107 - 1 - directory.length)), `\0${process.pid}`.padEnd(108, 'x')]
    for (const path of paths) {
      const listener = await listen({ path })
      assert.equal(listener.address(), path)
      await connect(listener)
      await listener.close()
      assert.equal(existsSync(path.replace('\0', '/')), false)
    }
  })

  it('accepts a path with multibyte characters', async () => {
    const path = join(temporaryDirectory(), 'größer-☃')
    const listener = await listen({ path })
    assert.equal(listener.address(), path)
    await serves(listener, path)
  })

  it('rejects with the path when the directory does not exist', async () => {
    const path = join(temporaryDirectory(), 'missing', 'socket')
    const error = await refusal({ path })
    assert.deepEqual([error.code, error.syscall, error.path, error.address], ['ENOENT', 'bind', path, path])
  })

  it('rejects a path together with a port or a host', async () => {
    const path = newPath()
    assert.equal((await refusal({ path, port: 0 })).code, 'ERR_INVALID_ARG_VALUE')
    assert.equal((await refusal({ path, host: '127.0.0.1' })).code, 'ERR_INVALID_ARG_VALUE')
    assert.equal(existsSync(path), false)
  })

  it('limits the backlog', async () => {
    const listener = await listen({ path: newPath(), backlog: 3 })
    assert.equal(listener.backlog().limit, 3)
  })

  describe('mode', () => {
    it('is the mode of the path regardless of the umask', async () => {
      const before = process.umask(0o077)
      cleanUp(() => process.umask(before))
      for (const mode of [0o600, 0o660, 0o777, 0]) {
        const path = newPath()
        await listen({ path, mode })
        assert.equal(statSync(path).mode & 0o777, mode)
      }
    })

    it('defaults to the mode that the umask leaves', async () => {
      const before = process.umask(0o027)
      cleanUp(() => process.umask(before))
      const path = newPath()
      await listen({ path })
      assert.equal(statSync(path).mode & 0o777, 0o750)
    })

    it('applies before the first client can connect', async function () {
      const path = newPath()
      const log = join(dirname(path), 'log')
      needsStrace(this)
      const trace = ['strace', '-f', '-qq', '-o', log, '-e', 'trace=bind,/^f?chmod,listen']
      const { code } = await runNode('opening.mjs', [JSON.stringify({ path, mode: 0o600 })], trace)
      assert.equal(code, 0)
      const calls = readFileSync(log, 'utf8')
        .split('\n')
        .map((line) => /^\d+\s+(bind|f?chmod(?:at2?)?|listen)\(/.exec(line)?.[1]?.replace(/^fchmodat2?$/, 'chmod'))
        .filter((call) => call !== undefined)
      assert.deepEqual(calls, ['bind', 'chmod', 'listen'])
      assert.match(readFileSync(log, 'utf8'), /chmod(?:at2?)?\(.*0600\b/)
    })

    it('is rejected for an abstract name, which has no permissions', async () => {
      const error = await refusal({ path: `\0async-accept-${process.pid}`, mode: 0o600 })
      assert.equal(error.code, 'ERR_INVALID_ARG_VALUE')
    })
  })

  describe('when the path exists', () => {
    it('rejects with EADDRINUSE, even when the socket has no listener', async () => {
      const path = newPath()
      await leaveStale(path)
      const error = await refusal({ path })
      const { code, syscall, address } = error
      assert.deepEqual([code, syscall, error.path, address], ['EADDRINUSE', 'bind', path, path])
      assert.ok(lstatSync(path).isSocket())
    })

    it('replaces a socket without a listener, with unlinkStale', async () => {
      const path = newPath()
      await leaveStale(path)
      const listener = await listen({ path, unlinkStale: true, mode: 0o600 })
      assert.equal(statSync(path).mode & 0o777, 0o600)
      await serves(listener, path)
      await listener.close()
      assert.equal(existsSync(path), false)
    })

    it('does not need an existing socket with unlinkStale', async () => {
      const path = newPath()
      await serves(await listen({ path, unlinkStale: true }), path)
    })

    it('never replaces a file that is not a socket', async () => {
      const path = newPath()
      writeFileSync(path, 'content')
      assert.equal((await refusal({ path, unlinkStale: true })).code, 'EADDRINUSE')
      assert.equal(readFileSync(path, 'utf8'), 'content')

      const directory = newPath()
      mkdirSync(directory)
      assert.equal((await refusal({ path: directory, unlinkStale: true })).code, 'EADDRINUSE')
      assert.ok(statSync(directory).isDirectory())

      const target = newPath()
      await leaveStale(target)
      const link = newPath()
      symlinkSync(target, link)
      assert.equal((await refusal({ path: link, unlinkStale: true })).code, 'EADDRINUSE')
      assert.ok(lstatSync(link).isSymbolicLink() && lstatSync(target).isSocket())
    })

    it('neither replaces nor disturbs a live listener', async () => {
      const path = newPath()
      const live = net.createServer((socket) => socket.on('error', () => {}).end('alive')).listen(path)
      await once(live, 'listening')
      cleanUp(() => live.close())
      const { ino } = lstatSync(path)
      for (let i = 0; i < 3; i++) {
        const error = await refusal({ path, unlinkStale: true })
        assert.deepEqual([error.code, error.path], ['EADDRINUSE', path])
        const client = net.connect(path)
        assert.equal(String((await once(client, 'data'))[0]), 'alive')
        client.destroy()
      }
      assert.equal(lstatSync(path).ino, ino)
    })

    it('does not mistake a listener with a full backlog for a stale socket', async () => {
      const path = newPath()
      const live = await listen({ path, backlog: 0 })
      await connect(live)
      assert.equal(live.backlog().queued, 1)
      assert.equal((await refusal({ path, unlinkStale: true })).code, 'EADDRINUSE')
      const first = await live.accept()
      first.close()
      await serves(live, path)
    })

    it('does not mistake a listener of another socket type for a stale socket', async () => {
      const path = newPath()
      const { AF_UNIX, SOCK_SEQPACKET } = binding.constants
      const fd = binding.socket(AF_UNIX as number, SOCK_SEQPACKET as number)
      cleanUp(() => binding.close(fd))
      assert.equal(binding.bindPath(fd, path), 0)
      assert.equal(binding.listen(fd, 1), 0)
      assert.equal((await refusal({ path, unlinkStale: true })).code, 'EADDRINUSE')
      assert.ok(lstatSync(path).isSocket())
    })
  })
})

describe('The path that Listener.listen creates', () => {
  it('is removed before close() returns', async () => {
    const path = newPath()
    const listener = await Listener.listen({ path })
    const closing = listener.close()
    assert.equal(existsSync(path), false)
    await closing
    await listener.close()
  })

  it('stays when a listener that took over the fd closes', async () => {
    const path = newPath()
    const fd = (await Listener.listen({ path })).detach()
    assert.ok(existsSync(path))
    const copy = Listener.fromFd(fd, { dup: true })
    await copy.close()
    assert.ok(existsSync(path))
    const inheritor = Listener.fromFd(fd)
    assert.equal(inheritor.address(), path)
    await serves(inheritor, path)
    await inheritor.close()
    assert.ok(existsSync(path))
  })

  it('stays when another socket has replaced it', async () => {
    const path = newPath()
    const first = await Listener.listen({ path })
    unlinkSync(path)
    const second = await listen({ path })
    await first.close()
    await serves(second, path)
  })

  it('stays when it was moved or replaced by a file', async () => {
    const path = newPath()
    const replaced = await Listener.listen({ path })
    renameSync(path, `${path}.moved`)
    writeFileSync(path, 'content')
    await replaced.close()
    assert.equal(readFileSync(path, 'utf8'), 'content')
    assert.ok(lstatSync(`${path}.moved`).isSocket())
  })

  it('may already be removed', async () => {
    const path = newPath()
    const listener = await Listener.listen({ path })
    unlinkSync(path)
    await listener.close()
  })

  it('is removed after a change of the working directory', async () => {
    const path = newPath()
    const before = process.cwd()
    cleanUp(() => process.chdir(before))
    process.chdir(dirname(path))
    const listener = await Listener.listen({ path: basename(path) })
    assert.equal(listener.address(), basename(path))
    process.chdir('/')
    assert.ok(existsSync(path))
    await listener.close()
    assert.equal(existsSync(path), false)
  })

  it('is removed when listen() fails', async function () {
    const path = newPath()
    needsStrace(this)
    // strace makes listen(2) fail, after bind(2) has created the path.
    const failing = ['strace', '-f', '-qq', '--seccomp-bpf', '-o', '/dev/null', '-e', 'trace=listen']
    const inject = ['-e', 'inject=listen:error=EADDRINUSE']
    const { stdout, stderr } = await runNode('opening.mjs', [JSON.stringify({ path })], [...failing, ...inject])
    assert.deepEqual([stderr, JSON.parse(stdout)], ['', { code: 'EADDRINUSE', syscall: 'listen' }])
    assert.equal(existsSync(path), false)
  })

  it('does not prevent close() from rejecting pending requests when it cannot be removed', async () => {
    const path = newPath()
    chmodSync(dirname(path), 0o755)
    const { code, stdout, stderr } = await runNode('close-without-right.mjs', [path])
    assert.equal(code, 0, stderr)
    assert.deepEqual(JSON.parse(stdout), { pending: 'ERR_LISTENER_CLOSED', fd: -1, warning: 'EACCES' })
    assert.ok(existsSync(path))
  })
})
