import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import type { Listener } from '../../src/index.js'
import { fillBacklog } from '../backlog.js'
import { cleanUp, listen, runNode, startNode, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needsStrace } from '../needs.js'

const host = '127.0.0.1'

/** Ways to accept with one outstanding request, which ends each batch. `use` is called with each connection. */
const ways: Record<string, (listener: Listener, use: () => void) => void> = {
  'for await': async (listener, use) => {
    for await (const connection of listener) {
      connection.close()
      use()
    }
  },
  'accept()': async (listener, use) => {
    for (;;) {
      const connection = await listener.accept().catch(() => undefined)
      if (connection === undefined) return
      connection.close()
      use()
    }
  },
  'accept events': (listener, use) => {
    listener.on('accept', ({ connection }) => {
      if (connection === undefined) return
      connection.close()
      listener.asyncAccept()
      use()
    })
    listener.asyncAccept()
  },
}

/** Counts the turns of the event loop by its check phases. */
function countTurns() {
  const counter = { turn: 0 }
  let immediate = setImmediate(function next() {
    counter.turn++
    immediate = setImmediate(next)
  })
  cleanUp(() => clearImmediate(immediate))
  return counter
}

describe('A turn of the event loop', () => {
  leaveNoFds()

  const clients = 200

  for (const [way, accept] of Object.entries(ways)) {
    it(`accepts queued connections for the requests of the handlers, by ${way}, up to maxBatch`, async () => {
      const maxBatch = 16
      const listener = await listen({ host, maxBatch })
      await fillBacklog(listener, clients)
      const counter = countTurns()
      const inTurn: Record<number, number> = {}
      accept(listener, () => {
        inTurn[counter.turn] = (inTurn[counter.turn] ?? 0) + 1
      })
      await until(() => listener.stats.accepted === clients)
      const counts = Object.values(inTurn)
      assert.equal(Math.max(...counts), maxBatch)
      assert.ok(counts.length < clients / 4, `${counts.length} turns: ${counts}`)
      await listener.close()
    })
  }

  it('delivers all connections when the listener closes in the middle', async () => {
    const listener = await listen({ host })
    await fillBacklog(listener, clients)
    let accepted = 0
    listener.on('accept', ({ connection }) => {
      connection?.close()
      if (connection === undefined) return
      accepted++
      if (listener.stats.accepted === clients / 2) void listener.close()
      else listener.asyncAccept()
    })
    listener.asyncAccept()
    await until(() => listener.fd === -1)
    assert.deepEqual([accepted, listener.stats.accepted], [clients / 2, clients / 2])
  })

  it('rejects a request at once when a handler has made accepting impossible', async () => {
    const { code, stdout, stderr } = await runNode('closed-in-handler.mjs')
    assert.equal(code, 0, stderr)
    assert.equal(stdout, '10 EBADF\n')
  })

  it('ends without an accept4 that finds no client when clients come one by one', async function () {
    needsStrace(this)
    const few = 20
    const trace = join(temporaryDirectory(), 'trace')
    const child = startNode('answering.mjs', [String(few)], ['strace', '-f', '-qq', '-e', 'trace=accept4', '-o', trace])
    cleanUp(() => child.kill('SIGKILL'))
    const [line] = await once(createInterface({ input: child.stdout as NodeJS.ReadableStream }), 'line')
    const { pid, port, fd } = JSON.parse(line)
    for (let i = 0; i < few; i++) {
      // The server waits in epoll_wait(2) for longer than it has worked.
      let asleep = 0
      await until(() => {
        asleep = /^State:\s+S/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')) ? asleep + 1 : 0
        return asleep === 1500
      })
      assert.equal(await text(net.connect({ host, port })), 'x')
    }
    await once(child, 'exit')
    const calls = readFileSync(trace, 'utf8').split('\n')
    const results = calls.filter((call) => call.includes(`accept4(${fd},`))
    const inVain = results.filter((call) => call.includes('EAGAIN'))
    assert.equal(results.length - inVain.length, few)
    // A busy machine can stop the server in the middle of its work, which then seems to take longer than the wait.
    assert.ok(inVain.length <= few / 2, `${inVain.length} calls found no client`)
  })
})
