import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import type { AddressInfo, NetConnectOpts, Socket } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type AcceptResult, type Connection, Listener, type ListenOptions } from '../../src/index.js'
import { answer, connectionFor, dial, fillBacklog, queued } from '../backlog.js'
import {
  codeOf,
  collect,
  flagsOf,
  gone,
  listen,
  O_CLOEXEC,
  O_NONBLOCK,
  openFds,
  refsOf,
  temporaryDirectory,
  until,
} from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsFamilyOf } from '../needs.js'

interface Kind {
  name: string
  options(): ListenOptions
  /** The expected `address()` of a TCP listener. */
  address?: { address: string; family: 'IPv4' | 'IPv6' }
  /** Where clients can connect, and the address at both ends of their connections; undefined for unix sockets. */
  routes: { host?: string; seenAs?: string; family?: 'IPv4' | 'IPv6' }[]
}

const ipv4 = { host: '127.0.0.1', seenAs: '127.0.0.1', family: 'IPv4' } as const
const ipv6 = { host: '::1', seenAs: '::1', family: 'IPv6' } as const
const mapped = { host: '127.0.0.1', seenAs: '::ffff:127.0.0.1', family: 'IPv6' } as const

const kinds: Kind[] = [
  {
    name: 'IPv4',
    options: () => ({ host: '127.0.0.1' }),
    address: { address: '127.0.0.1', family: 'IPv4' },
    routes: [ipv4],
  },
  {
    name: 'IPv6',
    options: () => ({ host: '::1' }),
    address: { address: '::1', family: 'IPv6' },
    routes: [ipv6],
  },
  {
    name: 'dual stack',
    options: () => ({}),
    address: { address: '::', family: 'IPv6' },
    routes: [mapped, ipv6],
  },
  { name: 'unix path', options: () => ({ path: join(temporaryDirectory(), 'socket') }), routes: [{}] },
  {
    name: 'abstract path',
    // Of full length: a client of Node 20 pads a shorter name with '\0', and so connects to another name.
    options: () => ({ path: `\0async-accept-${randomUUID()}`.padEnd(108, '-') }),
    routes: [{}],
  },
]

