import assert from 'node:assert/strict'
import net from 'node:net'
import { serve } from '../../src/index.js'
import { fillBacklog, queued } from '../backlog.js'
import { connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { countOf, endLater } from '../ways-in.js'

const host = '127.0.0.1'
const node = Number.parseInt(process.versions.node, 10)

/** Serves a server that keeps its connections open, and counts its 'drop' events. */
async function serveKeeping(maxConnections: unknown, options?: Parameters<typeof serve>[2]) {
  const sockets: net.Socket[] = []
  let dropped = 0
  const server = endLater(net.createServer((socket) => void sockets.push(socket)))
  server.on('drop', () => dropped++)
  server.maxConnections = maxConnections as number
  const listener = await listen({ host })
  const serving = serve(listener, server, options)
  return { server, serving, listener, sockets, drops: () => dropped }
}

/** The number of connections that a plain net.Server with this maxConnections keeps when four clients connect. */
async function keptByNode(maxConnections: unknown): Promise<number> {
  const seen = { kept: 0, dropped: 0 }
  const server = endLater(net.createServer(() => seen.kept++))
  server.on('drop', () => seen.dropped++)
  server.maxConnections = maxConnections as number
  await new Promise<void>((done) => server.listen(0, host, done))
  const { port } = server.address() as net.AddressInfo
  for (let i = 0; i < 4; i++) net.connect(port, host).on('error', () => {})
  await until(() => seen.kept + seen.dropped === 4)
  return seen.kept
}

describe('The maxConnections of a served server', () => {
  leaveNoFds()

  for (const value of [0, 1, 3, 2.5, '2', Number.NaN, Number.POSITIVE_INFINITY, undefined, null, -1, false, 'many']) {
    it(`has Node's meaning for ${JSON.stringify(value) ?? value} (${value}), but drops no connection`, async () => {
      const limit = await keptByNode(value)
      for (const when of ['before', 'after']) {
        const { server, listener, sockets, drops } = await serveKeeping(when === 'before' ? value : undefined)
        if (when === 'after') server.maxConnections = value as number
        assert.equal(server.maxConnections, value)
        for (let i = 0; i < 4; i++) await connect(listener)
        await until(() => sockets.length === limit)
        await queued(listener, 4 - limit)
        assert.equal(await countOf(server), limit)
        assert.equal(drops(), 0)
      }
    })
  }

  it('applies at once when it is lowered while accept requests are outstanding', async () => {
    const { server, listener, sockets } = await serveKeeping(undefined)
    assert.equal(listener.pending, 64)
    for (const limit of [5, 2, 0.5, 1]) {
      server.maxConnections = limit
      assert.equal(listener.pending, Math.ceil(limit))
    }
    for (let i = 0; i < 3; i++) await connect(listener)
    await queued(listener, 2)
    assert.equal(sockets.length, 1)
  })

  it('admits waiting clients at once when it is raised', async () => {
    const { server, listener, sockets } = await serveKeeping(1)
    for (let i = 0; i < 5; i++) await connect(listener)
    await queued(listener, 4)
    for (const limit of [2, 4, 100]) {
      server.maxConnections = limit
      await until(() => sockets.length === Math.min(limit, 5))
    }
    server.maxConnections = undefined as unknown as number
    assert.equal(listener.pending, 64)
  })

  it('drops no accepted connection when a handler lowers it', async () => {
    const { server, serving, listener, sockets, drops } = await serveKeeping(-1)
    server.on('connection', () => {
      server.maxConnections = 1
    })
    await fillBacklog(listener, 10)
    // All accept requests are made in one turn, and their connections arrive in one batch.
    server.maxConnections = 10
    await until(() => sockets.length === 10)
    assert.equal(drops(), 0)
    assert.equal(server.maxConnections, 1)
    assert.equal(serving.connections, 10)
    assert.equal(listener.pending, 0)
    for (const socket of sockets.splice(0)) socket.destroy()
    await until(() => listener.pending === 1)
  })

  it('applies together with the option of serve(): the smaller limit wins', async () => {
    const { server, serving, listener } = await serveKeeping(10, { maxConnections: 3 })
    assert.equal(listener.pending, 3)
    server.maxConnections = 2
    assert.equal(listener.pending, 2)
    serving.maxConnections = 1
    assert.equal(listener.pending, 1)
    serving.maxConnections = 50
    server.maxConnections = 40
    assert.equal(listener.pending, 40)
  })

  it('is an ordinary property of the server: enumerable, and assignable with Object.assign()', async () => {
    const { server, listener } = await serveKeeping(7)
    Object.assign(server, { maxConnections: 3 })
    assert.equal(listener.pending, 3)
    assert.deepEqual(Object.keys(server).includes('maxConnections'), true)
  })

  if (node >= 22) {
    it("does not bypass the server's blockList", async () => {
      const blockList = new net.BlockList()
      blockList.addAddress('127.0.0.1')
      const listener = await listen({ host })
      const server = endLater(net.createServer({ blockList } as net.ServerOpts))
      const serving = serve(listener, server, { maxConnections: 1 })
      for (let i = 0; i < 3; i++) await connect(listener)
      await until(() => listener.stats.accepted === 3)
      await until(() => serving.connections === 0)
    })
  }
})
