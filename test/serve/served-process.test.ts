import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { ListenOptions } from '../../src/index.js'
import { cleanUp, runNode, startNode, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { endLater, waysIn } from '../ways-in.js'

const fixture = 'kept-by-serving.mjs'

describe('A process that serves something', () => {
  for (const what of ['server', 'function']) {
    it(`stays alive while a ${what} is paused, and serves after resume()`, async () => {
      const child = startNode(fixture, [what, '0'], [])
      child.stdin?.end()
      const output = text(child.stdout as NodeJS.ReadableStream)
      const lines = child.stdout as NodeJS.ReadableStream
      const [port] = await once(lines, 'data')
      const client = net.connect(Number(port), '127.0.0.1')
      cleanUp(() => client.destroy())
      await once(client, 'connect')
      child.kill('SIGUSR2')
      assert.equal(await text(client), 'hello')
      await once(child, 'close')
      assert.doesNotMatch(await output, /while serving/)
    })

    for (const calls of [['serving.unref'], ['listener.unref'], ['serving.unref', 'serving.ref', 'serving.unref']]) {
      it(`exits after unref() on a ${what} that is paused or waits for clients: ${calls}`, async () => {
        for (const limit of ['0', '1', 'Infinity']) {
          const { stdout } = await runNode(fixture, [what, limit, ...calls])
          assert.match(stdout, /idle while serving/, `limit ${limit}`)
        }
      })
    }

    it(`exits when a ${what} closes while paused`, async () => {
      assert.match((await runNode(fixture, [what, '0', 'serving.close'])).stdout, /idle while clos/)
      assert.match((await runNode(fixture, [what, '0', 'listener.close'])).stdout, /idle while clos/)
    })
  }

  it('exits after unref() or close() on the server', async () => {
    assert.match((await runNode(fixture, ['server', '0', 'server.unref'])).stdout, /idle while serving/)
    assert.match((await runNode(fixture, ['server', '0', 'server.close'])).stdout, /idle while clos/)
  })
})

describe('process.getActiveResourcesInfo()', () => {
  leaveNoFds()

  const places: [name: string, where: () => ListenOptions][] = [
    ['TCP', () => ({ host: '127.0.0.1' })],
    ['a unix socket', () => ({ path: join(temporaryDirectory(), 'socket') })],
  ]

  /** The active resources that were not in `before`. */
  function added(before: string[]): string[] {
    const more = process.getActiveResourcesInfo()
    for (const name of before) if (more.includes(name)) more.splice(more.indexOf(name), 1)
    return more.filter((name) => /Server|Pipe|Poll|Async/.test(name))
  }

  for (const [name, where] of places) {
    it(`lists a served server like one that listens itself, until unref() or close(); over ${name}`, async () => {
      const shown: string[][][] = []
      for (const way of waysIn) {
        const before = process.getActiveResourcesInfo()
        const server = endLater(http.createServer())
        await way.open(server, where())
        const steps = [added(before)]
        for (const step of ['unref', 'ref', 'close'] as const) {
          server[step]()
          steps.push(added(before))
        }
        await once(server, 'close')
        steps.push(added(before))
        shown.push(steps)
      }
      // Node lists a closed handle until the next turn of the event loop.
      assert.deepEqual(shown[1], shown[0])
      assert.equal(shown[0]?.[0]?.length, 1)
      assert.equal(shown[0]?.[1]?.length, 0)
    })
  }
})
