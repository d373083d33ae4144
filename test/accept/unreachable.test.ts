import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import net from 'node:net'
import { Connection, Listener } from '../../src/index.js'
import { temporary } from '../descriptors.js'
import { cleanUp, codeOf, connect, flagsOf, gone, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { takeWarnings, untilCollected, type Warning } from '../warnings.js'

// The objects that the functions below create are unreachable when the functions return.

async function forgetConnection(listener: Listener) {
  const accepting = listener.accept()
  const client = await connect(listener)
  const { fd, ref } = await accepting
  return { fd, ref, client }
}

async function forgetClaimed(listener: Listener, claim: (connection: Connection) => unknown) {
  const accepting = listener.accept()
  await connect(listener)
  const connection = await accepting
  await claim(connection)
  return new WeakRef(connection)
}

async function forgetListener() {
  const listener = await Listener.listen({ host: '127.0.0.1' })
  return { fd: listener.fd, port: (listener.address() as net.AddressInfo).port }
}

describe('An unreachable Connection', () => {
  lookedBefore()
  leaveNoFds()

  it('is closed with a warning that names its addresses', async () => {
    const warnings = takeWarnings()
    const listener = await listen({ host: '127.0.0.1' })
    const { fd, ref, client } = await forgetConnection(listener)
    await untilCollected(() => warnings.length > 0)
    assert.equal(flagsOf(fd), undefined)
    await gone(client)
    const { name, code, message } = warnings[0] as Warning
    assert.equal(code, 'ASYNC_ACCEPT_UNCLAIMED_CONNECTION')
    assert.equal(name, 'AsyncAcceptWarning')
    assert.ok(message.includes(`accepted on 127.0.0.1 port ${client.remotePort}`), message)
    assert.ok(message.includes(`from 127.0.0.1 port ${client.localPort}`), message)
    assert.ok(message.includes(`fd ${fd}`), message)
    assert.ok(message.includes(`request ${ref}`), message)
    assert.equal(warnings.length, 1)
  })

  it('is reported as created by Connection.fromFd', async () => {
    const warnings = takeWarnings()
    const listener = await listen()
    await forgetClaimed(listener, (connection) => Connection.fromFd(connection.detach()).remotePort)
    await untilCollected(() => warnings.length > 0)
    assert.match((warnings[0] as Warning).message, /given to Connection\.fromFd\(\)/)
  })

  it('is not closed before a pending look-ahead ends', async () => {
    const warnings = takeWarnings()
    const listener = await listen({ host: '127.0.0.1' })
    const forgetLooking = async () => {
      const accepting = listener.accept()
      const client = await connect(listener)
      return { client, looking: (await accepting).peek(1, { timeout: -1 }) }
    }
    const { client, looking } = await forgetLooking()
    const { fd } = await forgetConnection(listener)
    await untilCollected(() => warnings.length > 0)
    assert.ok(warnings[0]?.message.includes(`fd ${fd},`), warnings[0]?.message)
    client.write('!')
    assert.equal(String(await looking), '!')
    await untilCollected(() => warnings.length > 1)
    await gone(client)
  })

  const claims: Record<string, (connection: Connection) => unknown> = {
    'was closed': (connection) => connection.close(),
    'was reset': (connection) => connection.reset(),
    'became a socket': (connection) => void temporary(connection.toSocket()),
    'was detached and taken by another Connection': (connection) => {
      const other = Connection.fromFd(connection.detach())
      cleanUp(() => other.close())
    },
  }
  for (const [state, claim] of Object.entries(claims)) {
    it(`causes no warning when it ${state}`, async () => {
      const warnings = takeWarnings()
      const listener = await listen()
      const claimed = await forgetClaimed(listener, claim)
      await untilCollected(() => claimed.deref() === undefined)
      // A connection that causes a warning, after any warning that the first one would cause.
      const { fd } = await forgetConnection(listener)
      await untilCollected(() => warnings.length > 0)
      assert.equal(warnings.length, 1)
      assert.ok((warnings[0] as Warning).message.includes(`fd ${fd}`))
    })
  }

  it('does not close a new fd with the same number', async () => {
    const warnings = takeWarnings()
    const listener = await listen()
    let number = -1
    let client: net.Socket | undefined
    const claimed = await forgetClaimed(listener, async (connection) => {
      // The client waits in the backlog, so that the next fd is its connection.
      client = await connect(listener)
      number = connection.fd
      connection.close()
    })
    using other = await listener.accept()
    assert.equal(other.fd, number)
    await untilCollected(() => claimed.deref() === undefined)
    client?.write('to the new owner')
    const [data] = await once(temporary(other.toSocket()), 'data')
    assert.equal(String(data), 'to the new owner')
    assert.deepEqual(warnings, [])
  })
})

describe('An unreachable Listener', () => {
  leaveNoFds()

  it('is closed with a warning that names its address', async () => {
    const warnings = takeWarnings()
    const { fd, port } = await forgetListener()
    await untilCollected(() => flagsOf(fd) === undefined && warnings.length > 0)
    const { name, code, message } = warnings[0] as Warning
    assert.deepEqual([name, code], ['AsyncAcceptWarning', 'ASYNC_ACCEPT_UNCLOSED_LISTENER'])
    assert.ok(message.includes(`fd ${fd}, 127.0.0.1 port ${port}`), message)
    assert.equal(warnings.length, 1)
    const client = net.connect(port, '127.0.0.1')
    const [error] = await once(client, 'error')
    assert.equal(codeOf(error), 'ECONNREFUSED')
  })

  it('causes no warning when it was closed or detached', async () => {
    const warnings = takeWarnings()
    const forget = async () => {
      const closed = await Listener.listen({ host: '127.0.0.1' })
      await closed.close()
      const detached = await Listener.listen({ host: '127.0.0.1' })
      closeSync(detached.detach())
      return [new WeakRef(closed), new WeakRef(detached)]
    }
    const forgotten = await forget()
    await untilCollected(() => forgotten.every((each) => each.deref() === undefined))
    // A listener that causes a warning, after any warnings that the others would cause.
    const { fd } = await forgetListener()
    await untilCollected(() => warnings.length > 0)
    assert.ok(warnings[0]?.message.includes(`fd ${fd},`), warnings[0]?.message)
    assert.equal(warnings.length, 1)
  })

  it('is not collected while a request is outstanding, and delivers its result', async () => {
    takeWarnings()
    const delivered: unknown[] = []
    const ask = async () => {
      const listener = await Listener.listen({ host: '127.0.0.1' })
      listener.on('accept', ({ ref, connection }) => {
        delivered.push(ref)
        connection?.close()
      })
      return { fd: listener.fd, port: (listener.address() as net.AddressInfo).port, ref: listener.asyncAccept() }
    }
    const { fd, port, ref } = await ask()
    // Meanwhile, another listener without a request is collected.
    const other = await forgetListener()
    await untilCollected(() => flagsOf(other.fd) === undefined)
    assert.notEqual(flagsOf(fd), undefined)
    const client = temporary(net.connect(port, '127.0.0.1'))
    await until(() => delivered.length === 1)
    assert.deepEqual(delivered, [ref])
    await gone(client)
    // No request is outstanding any more.
    await untilCollected(() => flagsOf(fd) === undefined)
  })

  it('fulfils its promise when only that is reachable', async () => {
    takeWarnings()
    const ask = async () => {
      const listener = await Listener.listen({ host: '127.0.0.1' })
      const { port } = listener.address() as net.AddressInfo
      return { fd: listener.fd, port, accepting: listener.accept() }
    }
    const { fd, port, accepting } = await ask()
    const other = await forgetListener()
    await untilCollected(() => flagsOf(other.fd) === undefined)
    temporary(net.connect(port, '127.0.0.1'))
    const connection = await accepting
    connection.close()
    await untilCollected(() => flagsOf(fd) === undefined)
  })
})
