import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync, existsSync, lstatSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Worker } from 'node:worker_threads'
import { FdChannel, Listener, serve, spawnActivated } from '../../src/index.js'
import { ours } from '../activated.js'
import { cleanUp, listen, openFds, runNode, startNode, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsStrace } from '../needs.js'
import { takeWarnings, untilCollected, type Warning } from '../warnings.js'

const newPath = () => join(temporaryDirectory(), 'socket')

/** Starts a child that has the listener until end(). */
function sharer(listener: Listener) {
  const child = ours(spawnActivated('cat', [], { listener }, { stdio: ['pipe', 'ignore', 'inherit'] }))
  return {
    async end() {
      const exited = once(child, 'exit')
      child.stdin?.end()
      await exited
    },
  }
}

/** Starts a thread that has a duplicate of the listener until end(). */
async function sharingThread(listener: Listener) {
  const program = `import('${new URL('../../dist/index.js', import.meta.url)}').then(({ Listener }) => {
    const { parentPort, workerData } = require('node:worker_threads')
    const copy = Listener.fromFd(workerData, { dup: true })
    parentPort.once('message', () => copy.close())
    parentPort.postMessage('up')
  })`
  const worker = new Worker(program, { eval: true, workerData: listener.fd })
  cleanUp(() => worker.terminate())
  await once(worker, 'message')
  return {
    async end() {
      const exited = once(worker, 'exit')
      worker.postMessage('close')
      await exited
    },
  }
}

