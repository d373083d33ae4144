import assert from 'node:assert/strict'
import diagnostics from 'node:diagnostics_channel'
import { EventEmitter, once } from 'node:events'
import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import { Delivery } from '../../src/accept/delivery.js'
import { systemError } from '../../src/core/errors.js'
import type { Connection, ConnectionMessage } from '../../src/index.js'
import { cleanUp, connect, flagsOf, gone, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { takeWarnings, type Warning } from '../warnings.js'

describe("A result of asyncAccept without an 'accept' handler", () => {
  leaveNoFds()

  it('closes its connection at once, with a warning that names the addresses and the ref', async () => {
    const warnings = takeWarnings()
    const listener = await listen({ host: '127.0.0.1' })
    let fd = -1
    const see = (message: unknown) => {
      fd = (message as ConnectionMessage).connection.fd
    }
    diagnostics.subscribe('async-accept.connection', see)
    cleanUp(() => diagnostics.unsubscribe('async-accept.connection', see))
    const ref = listener.asyncAccept()
    const client = await connect(listener)
    await gone(client)
    await until(() => warnings.length > 0)
    assert.ok(fd >= 0)
    await until(() => flagsOf(fd) === undefined)
    const [{ name, code, message }] = warnings as [Warning]
    assert.equal(name, 'AsyncAcceptWarning')
    assert.equal(code, 'ASYNC_ACCEPT_NO_HANDLER')
    const parts = ["no 'accept' handler", `fd ${fd}`, `from 127.0.0.1 port ${client.localPort}`, `request ${ref}`]
    for (const part of [...parts, `accepted on 127.0.0.1 port ${client.remotePort}`]) {
      assert.ok(message.includes(part), `${part} in ${message}`)
    }
    assert.equal(warnings.length, 1)
  })

  it('leaves later results to a handler that is added then', async () => {
    const warnings = takeWarnings()
    const listener = await listen({ host: '127.0.0.1' })
    listener.asyncAccept()
    await gone(await connect(listener))
    const accepted = once(listener, 'accept')
    const ref = listener.asyncAccept()
    await connect(listener)
    const [result] = (await accepted) as [{ ref: number; connection: Connection }]
    assert.equal(result.ref, ref)
    assert.ok(result.connection.fd >= 0)
    result.connection.close()
    await until(() => warnings.length === 1)
  })

  it('leaves a connection alone that another receiver has claimed', async () => {
    const warnings = takeWarnings()
    const listener = await listen({ host: '127.0.0.1' })
    let fd = -1
    const claim = (message: unknown) => {
      fd = (message as ConnectionMessage).connection.detach()
    }
    diagnostics.subscribe('async-accept.connection', claim)
    cleanUp(() => diagnostics.unsubscribe('async-accept.connection', claim))
    listener.asyncAccept()
    await connect(listener)
    await until(() => fd >= 0)
    await listener.close()
    assert.notEqual(flagsOf(fd), undefined)
    closeSync(fd)
    assert.deepEqual(warnings, [])
  })

  it('that is a failure of accept(2) causes one warning for all requests', async () => {
    const warnings = takeWarnings()
    const delivery = new Delivery(new EventEmitter(), new Map())
    const errors = [1, 2, 3].map(() => systemError('accept4', -constants.errno.EINVAL))
    delivery.add({ refs: [1, 2, 3], connections: [], errors }, true)
    await until(() => warnings.length > 0)
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(
      warnings.map(({ code, message }) => [code, message]),
      [['EINVAL', 'accept4 EINVAL: invalid argument']],
    )
  })

  it('causes no warning after a timeout or the end of the listener', async () => {
    const warnings = takeWarnings()
    const listener = await listen({ host: '127.0.0.1' })
    listener.asyncAccept(0)
    await until(() => listener.pending === 0)
    listener.asyncAccept()
    await listener.close()
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(warnings, [])
  })
})
