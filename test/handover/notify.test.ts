import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type Notification, notify, notifyBarrier, removeFds, storeFds, watchdog } from '../../src/index.js'
import { cleanUp, codeOf, flagsOf, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { path, serviceManager, setVariable } from './notified.js'

const inode = (fd: number) => `socket:[${/^ino:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1]}]`

beforeEach(() => {
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) setVariable(name, undefined)
})

describe('notify', () => {
  leaveNoFds()

  it('returns false without a service manager, as do the related functions', async () => {
    assert.equal(notify({ ready: true }), false)
    assert.equal(await notifyBarrier(), false)
    assert.equal(storeFds('name', [0]), false)
    assert.equal(removeFds('name'), false)
    assert.equal(watchdog(), false)
  })

  const texts: [Notification, string][] = [
    [{ ready: true }, 'READY=1'],
    [{ stopping: true }, 'STOPPING=1'],
    [{ status: 'päusing = "long"' }, 'STATUS=päusing = "long"'],
    [{ status: '' }, 'STATUS='],
    [{ errno: 98 }, 'ERRNO=98'],
    [{ mainPid: 4711 }, 'MAINPID=4711'],
    [{ watchdog: true }, 'WATCHDOG=1'],
    [{ watchdog: 'trigger' }, 'WATCHDOG=trigger'],
    [{ watchdogUsec: 20_000_000 }, 'WATCHDOG_USEC=20000000'],
    [{ extendTimeoutUsec: 90_000_000 }, 'EXTEND_TIMEOUT_USEC=90000000'],
    [{ ready: true, status: 'up', mainPid: 1 }, 'READY=1\nSTATUS=up\nMAINPID=1'],
    [{ ready: false, status: 'not yet', stopping: undefined, watchdog: false }, 'STATUS=not yet'],
  ]

  it('sends each field as specified in sd_notify(3)', async () => {
    const manager = await serviceManager(path())
    for (const [i, [state]] of texts.entries()) {
      assert.equal(notify(state), true)
      // The kernel queues only about ten datagrams (net.unix.max_dgram_qlen).
      await manager.got(i + 1)
    }
    assert.deepEqual(
      await manager.got(texts.length),
      texts.map(([, text]) => ({ text, fds: [] })),
    )
  })

  it('sends to an abstract address', async () => {
    const manager = await serviceManager(`@${path()}`)
    assert.equal(notify({ ready: true }), true)
    assert.equal((await manager.got())[0]?.text, 'READY=1')
  })

  it('sends nothing for an empty state', async () => {
    const manager = await serviceManager(path())
    assert.equal(notify({}), true)
    assert.equal(notify({ ready: false }), true)
    assert.equal(notify({ status: 'the first' }), true)
    assert.equal((await manager.got())[0]?.text, 'STATUS=the first')
  })

  it('sends the monotonic time with RELOADING=1', async () => {
    const manager = await serviceManager(path())
    const uptime = () => Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1e6
    const before = uptime()
    notify({ reloading: true })
    const after = uptime()
    const [, usec] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec((await manager.got())[0]?.text as string) ?? []
    // /proc/uptime has a resolution of 10 ms, and rounds down.
    assert.ok(Number(usec) >= before - 10_000 && Number(usec) <= after + 20_000, `${before} ${usec} ${after}`)
  })

  it('rejects invalid values, and sends no part of the state', async () => {
    const manager = await serviceManager(path())
    const wrong: [unknown, string][] = [
      [undefined, 'ERR_INVALID_ARG_TYPE'],
      ['READY=1', 'ERR_INVALID_ARG_TYPE'],
      [{ ready: 1 }, 'ERR_INVALID_ARG_TYPE'],
      [{ Ready: true }, 'ERR_INVALID_ARG_VALUE'],
      [{ toString: true }, 'ERR_INVALID_ARG_VALUE'],
      [{ status: 1 }, 'ERR_INVALID_ARG_TYPE'],
      [{ status: 'up\nMAINPID=1' }, 'ERR_INVALID_ARG_VALUE'],
      [{ status: 'up\0' }, 'ERR_INVALID_ARG_VALUE'],
      [{ errno: -98 }, 'ERR_OUT_OF_RANGE'],
      [{ errno: 'EADDRINUSE' }, 'ERR_INVALID_ARG_TYPE'],
      [{ mainPid: 0 }, 'ERR_OUT_OF_RANGE'],
      [{ mainPid: 2 ** 31 }, 'ERR_OUT_OF_RANGE'],
      [{ watchdog: 'bark' }, 'ERR_INVALID_ARG_TYPE'],
      [{ watchdogUsec: 1.5 }, 'ERR_OUT_OF_RANGE'],
      [{ extendTimeoutUsec: -1 }, 'ERR_OUT_OF_RANGE'],
      [{ ready: true, extendTimeoutUsec: Number.POSITIVE_INFINITY }, 'ERR_OUT_OF_RANGE'],
    ]
    for (const [state, code] of wrong) assert.throws(() => notify(state as Notification), { code })
    notify({ ready: true })
    assert.deepEqual(
      (await manager.got()).map(({ text }) => text),
      ['READY=1'],
    )
  })

  for (const address of ['vsock:2:1234', 'relative', '@', '/', ' /run/notify', 'unix:/run/notify']) {
    it(`rejects ${JSON.stringify(address)} as the address of a service manager`, async () => {
      setVariable('NOTIFY_SOCKET', address)
      setVariable('WATCHDOG_USEC', '1000000')
      for (const call of [
        () => notify({ ready: true }),
        () => storeFds('name', [0]),
        () => removeFds('name'),
        watchdog,
      ]) {
        assert.throws(call, { code: 'ERR_NOTIFY_SOCKET' })
      }
      await assert.rejects(notifyBarrier(), { code: 'ERR_NOTIFY_SOCKET' })
    })
  }

  it('throws ENOENT when the socket does not exist, and leaves no fd open', async () => {
    const address = path()
    setVariable('NOTIFY_SOCKET', address)
    const error = { code: 'ENOENT', syscall: 'sendmsg', path: address }
    assert.throws(() => notify({ ready: true }), error)
    assert.throws(() => storeFds('name', [0]), error)
    await assert.rejects(notifyBarrier(), error)
  })

  it('throws ECONNREFUSED when the service manager has exited', async () => {
    const { child } = await serviceManager(path())
    child.kill('SIGKILL')
    await once(child, 'exit')
    assert.throws(() => notify({ ready: true }), { code: 'ECONNREFUSED' })
  })

  it('throws ENAMETOOLONG when the address is too long', () => {
    setVariable('NOTIFY_SOCKET', `/${'n'.repeat(200)}`)
    assert.throws(() => notify({ ready: true }), { code: 'ENAMETOOLONG' })
  })

  it('throws EAGAIN instead of blocking when the service manager does not read', async () => {
    await serviceManager(path(), 'mute')
    const fill = () => {
      for (;;) notify({ status: 'still here' })
    }
    assert.throws(fill, { code: 'EAGAIN', syscall: 'sendmsg' })
    await assert.rejects(notifyBarrier(), { code: 'EAGAIN' })
  })
})

