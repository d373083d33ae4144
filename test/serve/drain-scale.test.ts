import assert from 'node:assert/strict'
import http from 'node:http'
import type net from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { serve } from '../../src/index.js'
import { cleanUp, connect, listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

const host = '127.0.0.1'

describe('Serving.drain with 1,000 connections', () => {
  leaveNoFds()
  const idle = 900
  const active = 100

  it('does not check all connections after each response', async () => {
    const responses: http.ServerResponse[] = []
    const server = http.createServer((request, response) => {
      if (request.url === '/later') responses.push(response.writeHead(200, { 'content-length': 2 }))
      else response.end('ok')
    })
    const listener = await listen({ host })
    const serving = serve(listener, server)
    cleanUp(() => serving.drain({ timeout: 0 }))
    const clients: net.Socket[] = []
    for (let i = 0; i < idle + active; i++) {
      const client = await connect(listener)
      client.write(`GET ${i < idle ? '/' : '/later'} HTTP/1.1\r\nhost: localhost\r\n\r\n`)
      clients.push(client.resume())
    }
    await until(() => responses.length === active && clients.slice(0, idle).every(({ bytesRead }) => bytesRead > 0))
    const checks = countChecks(server)
    const drained = serving.drain({ idleGrace: 0 })
    const started = performance.now()
    for (const response of responses) {
      response.end('ok')
      await nextTurn()
    }
    // One at the beginning, one when the idle connections are ended, and at most one in 10 ms for 1,000 connections.
    const most = 3 + (performance.now() - started) / 5
    assert.ok(checks.count <= most, `${checks.count} checks, at most ${most}`)
    const { destroyed } = await drained
    assert.equal(destroyed, 0)
  })
})

/** Counts how often the list of all connections of the server is read. */
function countChecks(server: http.Server): { count: number } {
  const checks = { count: 0 }
  const symbol = Object.getOwnPropertySymbols(server).find(
    ({ description }) => description === 'http.server.connections',
  ) as symbol
  const list = (server as unknown as Record<symbol, { all(): unknown[] }>)[symbol] as { all(): unknown[] }
  const all = list.all.bind(list)
  list.all = () => {
    checks.count++
    return all()
  }
  return checks
}
