import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { until } from '../helpers.js'
import { isAlive, Supervised } from './supervised.js'

const express = `
  import express from 'express'
  const app = express()
  app.use(express.text())
  app.post('/', (request, response) => setTimeout(() => response.send(request.body), Math.random() * 10))
  app.listen(3000)
`

const reloads = Number(process.env.RELOADS ?? 3)

/** Sends POST requests, one after the other, until `isDone`. Returns their number. Rejects if one fails. */
async function posts(port: number, agent: http.Agent, isDone: () => boolean): Promise<number> {
  let count = 0
  for (; !isDone(); count++) {
    const request = http.request({
      host: '127.0.0.1',
      port,
      agent,
      method: 'POST',
      headers: { 'content-type': 'text/plain' },
    })
    request.end(`request ${count}`)
    const [response] = await once(request, 'response')
    assert.equal(response.statusCode, 200)
    assert.equal(await text(response), `request ${count}`)
  }
  return count
}

const fdsOf = (pid: number) => readdirSync(`/proc/${pid}/fd`).length

/** The processes whose parent is `pid`, zombies included. */
function childrenOf(pid: number): number[] {
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return all.map(Number).filter((each) => {
    try {
      return new RegExp(`^PPid:\\s+${pid}$`, 'm').test(readFileSync(`/proc/${each}/status`, 'utf8'))
    } catch {
      return false
    }
  })
}

describe('async-accept reload, under load', function () {
  this.timeout(60_000 + reloads * 10_000)

  it('answers every request of an unchanged Express app, and leaves nothing behind', async () => {
    const options = ['-n', '4', '--settle', '0']
    const supervised = await new Supervised(express, { options, inPackage: true }).ready(4)
    const { port, pid } = supervised
    const before = fdsOf(pid)
    let done = false
    const keepAlive = new http.Agent({ keepAlive: true })
    const load = [
      ...Array.from({ length: 8 }, () => posts(port, keepAlive, () => done)),
      ...Array.from({ length: 4 }, () => posts(port, new http.Agent({ keepAlive: false }), () => done)),
    ]
    const answered = Promise.all(load)
    answered.catch(() => {})
    for (let i = 0; i < reloads; i++) {
      const { code, stderr } = await supervised.control('reload')
      assert.deepEqual([code, stderr], [0, ''])
    }
    done = true
    const counts = await answered
    keepAlive.destroy()
    assert.ok(
      counts.every((count) => count > reloads),
      `requests: ${counts}`,
    )
    await until(() => childrenOf(pid).length === 4)
    assert.deepEqual(
      childrenOf(pid).filter((each) => !isAlive(each)),
      [],
    )
    await until(() => fdsOf(pid) === before)
    assert.equal((await supervised.status()).failures, 0)
    if (process.env.RELOADS !== undefined) {
      const rss = /VmRSS:.*/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[0]
      console.log(`      ${reloads} reloads, ${counts.reduce((a, b) => a + b)} requests, 0 failed, ${rss}`)
    }
  })
})