describe('The fd store', () => {
  leaveNoFds()

  it('receives copies of the fds with their name', async () => {
    const manager = await serviceManager(path())
    const listeners = [await listen(), await listen()]
    const fds = listeners.map(({ fd }) => fd)
    assert.equal(storeFds('web', fds), true)
    assert.deepEqual(await manager.got(), [{ text: 'FDSTORE=1\nFDNAME=web', fds: fds.map(inode) }])
    for (const fd of fds) assert.notEqual(flagsOf(fd), undefined)
  })

  it('receives any number of fds, in several messages', async () => {
    const manager = await serviceManager(path())
    const { fd } = await listen()
    assert.equal(storeFds('many', Array(600).fill(fd)), true)
    assert.deepEqual(
      (await manager.got(3)).map(({ fds }) => fds.length),
      [253, 253, 94],
    )
  })

  it('removes the fds of a name on request', async () => {
    const manager = await serviceManager(path())
    assert.equal(removeFds('web'), true)
    assert.deepEqual(await manager.got(), [{ text: 'FDSTOREREMOVE=1\nFDNAME=web', fds: [] }])
  })

  it('throws EBADF for an fd that is not open', async () => {
    await serviceManager(path())
    const fd = await closedFd()
    assert.throws(() => storeFds('web', [fd]), { code: 'EBADF', syscall: 'fcntl' })
  })

  it('rejects invalid names and fds', () => {
    for (const name of ['', 'a:b', 'a\nb', 'é', 'n'.repeat(256)]) {
      for (const call of [() => storeFds(name, [0]), () => removeFds(name)]) {
        assert.throws(call, { code: 'ERR_INVALID_ARG_VALUE' })
      }
    }
    for (const name of [undefined, 1] as never[]) assert.throws(() => removeFds(name), { code: 'ERR_INVALID_ARG_TYPE' })
    for (const fds of [undefined, [], 3, ['3']] as never[]) {
      assert.throws(() => storeFds('web', fds), { code: 'ERR_INVALID_ARG_TYPE' })
    }
    assert.throws(() => storeFds('web', [-1]), { code: 'ERR_OUT_OF_RANGE' })
  })
})

