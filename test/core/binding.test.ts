import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { binding } from '../../src/core/binding.js'
import { cleanUp, runNode, temporaryDirectory } from '../helpers.js'
import { needsStrace } from '../needs.js'

describe('The raw binding', () => {
  // A new seed in each run, and two fixed seeds.
  for (const seed of [1, 2, Math.floor(Math.random() * 2 ** 32)]) {
    it(`survives hundreds of invalid calls (seed ${seed})`, async () => {
      const { code, signal, stdout, stderr } = await runNode('wrong-calls.mjs', [String(seed)])
      assert.deepEqual({ code, signal }, { code: 0, signal: null }, `seed ${seed}\n${stderr}`)
      const { calls, thrown, uncaught, delivered } = JSON.parse(stdout)
      assert.ok(calls > 500, `${calls} calls`)
      assert.ok(thrown > 100, `${thrown} of them refused`)
      assert.ok(delivered >= 15, `${delivered} deliveries`)
      assert.equal(uncaught, 3, 'each exception of the callback is uncaught')
    })
  }

  it('cancels no request for a negative ref', () => {
    const { AF_UNIX, SOCK_STREAM } = binding.constants as { AF_UNIX: number; SOCK_STREAM: number }
    const fd = binding.socket(AF_UNIX, SOCK_STREAM)
    binding.bindPath(fd, `\0${temporaryDirectory()}`)
    binding.listen(fd, 1)
    const handle = new binding.ListenerHandle()
    assert.ok(handle.open(fd, 1, false) > 0)
    cleanUp(() => handle.close())
    // The last one is the last bit of the first word of the queue.
    for (let ref = 1; ref < 64; ref++) assert.equal(handle.ask(-1), ref)
    assert.deepEqual(
      [-1, -63, -64, 63].map((ref) => handle.cancel(ref)),
      [false, false, false, true],
    )
  })

  it('stops watching an fd when a listener takes ownership', () => {
    const { AF_UNIX, SOCK_STREAM } = binding.constants as { AF_UNIX: number; SOCK_STREAM: number }
    const fd = binding.socket(AF_UNIX, SOCK_STREAM)
    binding.bindPath(fd, `\0${temporaryDirectory()}`)
    binding.listen(fd, 1)
    assert.equal(binding.watch(fd, false), 0)
    const handle = new binding.ListenerHandle()
    assert.ok(handle.open(fd, 1, false) > 0)
    cleanUp(() => handle.close())
    assert.equal(binding.unwatch(fd), -constants.errno.ENOENT)
  })

  it('rejects an address with a NUL byte', () => {
    const { AF_INET, SOCK_STREAM } = binding.constants as { AF_INET: number; SOCK_STREAM: number }
    const fd = binding.socket(AF_INET, SOCK_STREAM)
    cleanUp(() => binding.close(fd))
    const bind = (address: string) => binding.bindIp(fd, address, 0)
    assert.deepEqual(
      [bind('127.0.0.1\0.example.com'), bind('::1\0')],
      [-constants.errno.EINVAL, -constants.errno.EINVAL],
    )
    assert.equal(bind('127.0.0.1'), 0)
  })

  it('closes only open fds when the process exits with open listeners', async function () {
    needsStrace(this)
    const trace = join(temporaryDirectory(), 'trace')
    // With MALLOC_PERTURB_, an fd that is read from freed memory is a number that is not open.
    const command = ['env', 'MALLOC_PERTURB_=90', 'strace', '-f', '-qq', '-e', 'trace=close', '-o', trace]
    const { code, stderr } = await runNode('left-open.mjs', [], command)
    assert.equal(code, 0, stderr)
    const calls = readFileSync(trace, 'utf8').split('\n')
    assert.ok(calls.length > 1)
    assert.deepEqual(
      calls.filter((call) => call.includes('EBADF')),
      [],
    )
  })
})
