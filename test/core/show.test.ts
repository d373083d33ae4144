import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import http from 'node:http'
import { type InspectOptions, inspect } from 'node:util'
import { FdChannel, serve } from '../../src/index.js'
import { temporaryChannel } from '../channels.js'
import { pair } from '../descriptors.js'
import { cleanUp, listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const shown = (value: unknown, options: InspectOptions = {}) => inspect(value, { breakLength: Infinity, ...options })

describe('util.inspect', () => {
  leaveNoFds()

  it('shows a Listener, also when it is closed or detached', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const address = `{ address: '127.0.0.1', family: 'IPv4', port: ${listener.port} }`
    listener.on('accept', () => {})
    listener.asyncAccept()
    assert.equal(
      shown(listener),
      `Listener { fd: ${listener.fd}, address: ${address}, state: 'listening', pending: 1 }`,
    )
    await listener.close()
    assert.equal(shown(listener), `Listener { fd: -1, address: ${address}, state: 'closed', pending: 0 }`)
    const other = await listen({ path: `\0${randomUUID()}` })
    const { closeSync } = await import('node:fs')
    closeSync(other.detach())
    assert.match(shown(other), /^Listener \{ fd: -1, address: '\\x00[-\w]+', state: 'closed', pending: 0 \}$/)
  })

  it('shows a Connection, also when it is claimed', async () => {
    const { connection, client } = await pair()
    const peer = `remoteAddress: '127.0.0.1', remotePort: ${client.localPort}`
    const { fd } = connection
    assert.equal(shown(connection), `Connection { fd: ${fd}, ref: 1, state: 'unclaimed', ${peer} }`)
    const { localPort } = connection
    connection.close()
    const local = `localAddress: '127.0.0.1', localPort: ${localPort}`
    assert.equal(shown(connection), `Connection { fd: -1, ref: 1, state: 'claimed', ${peer}, ${local} }`)
  })

  it('shows a Serving in each state', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const serving = serve(listener, http.createServer(), { maxConnections: 3 })
    cleanUp(() => serving.close())
    const counts = "connections: 0, maxConnections: 3, server: 'Server', listener: "
    assert.equal(shown(serving, { depth: 0 }), `Serving { state: 'serving', ${counts}[Listener] }`)
    const drained = serving.drain()
    assert.match(
      shown(serving),
      /^Serving \{ state: '(draining|closing|closed)', connections: 0, .*Listener \{ fd: \d+/,
    )
    await drained
    assert.equal(shown(serving, { depth: 0 }), `Serving { state: 'closed', ${counts}[Listener] }`)
  })

  it('shows that a Serving is paused, has a maxRate and several listeners', async () => {
    const listeners = [await listen({ host: '127.0.0.1' }), await listen({ host: '127.0.0.1' })]
    const serving = serve(listeners, () => {}, { maxRate: 7 }).pause()
    cleanUp(() => serving.close())
    const state = "state: 'serving', paused: true, connections: 0, maxConnections: Infinity, maxRate: 7"
    assert.equal(shown(serving, { depth: 1 }), `Serving { ${state}, listeners: [ [Listener], [Listener] ] }`)
  })

  it('shows an FdChannel and a ReceivedFd, also when they are closed', async () => {
    const { channel, fd } = FdChannel.pair({ maxMessage: 10 })
    const other = FdChannel.fromFd(fd)
    for (const each of [channel, other]) temporaryChannel(each)
    const counts = "type: 'stream', maxMessage: 10, sending: 0, received: 0"
    assert.equal(shown(channel), `FdChannel { fd: ${channel.fd}, state: 'open', ${counts} }`)
    await other.send('x', [channel.fd])
    const { value } = await channel[Symbol.asyncIterator]().next()
    const [received] = value.fds
    assert.equal(shown(received), `ReceivedFd { fd: ${received.fd}, state: 'owned' }`)
    received.close()
    assert.equal(shown(received), "ReceivedFd { fd: -1, state: 'released' }")
    channel.close()
    assert.equal(shown(channel), `FdChannel { fd: -1, state: 'closed', ${counts} }`)
  })

  it('honours depth and colors', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    assert.equal(shown({ listener }, { depth: 0 }), '{ listener: [Listener] }')
    assert.match(shown({ listener }, { depth: 1 }), /address: \[Object\]/)
    assert.match(shown({ listener }, { depth: null }), /port: \d+/)
    assert.ok(shown(listener, { colors: true }).includes(`fd: \u001b[33m${listener.fd}\u001b[39m`))
    assert.ok(shown({ listener }, { depth: 0, colors: true }).includes('\u001b[36m[Listener]\u001b[39m'))
  })

  it('does not throw for an object without private fields', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    for (const each of [new Proxy(listener, {}), Object.create(listener)]) assert.equal(shown(each), 'Listener {}')
    assert.equal(typeof shown(Object.getPrototypeOf(listener)), 'string')
  })
})
