import assert from 'node:assert/strict'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { until } from '../helpers.js'
import { needs } from '../needs.js'
import type { RunningExample } from '../running-example.js'
import { curl, run, startOnPort } from './clients.js'

const answer = /^hello from (\w)\.test, process (\d+)\n$/

describe('sni-router.mjs', () => {
  before(function () {
    needs(this, 'curl', '--version')
    needs(this, 'openssl', 'version')
  })

  const get = async (port: number | undefined, name: string) =>
    (await curl('--insecure', '--connect-to', `::127.0.0.1:${port}`, `https://${name}`)).stdout

  /** The process that serves a name. */
  async function processOf(port: number | undefined, name: string): Promise<number> {
    const [, letter, pid] = answer.exec(await get(port, name)) ?? []
    assert.equal(`${letter}.test`, name)
    return Number(pid)
  }

  const exists = (pid: number) => {
    try {
      return /^State:\s+[^Z]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')) // not a zombie
    } catch {
      return false
    }
  }

  /** The number of sockets that the router itself holds. */
  const socketsOf = ({ child: { pid } }: RunningExample) =>
    readdirSync(`/proc/${pid}/fd`).filter((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:')
      } catch {
        return false // closed meanwhile
      }
    }).length

  it('passes each client to the process of its name', async () => {
    const [example, port] = await startOnPort('sni-router.mjs', '0')
    const names = ['a.test', 'b.test', 'b.test', 'a.test']
    const [a, b, again, last] = await Promise.all(names.map((name) => processOf(port, name)))
    assert.deepEqual([again, last], [b, a])
    assert.equal(new Set([a, b, example.child.pid]).size, 3)
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.ok(!exists(a as number) && !exists(b as number))
    assert.equal(example.stderr, '')
  })

  it('leaves the TLS handshake to the process', async () => {
    const [, port] = await startOnPort('sni-router.mjs', '0')
    const openssl = `openssl s_client -connect 127.0.0.1:${port} -servername b.test </dev/null | openssl x509 -noout -ext subjectAltName`
    assert.match((await run('sh', '-c', openssl)).stdout, /DNS:b\.test/)
  })

  it('disconnects a client with another name, without a name, or without TLS', async () => {
    const [example, port] = await startOnPort('sni-router.mjs', '0')
    assert.equal(await get(port, 'c.test'), '')
    await example.says(/^closed a connection: unknown server name c\.test$/m)
    assert.equal((await curl('--insecure', `https://127.0.0.1:${port}`)).stdout, '')
    await example.says(/^closed a connection: unknown server name undefined$/m)
    assert.equal((await curl(`http://127.0.0.1:${port}`)).stdout, '')
    await processOf(port, 'a.test')
  })

  it('starts a process again after its crash, and loses no client meanwhile', async () => {
    const [example, port] = await startOnPort('sni-router.mjs', '0')
    const [a, b] = [await processOf(port, 'a.test'), await processOf(port, 'b.test')]
    process.kill(a, 'SIGKILL')
    await example.says(/^the process of a\.test ended; 0 clients wait$/m)
    const clients = await Promise.all(Array.from({ length: 10 }, () => processOf(port, 'a.test')))
    assert.equal(new Set(clients).size, 1)
    assert.notEqual(clients[0], a)
    assert.equal(await processOf(port, 'b.test'), b)
  })

  it('offers the clients of a process that stopped to its successor', async () => {
    const [example, port] = await startOnPort('sni-router.mjs', '0')
    const before = socketsOf(example)
    const a = await processOf(port, 'a.test')
    await until(() => socketsOf(example) === before)
    process.kill(a, 'SIGSTOP')
    const clients = Array.from({ length: 5 }, () => processOf(port, 'a.test'))
    await until(() => socketsOf(example) === before + 5)
    process.kill(a, 'SIGKILL')
    await example.says(/^the process of a\.test ended; \d clients wait$/m)
    const successors = new Set(await Promise.all(clients))
    assert.equal(successors.size, 1)
    assert.ok(!successors.has(a))
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  })
})
