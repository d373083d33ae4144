import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { ListenOptions, ToSocketOptions } from '../../src/index.js'
import { pair, socketOptions, temporary } from '../descriptors.js'
import { codeOf, flagsOf, gone, runNode, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsStrace } from '../needs.js'

const host = '127.0.0.1'

/** The kernel's options of the accepted socket after `toSocket(given)`, on a listener with the options `inherited`. */
async function optionsAfter(given: ToSocketOptions, inherited: ListenOptions = {}) {
  const { connection } = await pair({ host, ...inherited })
  const { fd } = connection
  temporary(connection.toSocket(given))
  return socketOptions(fd)
}

describe('Connection.toSocket', () => {
  leaveNoFds()

  it('returns a socket that carries data in both directions', async () => {
    const { connection, client } = await pair()
    const socket = temporary(connection.toSocket())
    assert.ok(socket instanceof net.Socket)
    socket.pipe(socket)
    const sent = 'both ways '.repeat(100_000)
    client.end(sent)
    assert.equal(await text(client), sent)
  })

  it('reads bytes that the peer sent earlier', async () => {
    const { connection, client } = await pair()
    client.end('early')
    await once(client, 'finish')
    assert.equal(await text(temporary(connection.toSocket())), 'early')
  })

  it('has the addresses of both ends', async () => {
    const { connection, client } = await pair()
    const socket = temporary(connection.toSocket())
    assert.equal(socket.remotePort, client.localPort)
    assert.equal(socket.localPort, client.remotePort)
    assert.equal(connection.fd, -1)
  })

  it('works on a unix socket', async () => {
    const { connection, client } = await pair({ path: join(temporaryDirectory(), 'socket') })
    const socket = temporary(connection.toSocket({ noDelay: true, keepAlive: true }))
    socket.end('through a path')
    assert.equal(await text(client), 'through a path')
  })

  it('ends when the peer half-closes by default', async () => {
    const { connection, client } = await pair()
    temporary(connection.toSocket()).resume()
    client.end()
    await gone(client)
  })

  it("stays writable after the peer's half-close with allowHalfOpen", async () => {
    const { connection, client } = await pair()
    const socket = temporary(connection.toSocket({ allowHalfOpen: true }))
    assert.equal(socket.allowHalfOpen, true)
    client.end()
    await once(socket.resume(), 'end')
    socket.end('after your end')
    assert.equal(await text(client), 'after your end')
  })

  it('sets noDelay', async () => {
    assert.equal((await optionsAfter({})).noDelay, false)
    assert.equal((await optionsAfter({ noDelay: true })).noDelay, true)
  })

  it('sets keepAlive and its delay', async () => {
    assert.equal((await optionsAfter({})).keepAlive, false)
    const { keepAlive, keepIdle } = await optionsAfter({ keepAlive: true, keepAliveInitialDelay: 7000 })
    assert.deepEqual({ keepAlive, keepIdle }, { keepAlive: true, keepIdle: 7 })
  })

  it('overrides the options of the listener', async () => {
    const options = await optionsAfter({ noDelay: false, keepAlive: false }, { noDelay: true, keepAlive: true })
    assert.equal(options.noDelay, false)
    assert.equal(options.keepAlive, false)
  })

  it('changes only the delay when the listener has enabled keepAlive', async () => {
    const inherited = { keepAlive: true, keepAliveInitialDelay: 5000 }
    const { keepAlive, keepIdle } = await optionsAfter({ keepAliveInitialDelay: 9000 }, inherited)
    assert.deepEqual({ keepAlive, keepIdle }, { keepAlive: true, keepIdle: 9 })
  })

  it('inherits the options of the listener on the accepted socket', async () => {
    const inherited = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 5000 }
    assert.deepEqual(await optionsAfter({}, inherited), { noDelay: true, keepAlive: true, keepIdle: 5 })
  })

  it('makes no system call for options that the listener has', async function () {
    needsStrace(this)
    const trace = join(temporaryDirectory(), 'trace')
    const strace = ['strace', '-f', '-qq', '-e', 'trace=accept4,setsockopt', '-o', trace]
    const { code, stdout, stderr } = await runNode('inherited-options.mjs', [], strace)
    assert.equal(code, 0, stderr)
    const { listening, accepted } = JSON.parse(stdout)
    const calls = readFileSync(trace, 'utf8').split('\n')
    const accepting = calls.findIndex((call) => call.includes(`accept4(${listening},`))
    assert.ok(accepting >= 0)
    const optionsOf = (fd: number, from: readonly string[]) => from.filter((call) => call.includes(`setsockopt(${fd},`))
    assert.ok(optionsOf(listening, calls.slice(0, accepting)).some((call) => call.includes('TCP_NODELAY')))
    assert.deepEqual(optionsOf(accepted, calls.slice(accepting)), [])
  })

  it('uses the highWaterMark of the options, the listener or Node, in that order', async () => {
    const marks = async (given: ToSocketOptions, listening: ListenOptions = {}) => {
      const { connection } = await pair({ host, ...listening })
      const socket = temporary(connection.toSocket(given))
      return [socket.readableHighWaterMark, socket.writableHighWaterMark]
    }
    const { readableHighWaterMark, writableHighWaterMark } = new net.Socket()
    assert.deepEqual(await marks({}), [readableHighWaterMark, writableHighWaterMark])
    assert.deepEqual(await marks({}, { highWaterMark: 1234 }), [1234, 1234])
    assert.deepEqual(await marks({ highWaterMark: 99 }, { highWaterMark: 1234 }), [99, 99])
  })

  it('destroys the socket when the signal is aborted', async () => {
    const { connection, client } = await pair()
    const controller = new AbortController()
    const socket = connection.toSocket({ signal: controller.signal })
    const failed = once(socket, 'error')
    controller.abort()
    assert.equal(codeOf((await failed)[0]), 'ABORT_ERR')
    assert.equal(socket.destroyed, true)
    await gone(client)
  })

  it('destroys the socket and closes its fd when the signal is already aborted', async () => {
    const { connection, client } = await pair()
    const { fd } = connection
    const socket = connection.toSocket({ signal: AbortSignal.abort('because') })
    const [error] = await once(socket, 'error')
    assert.equal(codeOf(error), 'ABORT_ERR')
    assert.equal(error.cause, 'because')
    assert.equal(connection.fd, -1)
    await gone(client)
    assert.equal(flagsOf(fd), undefined)
  })

  it('leaves the fd with the connection when it fails', async () => {
    const { connection, client } = await pair()
    const { fd } = connection
    const flags = flagsOf(fd)
    const signal = {
      aborted: false,
      addEventListener() {
        throw new Error('no listeners here')
      },
      removeEventListener() {},
    }
    assert.throws(() => connection.toSocket({ signal: signal as unknown as AbortSignal }), /no listeners here/)
    assert.equal(connection.fd, fd)
    assert.equal(flagsOf(fd), flags)
    temporary(connection.toSocket()).end('still here')
    assert.equal(await text(client), 'still here')
  })
})
