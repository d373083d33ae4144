import assert from 'node:assert/strict'
import http from 'node:http'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import vm from 'node:vm'
import { type ConnectionHandler, FdChannel, type Serving, serve } from '../src/index.js'
import { answer } from './backlog.js'
import { channels } from './channels.js'
import { cleanUp, codeOf, connect, gone, listen, nodeEnvironment, runNode, target, until } from './helpers.js'
import { leaveNoFds } from './leaks.js'
import { lookedBefore } from './looked-before.js'

/** The value of a program in another realm, whose classes differ from those of this realm. */
const foreign = <T>(program: string): T => vm.runInNewContext(program, { Error })

/** The text that a client receives until its connection ends. */
async function heard(client: net.Socket): Promise<string> {
  const said = await text(client)
  client.destroy()
  return said
}

async function servedBy(
  handler: ConnectionHandler,
): Promise<{ serving: Serving; client: net.Socket; errors: unknown[] }> {
  const listener = await listen({ host: '127.0.0.1' })
  const serving = serve(listener, handler)
  const errors: unknown[] = []
  serving.on('error', (error) => errors.push(error))
  // The client may be reset before its 'connect' event.
  const client = net.connect(target(listener)).on('error', () => {})
  cleanUp(() => client.destroy())
  return { serving, client, errors }
}

describe('A handler that serve calls', () => {
  leaveNoFds()

  const failure = new Error('from the handler')
  const then = (_fulfilled: unknown, rejected: (reason: unknown) => void) => void setImmediate(rejected, failure)
  const thenable = (descriptor: PropertyDescriptor, object = {}) => Object.defineProperty(object, 'then', descriptor)
  class Subclass<T> extends Promise<T> {}
  const rejections: Record<string, () => unknown> = {
    'a promise of another realm': () => foreign<(error: Error) => unknown>('(error) => Promise.reject(error)')(failure),
    'the promise of an async function of another realm': () =>
      foreign<(error: Error) => unknown>('async (error) => { throw error }')(failure),
    'a promise of another class': () => thenable({ value: then }),
    'a promise of a subclass': () => Subclass.reject(failure),
    'a promise whose constructor throws': () => {
      const promise = Promise.resolve()
      Object.defineProperty(promise, 'constructor', {
        get() {
          throw failure
        },
      })
      return promise
    },
    'a function that is a promise': () => thenable({ value: then }, () => {}),
    'a promise whose then throws': () =>
      thenable({
        get() {
          throw failure
        },
      }),
  }
  for (const [name, reject] of Object.entries(rejections)) {
    it(`may reject with ${name}: serving emits 'error' and closes the connection`, async () => {
      const { serving, client, errors } = await servedBy(reject)
      await gone(client)
      await until(() => errors.length === 1)
      assert.deepEqual(errors, [failure])
      assert.equal(serving.connections, 0)
      await serving.close()
    })
  }

  it('may return such a promise that fulfils, or any other value', async () => {
    const results = [
      () => foreign('Promise.resolve(1)'),
      () => thenable({ value: (fulfilled: (value: unknown) => void) => fulfilled(undefined) }),
      () => thenable({ value: 'not a function' }),
      () => new Proxy({}, {}),
      () => null,
      () => Symbol('result'),
    ]
    for (const result of results) {
      const { serving, client, errors } = await servedBy((connection) => {
        answer(connection, 'hello')
        return result()
      })
      assert.equal(await heard(client), 'hello')
      assert.deepEqual(errors, [])
      await serving.close()
    }
  })
})