for (const kind of kinds) {
  describe(`Listener: ${kind.name}`, () => {
    let options: ListenOptions
    let listener: Listener
    leaveNoFds()

    before(function () {
      for (const { host = '' } of kind.routes) needsFamilyOf(this, host)
    })

    beforeEach(async () => {
      options = kind.options()
      listener = await listen(options)
    })

    /** Connects clients along the routes in turn. */
    const connectTo = (address: AddressInfo | string | null, index = 0): Promise<Socket> => {
      if (typeof address === 'string') return dial({ path: address })
      const { host } = routeOf(index)
      return dial({ host, port: address?.port } as NetConnectOpts)
    }
    const connect = (index = 0) => connectTo(listener.address(), index)
    const routeOf = (index: number) => kind.routes[index % kind.routes.length] as Kind['routes'][number]

    it('reports its address and its port', async () => {
      const address = listener.address()
      const { port } = listener
      if (kind.address === undefined) {
        assert.equal(address, options.path)
        assert.equal(port, 0)
      } else {
        assert.ok(port > 0)
        assert.deepEqual(address, { ...kind.address, port })
      }
      await listener.close()
      assert.equal(listener.port, port)
    })

    it('returns a ref at once, and delivers the result with that ref later', async () => {
      await fillBacklog(listener, 1, connect)
      const results = collect(listener)
      const ref = listener.asyncAccept()
      assert.ok(Number.isSafeInteger(ref) && ref > 0)
      assert.equal(results.length, 0)
      await Promise.resolve()
      assert.equal(results.length, 0)
      await until(() => results.length > 0)
      assert.deepEqual(refsOf(results), [ref])
      assert.equal(results[0]?.connection?.ref, ref)
    })

    it('knows the addresses of both ends of a connection', async () => {
      for (const [index, route] of kind.routes.entries()) {
        const [connection, client] = await Promise.all([listener.accept(), connect(index)])
        assert.equal(connection.remoteAddress, route.seenAs)
        assert.equal(connection.remoteFamily, route.family)
        assert.equal(connection.remotePort, client.localPort)
        assert.equal(connection.localAddress, route.seenAs ?? options.path)
        assert.equal(connection.localPort, route.seenAs && (listener.address() as AddressInfo).port)
        connection.close()
      }
    })

    it('makes every fd close-on-exec and non-blocking', async () => {
      const [connection] = await Promise.all([listener.accept(), connect()])
      for (const fd of [listener.fd, connection.fd]) {
        const flags = flagsOf(fd) as number
        assert.equal(flags & O_CLOEXEC, O_CLOEXEC)
        assert.equal(flags & O_NONBLOCK, O_NONBLOCK)
      }
      connection.close()
    })

    it('accepts nothing without a request, then every client in the order of arrival', async () => {
      const before = openFds().length
      const clients = await fillBacklog(listener, 10, connect)
      assert.equal(openFds().length, before + clients.length)
      assert.equal(listener.stats.accepted, 0)

      const connections = await Promise.all(clients.map(() => listener.accept()))
      assert.equal(listener.backlog().queued, 0)
      connections.forEach((connection, index) => {
        answer(connection, `${index}`)
      })
      assert.deepEqual(await Promise.all(clients.map(text)), Object.keys(clients))
    })

    it('stops accepting when the last request is served', async () => {
      const results = collect(listener)
      await fillBacklog(listener, 5, connect)
      const refs = [listener.asyncAccept(), listener.asyncAccept()]
      await until(() => results.length === 2)
      await connect()
      await queued(listener, 4)
      assert.deepEqual(refsOf(results), refs)
      assert.equal(listener.stats.accepted, 2)
    })

    // Makes requests in every way, in turn. Each promise resolves with the connection of its request.
    const askInAllWays = (count: number): Promise<Connection>[] => {
      const iterator = listener[Symbol.asyncIterator]()
      const ways = [
        () => connectionFor(listener, listener.asyncAccept()),
        () => listener.accept(),
        async () => (await iterator.next()).value as Connection,
        () => listener.accept({ signal: new AbortController().signal }),
        () => connectionFor(listener, listener.asyncAccept(600_000)),
      ]
      return Array.from({ length: count }, (_, index) => (ways[index % ways.length] as () => Promise<Connection>)())
    }

    for (const [order, askFirst] of [
      ['requests before clients', true],
      ['clients before requests', false],
    ] as const) {
      it(`serves requests in the order in which they were made, over all ways to make them: ${order}`, async () => {
        const count = 20
        let asked = askFirst ? askInAllWays(count) : []
        assert.equal(listener.pending, asked.length)
        const clients: Socket[] = []
        while (clients.length < count) {
          clients.push(await connect(clients.length))
          // Each client must be in the queue or accepted before the next one connects.
          await until(() => listener.stats.accepted + listener.backlog().queued === clients.length)
        }
        if (!askFirst) asked = askInAllWays(count)
        for (const [index, connection] of (await Promise.all(asked)).entries()) answer(connection, `${index}`)
        assert.deepEqual(await Promise.all(clients.map(text)), Object.keys(clients))
      })
    }

    it('serves a burst of 1,000 clients on 1,000 requests, each exactly once', async () => {
      const count = 1000
      const results: AcceptResult[] = []
      const refs = new Set<number>()
      listener.on('accept', (result) => {
        results.push(result)
        if (result.connection) answer(result.connection, `${result.ref}`)
      })
      while (refs.size < count) refs.add(listener.asyncAccept())
      assert.equal(listener.pending, count)
      const clients = await Promise.all(Array.from({ length: count }, (_, index) => connect(index)))
      const answers = await Promise.all(clients.map(text))
      assert.deepEqual(refsOf(results), [...refs])
      assert.deepEqual(new Set(answers.map(Number)), refs)
      assert.equal(answers.length, count)
      assert.equal(listener.pending, 0)
      assert.equal(listener.stats.accepted, count)
      assert.equal(listener.backlog().queued, 0)
    })

    it('counts its outstanding requests', async () => {
      assert.equal(listener.pending, 0)
      const first = listener.asyncAccept()
      const second = listener.accept()
      assert.equal(listener.pending, 2)
      listener.cancel(first)
      assert.equal(listener.pending, 1)
      await connect()
      ;(await second).close()
      assert.equal(listener.pending, 0)
    })

    it('releases its fd and its address before close() returns', async () => {
      // A connection that this side closes first leaves the port in TIME_WAIT. A queued one ends with the listener.
      const [connection, served] = await Promise.all([listener.accept(), connect()])
      connection.close()
      await gone(served)
      const [waiting] = await fillBacklog(listener, 1, connect)
      const { fd } = listener
      const port = kind.address && (listener.address() as AddressInfo).port

      const closed = listener.close()
      assert.equal(flagsOf(fd), undefined)
      if (options.path !== undefined) assert.equal(existsSync(options.path.replace('\0', '@')), false)
      // In the same event loop turn: listen() binds inside the call.
      const [again] = await Promise.all([listen(port === undefined ? options : { ...options, port }), closed])
      await gone(waiting as Socket)

      listener = again
      const [next] = await Promise.all([listener.accept(), connect()])
      next.close()
    })

    it('rejects pending requests when it closes, oldest first', async () => {
      const order: string[] = []
      const rejected = (index: number, error: unknown) => order.push(`${index} ${codeOf(error)}`)
      const index = new Map<number, number>()
      listener.on('accept', ({ ref, error }) => rejected(index.get(ref) as number, error))
      index.set(listener.asyncAccept(), 0)
      index.set(listener.asyncAccept(600_000), 1)
      index.set(listener.asyncAccept(), 2)
      const promises = [3, 4, 5].map((at) => listener.accept().catch((error) => rejected(at, error)))
      const closed = listener.close()
      assert.deepEqual(order, [])
      await closed
      await Promise.all(promises)
      assert.deepEqual(
        order,
        [0, 1, 2, 3, 4, 5].map((at) => `${at} ERR_LISTENER_CLOSED`),
      )
      assert.equal(listener.stats.rejected, 6)
    })

    it('closes only once for several calls of close()', async () => {
      let events = 0
      listener.on('close', () => events++)
      const closed = listener.close()
      assert.equal(listener.close(), closed)
      assert.equal(listener[Symbol.asyncDispose](), closed)
      await closed
      assert.equal(listener.close(), closed)
      assert.equal(events, 1)
    })

    it('detaches its fd together with the clients in the backlog', async () => {
      const address = listener.address()
      const pending = assert.rejects(listener.accept(), { code: 'ERR_LISTENER_CLOSED' })
      const fd = listener.detach()
      assert.equal(listener.fd, -1)
      await pending
      assert.equal((flagsOf(fd) as number) & O_CLOEXEC, O_CLOEXEC)
      const client = await connectTo(address)

      const heir = Listener.fromFd(fd)
      assert.equal(heir.fd, fd)
      assert.deepEqual(heir.address(), address)
      answer(await heir.accept(), 'hello')
      assert.equal(await text(client), 'hello')
      await heir.close()
      assert.equal(flagsOf(fd), undefined)
      // A listener removes only a path that it has created.
      if (kind.name === 'unix path') assert.equal(existsSync(options.path as string), true)
    })

    it('stays open when an iteration ends by break or throw', async () => {
      const failure = new Error('left')
      await connect(0)
      for await (const connection of listener) {
        connection.close()
        break
      }
      await connect(1)
      const loop = async () => {
        for await (const connection of listener) {
          connection.close()
          throw failure
        }
      }
      await assert.rejects(loop(), failure)
      assert.equal(listener.pending, 0)
      const [connection] = await Promise.all([listener.accept(), connect()])
      connection.close()
      assert.equal(listener.stats.accepted, 3)
    })

    it('ends an iteration when it closes', async () => {
      let seen = 0
      const loop = (async () => {
        for await (const connection of listener) {
          connection.close()
          seen++
        }
      })()
      await connect(0)
      await connect(1)
      await until(() => seen === 2 && listener.pending === 1)
      await listener.close()
      await loop
      assert.equal(seen, 2)
    })

    it('ends an iteration that closes it', async () => {
      await fillBacklog(listener, 2, connect)
      let seen = 0
      for await (const connection of listener) {
        connection.close()
        listener.close()
        seen++
      }
      assert.equal(seen, 1)
    })

    it('withdraws the request of an iterator on return()', async () => {
      const iterator = listener[Symbol.asyncIterator]()
      const next = iterator.next()
      assert.equal(listener.pending, 1)
      await iterator.return?.()
      assert.deepEqual(await next, { value: undefined, done: true })
      assert.deepEqual(await iterator.next(), { value: undefined, done: true })
      assert.equal(listener.pending, 0)
      assert.equal(listener.stats.cancelled, 1)
      await fillBacklog(listener, 1, connect)
      assert.equal(listener.stats.accepted, 0)
    })

    it('rejects every call once it is closed', async () => {
      const ref = listener.asyncAccept()
      const ended = once(listener, 'close')
      await listener.close()
      await ended
      const closed = { code: 'ERR_LISTENER_CLOSED' }
      assert.throws(() => listener.asyncAccept(), closed)
      assert.throws(() => listener.asyncAccept(0), closed)
      assert.throws(() => listener.backlog(), closed)
      assert.throws(() => listener.detach(), closed)
      await assert.rejects(listener.accept(), closed)
      await assert.rejects(listener.accept({ timeout: 0, signal: new AbortController().signal }), closed)
      assert.deepEqual(await listener[Symbol.asyncIterator]().next(), { value: undefined, done: true })
      assert.equal(listener.cancel(ref), false)
      assert.equal(listener.fd, -1)
      assert.equal(listener.address(), null)
      assert.equal(listener.pending, 0)
      assert.equal(listener.stats.rejected, 1)
      assert.equal(listener.ref().unref(), listener)
    })
  })
}