describe('The path of a listener', () => {
  leaveNoFds()

  /** Whether the path is left after test/fixtures/path-ends.mjs exits. Calls `meanwhile` while it listens. */
  async function left(words: readonly string[], meanwhile: (path: string) => unknown = () => {}): Promise<boolean> {
    const path = newPath()
    const [ending = '', ...more] = words
    const child = startNode('path-ends.mjs', [ending, path, ...more])
    const closed = once(child, 'close')
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    assert.ok(lstatSync(path).isSocket())
    await meanwhile(path)
    child.stdin?.write('\n')
    await closed
    return existsSync(path)
  }

  for (const ending of ['terminate', 'exit', 'throw', 'reject', 'idle']) {
    it(`is removed at the end of its thread, as with net.Server: ${ending}`, async () => {
      assert.equal(await left([ending, 'thread', 'net']), false)
      assert.equal(await left([ending, 'thread']), false)
    })
  }

  for (const ending of ['exit', 'throw', 'reject', 'idle']) {
    it(`stays or is removed at the end of the process, as with net.Server: ${ending}`, async () => {
      assert.equal(await left([ending]), await left([ending, 'net']))
    })
  }

  it('stays at the end of a thread when another file has replaced it', async () => {
    const replace = async (path: string) => {
      unlinkSync(path)
      const server = net.createServer().listen(path)
      cleanUp(() => server.close())
      await once(server, 'listening')
    }
    const overwrite = (path: string) => {
      unlinkSync(path)
      writeFileSync(path, 'file')
    }
    assert.equal(await left(['terminate', 'thread'], replace), true)
    assert.equal(await left(['terminate', 'thread'], (path) => renameSync(path, `${path}.moved`)), false)
    assert.equal(await left(['terminate', 'thread'], overwrite), true)
  })

  it('is removed when a thread is terminated while it opens and closes listeners', async function () {
    this.timeout(120_000)
    const path = newPath()
    const program = `import('${new URL('../../dist/index.js', import.meta.url)}').then(async ({ Listener }) => {
      for (;;) await (await Listener.listen({ path: require('node:worker_threads').workerData })).close()
    })`
    for (let round = 0; round < 15; round++) {
      const worker = new Worker(program, { eval: true, workerData: path })
      await until(() => existsSync(path))
      // At a different point in each round.
      for (let turn = 0; turn < round; turn++) await new Promise(setImmediate)
      await worker.terminate()
      assert.equal(existsSync(path), false)
    }
  })

  it('is removed with a warning when its Listener is garbage collected', async () => {
    const warnings = takeWarnings()
    const path = newPath()
    const forget = async () => void (await Listener.listen({ path }))
    await forget()
    await untilCollected(() => !existsSync(path) && warnings.length > 0)
    const { code, message } = warnings[0] as Warning
    assert.equal(code, 'ASYNC_ACCEPT_UNCLOSED_LISTENER')
    assert.ok(message.includes(path), message)
  })

  const sharings = { 'a child process': sharer, 'another thread': sharingThread }
  for (const [holder, share] of Object.entries(sharings)) {
    it(`stays while ${holder} has the socket, and is removed otherwise`, async () => {
      const [path, other] = [newPath(), newPath()]
      const listener = await listen({ path })
      const has = await share(listener)
      await listener.close()
      assert.ok(existsSync(path))
      // The socket still has a listener.
      const client = net.connect(path)
      await once(client, 'connect')
      client.on('error', () => {}).destroy()
      await has.end()

      const second = await listen({ path: other })
      await (await share(second)).end()
      await second.close()
      assert.equal(existsSync(other), false)
    })
  }

  it('stays at serving.drain({ closeListener: true }) while a child has the socket', async () => {
    const path = newPath()
    const listener = await listen({ path })
    const serving = serve(listener, net.createServer())
    const child = sharer(listener)
    await serving.drain({ closeListener: true })
    assert.ok(existsSync(path))
    await child.end()
  })

  it('stays while the socket is in transit to another process', async () => {
    const path = newPath()
    const listener = await listen({ path })
    const { channel, fd } = FdChannel.pair()
    const other = FdChannel.fromFd(fd)
    cleanUp(() => {
      channel.close()
      other.close()
    })
    await channel.send('take this', [listener.fd])
    await listener.close()
    assert.ok(existsSync(path))
    const { value } = await other[Symbol.asyncIterator]().next()
    const heir = Listener.fromFd(value.fds[0].detach())
    cleanUp(() => heir.close())
    const client = net.connect(path)
    const connection = await heir.accept()
    connection.toSocket().end('served by the heir')
    assert.equal(await text(client), 'served by the heir')
  })

  it('stays after detach()', async () => {
    const path = newPath()
    const listener = await listen({ path })
    closeSync(listener.detach())
    assert.ok(existsSync(path))
  })

  it('is removed only by its own listener when fd numbers are reused', async () => {
    const [first, second] = [newPath(), newPath()]
    const listener = await listen({ path: first })
    const { fd } = listener
    closeSync(listener.detach())
    const other = await listen({ path: second })
    assert.equal(other.fd, fd)
    await other.close()
    assert.deepEqual([existsSync(first), existsSync(second)], [true, false])
  })

  it('is removed at the fd limit', async () => {
    const path = newPath()
    const { stdout, stderr } = await runNode('path-at-limit.mjs', [path], ['prlimit', '--nofile=64'])
    assert.deepEqual([stderr, stdout.trim()], ['', 'false'])
  })

  it('stays if the socket was passed on and the kernel cannot be asked, and is removed otherwise', async function () {
    needsStrace(this)
    // Only the addon calls connect(2) and recvfrom(2) in this process, to ask whether another process has the socket.
    for (const [words, stays] of [
      [[], 'false'],
      [['passed'], 'true'],
    ] as const) {
      const path = newPath()
      const trace = ['strace', '-f', '-qq', '--seccomp-bpf', '-o', '/dev/null', '-e', 'trace=connect,recvfrom']
      const inject = ['-e', 'inject=connect,recvfrom:error=EPERM']
      const { stdout, stderr } = await runNode('path-closes.mjs', [path, ...words], [...trace, ...inject])
      assert.deepEqual([stderr, stdout.trim()], ['', stays])
    }
  })

  it('is removed without sock_diag, which would search all unix sockets of the system', async function () {
    needsStrace(this)
    const log = join(temporaryDirectory(), 'log')
    const trace = ['strace', '-f', '-qq', '-o', log, '-e', 'trace=socket']
    const { stdout, stderr } = await runNode('path-closes.mjs', [newPath()], trace)
    assert.deepEqual([stderr, stdout.trim()], ['', 'false'])
    assert.doesNotMatch(readFileSync(log, 'utf8'), /AF_NETLINK/)
  })

  it('is removed with sock_diag if connect(2) is not permitted', async function () {
    needsStrace(this)
    const trace = ['strace', '-f', '-qq', '--seccomp-bpf', '-o', '/dev/null', '-e', 'trace=connect']
    const inject = ['-e', 'inject=connect:error=EACCES']
    const { stdout, stderr } = await runNode('path-closes.mjs', [newPath(), 'passed'], [...trace, ...inject])
    assert.deepEqual([stderr, stdout.trim()], ['', 'false'])
  })

  it('uses no fd after close()', async () => {
    const before = openFds().length
    const listener = await listen({ path: newPath() })
    assert.equal(openFds().length, before + 1)
    await listener.close()
    assert.equal(openFds().length, before)
  })
})