describe('A value of another realm or class', () => {
  leaveNoFds()
  lookedBefore()

  const bytes = [104, 101, 108, 108, 111, 33]
  const views: Record<string, () => Uint8Array> = {
    'a Uint8Array of another realm': () => foreign(`new Uint8Array([${bytes}])`),
    'a Uint16Array, as its bytes': () => new Uint16Array(Uint8Array.from(bytes).buffer) as unknown as Uint8Array,
    'a DataView of part of a buffer': () =>
      new DataView(Uint8Array.from([1, ...bytes, 2]).buffer, 1, bytes.length) as unknown as Uint8Array,
    'a Uint8Array on shared memory': () => {
      const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
      shared.set(bytes)
      return shared
    },
  }
  for (const [name, view] of Object.entries(views)) {
    it(`is accepted as a message by FdChannel.send: ${name}`, async () => {
      const [from, to] = channels('seqpacket')
      await from.send(view(), foreign<number[]>('[]'))
      const { value } = await to[Symbol.asyncIterator]().next()
      assert.deepEqual([...value.data], bytes)
    })
  }

  it('is rejected as a message unless it is an ArrayBufferView', async () => {
    const [from] = channels('stream')
    for (const wrong of [new ArrayBuffer(8), [1, 2], { length: 1, 0: 1 }, foreign('new ArrayBuffer(8)')]) {
      await assert.rejects(from.send(wrong as Uint8Array), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })

  it('is accepted as an options object, an array of networks or an array of alarms', async () => {
    const listener = await listen(foreign("({ host: '127.0.0.1' })"))
    const serving = serve(listener, (connection) => answer(connection, String(connection.remoteAddress)), {
      proxyProtocol: 'require',
      trust: foreign("['127.0.0.0/8']"),
      alarm: foreign('[{ threshold: 1 }]'),
    })
    let alarms = 0
    serving.on('alarm', () => alarms++)
    const client = await connect(listener)
    client.write('PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n')
    assert.equal(await heard(client), '192.0.2.1')
    assert.equal(alarms, 1)
    await serving.close()
  })

  it('is accepted as a list of trusted networks if it has check(); if check() throws, the connection is closed', async () => {
    const list = {
      addAddress: () => {},
      addSubnet: () => {},
      check: (address: string): boolean => address === '127.0.0.1',
    }
    const listener = await listen({ host: '127.0.0.1' })
    const options = { proxyProtocol: 'require', trust: list as unknown as net.BlockList } as const
    const serving = serve(listener, (connection) => answer(connection, String(connection.remoteAddress)), options)
    const first = await connect(listener)
    first.write('PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n')
    assert.equal(await heard(first), '192.0.2.1')
    const failure = new Error('from check')
    list.check = () => {
      throw failure
    }
    const refused: unknown[] = []
    serving.on('refused', ({ error }) => refused.push(error))
    await gone(await connect(listener))
    assert.deepEqual(refused, [failure])
    await until(() => serving.connections === 0)
    await serving.close()
  })

  it("is accepted as a server when a tracer has replaced Node's class", async () => {
    const { Server } = net
    function Traced(this: net.Server, ...args: unknown[]) {
      return Reflect.apply(Server as unknown as () => unknown, this, args)
    }
    Traced.prototype = Object.create(Server.prototype)
    net.Server = Traced as unknown as typeof net.Server
    cleanUp(() => {
      net.Server = Server
    })
    const listener = await listen({ host: '127.0.0.1' })
    const server = http.createServer((_request, response) => response.end('hello'))
    assert.equal(server instanceof net.Server, false)
    serve(listener, server)
    const { port, host } = target(listener) as net.TcpNetConnectOpts
    const response = await fetch(`http://${host}:${port}`, { headers: { connection: 'close' } })
    assert.equal(await response.text(), 'hello')
    await new Promise((resolve) => server.close(resolve))
  })

  it('is rejected when it only resembles a server, listener or connection', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const handler = () => {}
    const wrongTargets = [{ listen: handler }, { on: handler, listen: handler, close: handler }, Object.create(null)]
    for (const wrong of wrongTargets) {
      assert.throws(() => serve(listener, wrong as net.Server), { code: 'ERR_INVALID_ARG_TYPE' })
    }
    for (const wrong of [new Proxy(listener, {}), Object.create(Object.getPrototypeOf(listener)), null] as never[]) {
      assert.throws(() => serve(wrong, handler), { code: 'ERR_INVALID_ARG_TYPE' })
      assert.throws(() => FdChannel.fromConnection(wrong), { code: 'ERR_INVALID_ARG_TYPE' })
    }
  })

  it('is rejected with an error code even when it cannot be inspected', async () => {
    const listener = await listen({ host: '127.0.0.1' })
    const hostile = {
      [Symbol.for('nodejs.util.inspect.custom')]() {
        throw new Error('from inspect')
      },
    }
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    const trap = new Proxy(
      {},
      {
        get() {
          throw new Error('from a trap')
        },
      },
    )
    for (const wrong of [hostile, proxy, Object.create(trap)]) {
      assert.throws(
        () => listener.asyncAccept(wrong as number),
        (error) => codeOf(error) === 'ERR_INVALID_ARG_TYPE',
      )
    }
  })
})

describe('The package in another realm', () => {
  it('works with the intrinsics of that realm', async () => {
    const { NODE_OPTIONS = '' } = nodeEnvironment()
    const command = ['env', `NODE_OPTIONS=${NODE_OPTIONS} --experimental-vm-modules`]
    const { code, stdout, stderr } = await runNode('other-realm.mjs', [], command)
    assert.equal(code, 0, stderr)
    assert.deepEqual(stdout.trim().split('\n'), [
      'another realm: true',
      'timeout: ERR_ACCEPT_TIMEOUT',
      'aborted: ABORT_ERR',
      'peek: hello 127.0.0.1',
      'duplicate: true',
      'message: true',
      'message: true',
      'message: true',
      'served: 127.0.0.1',
      'handler: from the handler',
    ])
  })
})