async function closedFd(): Promise<number> {
  const listener = await listen()
  const { fd } = listener
  await listener.close()
  return fd
}

describe('watchdog', () => {
  leaveNoFds()

  /** Starts a watchdog with a timeout of `ms`. */
  function watched(ms: number, pid = process.pid): () => void {
    setVariable('WATCHDOG_USEC', String(ms * 1000))
    setVariable('WATCHDOG_PID', String(pid))
    const end = watchdog()
    if (end === false) assert.fail('watchdog() returned false')
    cleanUp(end)
    return end
  }

  it('notifies at once, and then periodically', async () => {
    const manager = await serviceManager(path())
    watched(20)
    const pings = await manager.got(5)
    assert.deepEqual(
      pings.map(({ text }) => text),
      pings.map(() => 'WATCHDOG=1'),
    )
  })

  it('notifies at half the timeout', async () => {
    await serviceManager(path())
    const intervals: number[] = []
    const { setInterval } = globalThis
    cleanUp(() => Object.assign(globalThis, { setInterval }))
    const noted = (run: () => void, ms: number) => {
      intervals.push(ms)
      return setInterval(run, ms)
    }
    Object.assign(globalThis, { setInterval: noted })
    for (const ms of [3000, 0.001, 1e12]) watched(ms)
    assert.deepEqual(intervals, [1500, 1, 2 ** 31 - 1])
  })

  it('stops when its function is called', async () => {
    const manager = await serviceManager(path())
    const end = watched(2)
    end()
    // A timer with the same interval that starts later fires after it each time.
    let fired = 0
    const timer = setInterval(() => fired++, 1)
    cleanUp(() => clearInterval(timer))
    await until(() => fired >= 5)
    notify({ status: 'the end' })
    await until(() => manager.received().at(-1)?.text === 'STATUS=the end')
    assert.equal(manager.received().length, 2)
    end()
  })

  it('continues with a warning when the service manager is blocked or has exited', async () => {
    const { child } = await serviceManager(path())
    const warnings: Error[] = []
    const others = process.listeners('warning')
    process.removeAllListeners('warning').on('warning', (warning) => warnings.push(warning))
    cleanUp(() => {
      process.removeAllListeners('warning')
      for (const other of others) process.on('warning', other)
    })
    watched(2)
    // The queue of the stopped service manager fills up.
    child.kill('SIGSTOP')
    await until(() => warnings.length > 1)
    for (const warning of warnings) assert.equal(codeOf(warning), 'EAGAIN')
    child.kill('SIGKILL')
    await once(child, 'exit')
    warnings.length = 0
    await until(() => warnings.length > 1)
    for (const warning of warnings) assert.equal(codeOf(warning), 'ECONNREFUSED')
  })

  it('ignores a WATCHDOG_PID of another process', async () => {
    await serviceManager(path())
    setVariable('WATCHDOG_USEC', '1000000')
    setVariable('WATCHDOG_PID', String(process.ppid))
    assert.equal(watchdog(), false)
  })

  it('does not require WATCHDOG_PID', async () => {
    const manager = await serviceManager(path())
    setVariable('WATCHDOG_USEC', '1000000')
    const end = watchdog()
    if (end === false) assert.fail('watchdog() returned false')
    end()
    assert.equal((await manager.got())[0]?.text, 'WATCHDOG=1')
  })

  for (const usec of ['', '0', '-1', '1s', '1.5', '99999999999999999']) {
    it(`rejects a timeout of ${JSON.stringify(usec)}`, async () => {
      setVariable('NOTIFY_SOCKET', '/nobody')
      setVariable('WATCHDOG_USEC', usec)
      assert.throws(() => watchdog(), { code: 'ERR_ACTIVATION' })
    })
  }
})
