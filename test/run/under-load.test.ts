import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { certificates } from '../certificates.js'
import { cleanUp, nodeEnvironment, until } from '../helpers.js'
import { isAlive, Supervised } from './supervised.js'

/** The sockets of soak/runner/app.mjs, an Express app with HTTP/1 and HTTP/2, each with and without TLS. */
const sockets = { http: 3000, https: 3001, h2c: 3002, h2: 3003 }

interface Seen {
  /** By the kind of client. */
  figures: Record<string, { answered: number }>
  failures: object[]
}

/** Clients of each kind, in a process of their own. They send one POST request after the other, and none twice. */
class Clients {
  readonly #child = fork('soak/runner/clients.mjs', { env: nodeEnvironment(), serialization: 'advanced' })

  constructor(ports: Record<string, number>) {
    cleanUp(() => this.#child.kill('SIGKILL'))
    this.#child.send({ order: 'go', ports })
  }

  /** Resolves with what the clients have seen so far; at `rest`, when all have their answers. */
  async ask(order: 'look' | 'rest'): Promise<Seen> {
    this.#child.send({ order })
    const [{ seen, resting }] = await once(this.#child, 'message')
    return seen ?? resting
  }
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
  this.timeout(90_000)

  it('answers every request of an unchanged Express app, and leaves nothing behind', async () => {
    const { key: KEY, cert: CERT } = (await certificates()).localhost
    const map = Object.entries(sockets).map(([name, port]) => `${port}=${name}`)
    const supervised = await new Supervised('', {
      options: ['-n', '4', '--settle', '0'],
      addresses: Object.keys(sockets).map((name) => `${name}=127.0.0.1:0`),
      program: ['soak/runner/app.mjs'],
      env: { ASYNC_ACCEPT_INHERIT: String(map), KEY, CERT },
    }).ready(4)
    const { pid } = supervised
    const before = fdsOf(pid)
    const { sockets: bound } = await supervised.status()
    const clients = new Clients(
      Object.fromEntries(bound.map(({ name, address }) => [name, Number(/port (\d+)$/.exec(address)?.[1])])),
    )
    for (let i = 0; i < 2; i++) {
      const { code, stderr } = await supervised.control('reload')
      assert.deepEqual([code, stderr], [0, ''])
    }
    await until(async () => Object.values((await clients.ask('look')).figures).every(({ answered }) => answered > 0))
    assert.deepEqual((await clients.ask('rest')).failures, [])
    await until(() => childrenOf(pid).length === 4)
    assert.deepEqual(
      childrenOf(pid).filter((each) => !isAlive(each)),
      [],
    )
    await until(() => fdsOf(pid) === before)
    assert.equal((await supervised.status()).failures, 0)
  })
})
