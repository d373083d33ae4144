import assert from 'node:assert/strict'
import { join } from 'node:path'
import { binding } from '../../src/core/binding.js'
import { notify } from '../../src/index.js'
import { cleanUp, runNode, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

describe('notify with unsetEnvironment', () => {
  leaveNoFds()

  it('removes the variables from the environment of children, and keeps notifying', async () => {
    const path = join(temporaryDirectory(), 'notify')
    const { AF_UNIX, SOCK_DGRAM } = binding.constants as Record<string, number>
    const manager = binding.socket(AF_UNIX as number, SOCK_DGRAM as number)
    cleanUp(() => binding.close(manager))
    assert.equal(binding.bindPath(manager, path), 0)
    const env = ['env', `NOTIFY_SOCKET=${path}`, 'WATCHDOG_USEC=60000000']
    const { stdout, stderr } = await runNode('unset-notify.mjs', [], env)
    assert.equal(stderr, '')
    const none = '  '
    assert.deepEqual(stdout.split('\n'), ['true', none, 'true function', none, `${path} 60000000 `, ''])
    const read = () => String(binding.receive(manager, 1000, false))
    assert.deepEqual([read(), read(), read()], ['READY=1', 'WATCHDOG=1', 'STATUS=again'])
  })

  it('keeps the variables by default, and rejects invalid options', () => {
    process.env.NOTIFY_SOCKET = ''
    cleanUp(() => delete process.env.NOTIFY_SOCKET)
    assert.equal(notify({ ready: true }, {}), false)
    assert.equal(process.env.NOTIFY_SOCKET, '')
    assert.throws(() => notify({ ready: true }, { unsetEnvironment: 1 as never }), { code: 'ERR_INVALID_ARG_TYPE' })
    assert.throws(() => notify({ ready: true }, null as never), { code: 'ERR_INVALID_ARG_TYPE' })
  })
})
