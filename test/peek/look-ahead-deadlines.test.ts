import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import type { Connection, Listener, LookAheadOptions, PeekTimeoutError } from '../../src/index.js'
import { awaitBytes, pair, standStill } from '../descriptors.js'
import { helloMessage, inRecords } from '../hellos.js'
import { cleanUp, codeOf, listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'
import { skip } from '../needs.js'
import { type ScriptedPeer, scriptedPeer } from './scripted-peer.js'

const host = '127.0.0.1'
const line = 'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n'

type Look = (connection: Connection, options: LookAheadOptions) => Promise<unknown>

const looks: Record<string, { bytes: Buffer; look: Look }> = {
  peek: { bytes: Buffer.from('hello'), look: (connection, options) => connection.peek(5, options) },
  clientHello: {
    bytes: inRecords(helloMessage()),
    look: async (connection, options) => (await connection.clientHello(options))?.versions[0],
  },
  proxyHeader: {
    bytes: Buffer.from(line),
    look: async (connection, options) => (await connection.proxyHeader(options))?.source?.address,
  },
}

// The other process holds the client half of these fds.
const counts = [1, 64, 65, 200, 5000]

function needsFds(context: Mocha.Context, count: number): void {
  const hard = spawnSync('sh', ['-c', 'ulimit -Hn'], { encoding: 'utf8' }).stdout.trim()
  if (hard !== 'unlimited' && Number(hard) < count + 200) skip(context, `the fd limit is ${hard}`)
}

/** Accepts `count` connections of one peer. */
async function connected(count: number): Promise<{ peer: ScriptedPeer; connections: Connection[] }> {
  const listener: Listener = await listen({ host })
  const peer = scriptedPeer(listener)
  const accepting = Array.from({ length: count }, () => listener.accept())
  await peer.connect(count)
  const connections = await Promise.all(accepting)
  cleanUp(() => {
    for (const connection of connections) connection.close()
  })
  return { peer, connections }
}

/** The distinct outcomes of the look-aheads. */
async function outcomes(looked: Promise<unknown>[]): Promise<string[]> {
  const settled = await Promise.allSettled(looked)
  return [...new Set(settled.map((one) => (one.status === 'fulfilled' ? 'seen' : String(codeOf(one.reason)))))]
}

const waitForAll = (connections: Connection[]) => {
  for (const { fd } of connections) awaitBytes(fd)
}

for (const [name, { bytes, look }] of Object.entries(looks)) {
  describe(`The deadline of ${name}`, function () {
    this.timeout(60_000)
    lookedBefore()
    leaveNoFds()

    it('rejects with the number of bytes that were there', async () => {
      const { connection, client } = await pair()
      const bytesAvailable = async (timeout: number) => {
        const error = (await look(connection, { timeout }).catch((error) => error)) as PeekTimeoutError
        assert.equal(error.code, 'ERR_PEEK_TIMEOUT')
        assert.ok(Object.keys(error).includes('bytesAvailable'))
        return error.bytesAvailable
      }
      assert.equal(await bytesAvailable(0), 0)
      client.write(bytes.subarray(0, 3))
      awaitBytes(connection.fd, 3)
      assert.equal(await bytesAvailable(0), 3)
      assert.equal(await bytesAvailable(5), 3)
    })

    for (const count of counts) {
      it(`of 0 ms lets ${count} look-aheads at once see bytes that have already arrived`, async function () {
        needsFds(this, count)
        const { peer, connections } = await connected(count)
        await peer.send(bytes)
        waitForAll(connections)
        assert.deepEqual(await outcomes(connections.map((connection) => look(connection, { timeout: 0 }))), ['seen'])
      })

      it(`rejects none of ${count} look-aheads whose bytes arrive while the event loop is blocked`, async function () {
        needsFds(this, count)
        const { peer, connections } = await connected(count)
        const looked = connections.map((connection) => look(connection, { timeout: 50 }))
        // Two pieces. The deadline has passed when the loop polls again.
        const sent = Promise.all([peer.send(bytes.subarray(0, 3)), peer.send(bytes.subarray(3))])
        for (const { fd } of connections) awaitBytes(fd, bytes.length)
        standStill(60)
        assert.deepEqual(await outcomes(looked), ['seen'])
        await sent
      })
    }

    it('rejects 200 look-aheads at once when no bytes have arrived', async () => {
      const { connections } = await connected(200)
      const looked = connections.map((connection) => look(connection, { timeout: 0 }))
      assert.deepEqual(await outcomes(looked), ['ERR_PEEK_TIMEOUT'])
    })

    it('rejects when too few bytes have arrived, and consumes none of them', async () => {
      const { connection, client } = await pair()
      client.write(bytes.subarray(0, 3))
      awaitBytes(connection.fd)
      await assert.rejects(look(connection, { timeout: 0 }), {
        code: 'ERR_PEEK_TIMEOUT',
        message: /: 3 bytes received within \d+ ms$/,
      })
      assert.ok((await connection.peek(3)).equals(bytes.subarray(0, 3)))
    })

    it('does not block the event loop while 5,000 look-aheads complete', async function () {
      needsFds(this, 5000)
      const { peer, connections } = await connected(5000)
      await peer.send(bytes)
      waitForAll(connections)
      let seen = 0
      const seenAt: number[] = []
      const timer = setInterval(() => seenAt.push(seen), 0)
      cleanUp(() => clearInterval(timer))
      await Promise.all(connections.map((connection) => look(connection, {}).then(() => seen++)))
      clearInterval(timer)
      // Timers run between the event loop turns, each of which completes 1,024.
      assert.ok(
        seenAt.some((count) => count > 0 && count < 5000),
        String(seenAt),
      )
    })
  })
}
