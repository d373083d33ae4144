import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { cleanUp, runNode, startNode, temporaryDirectory } from './helpers.js'
import { needsStrace } from './needs.js'

/** What a fixture printed as JSON; it must have ended well and said nothing else. */
async function report<Report>(fixture: string, ...args: string[]): Promise<Report> {
  const { code, signal, stdout, stderr } = await runNode(fixture, args)
  assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
  return JSON.parse(stdout)
}

interface Codes {
  codes: Record<string, number[]>
  leaked: number
}

interface Round {
  clients: number
  survivor: number
  victim: number
  lost: number
}

// Some start dozens of workers, and each takes as long as a process.
const manyWorkers = 300_000

describe('Listener in a worker', function () {
  this.timeout(manyWorkers)

  it('goes with its worker, however that ends: 50 workers leave no fd behind', async () => {
    const { codes, leaked } = await report<Codes>(
      'worker-lifecycles.mjs',
      '50',
      'terminate',
      'exit',
      'fallOff',
      'close',
    )
    const expected = { terminate: Array(13).fill(1), exit: Array(13).fill(7) }
    assert.deepEqual(codes, { ...expected, fallOff: Array(12).fill(0), close: Array(12).fill(0) })
    assert.equal(leaked, 0)
  })

  it('is terminated while it accepts a stream of connections, 20 times, and no fd is left', async () => {
    const { codes, leaked } = await report<{ codes: number[]; leaked: number }>('worker-terminated.mjs')
    assert.deepEqual(codes, Array(20).fill(1))
    assert.equal(leaked, 0)
  })

  it('is terminated while it serves http, and only what it has is lost; one that drains loses nothing', async () => {
    const expected = { drainedWithoutFailure: 5, tooManyFailed: 0, leaked: 0 }
    assert.deepEqual(await report('worker-serves.mjs', '15'), expected)
  })

  it('is terminated while it makes sockets of its connections, at any point of that', async () => {
    const expected = { rounds: 80, leaked: 0 }
    assert.deepEqual(await report('worker-terminated-busy.mjs', '80'), expected)
  })

  it('closes no fd twice when it is terminated, which would close what another thread has opened since', async function () {
    needsStrace(this)
    const log = join(temporaryDirectory(), 'log')
    const trace = `strace -f -qq --seccomp-bpf -e trace=close -e status=failed -e signal=none -o ${log}`.split(' ')
    const { code, signal } = await runNode('worker-terminated-busy.mjs', ['80'], trace)
    assert.deepEqual({ code, signal }, { code: 0, signal: null })
    assert.doesNotMatch(readFileSync(log, 'utf8'), /EBADF/)
  })

  it('closes unclaimed connections when it is terminated, but not the fds that it gave away', async () => {
    assert.deepEqual(await report('worker-unclaimed.mjs'), { unclaimed: 0, detached: 3 })
  })

  it('can be terminated in the midst of a native call', async () => {
    assert.deepEqual(await report('worker-in-call.mjs'), Array(45).fill(1))
  })

  it("surfaces what an 'accept' handler throws as the worker's error", async () => {
    assert.deepEqual(await report('worker-handler-throws.mjs'), { errors: ['from the handler'], code: 1 })
  })
})

describe('A listening socket that several threads share', function () {
  this.timeout(manyWorkers)

  it('gives every client to exactly one of them', async () => {
    const child = startNode('shared-listener.mjs')
    const stdout = child.stdout as NodeJS.ReadableStream
    const port = Number(String((await once(stdout, 'data'))[0]))
    const rest = text(stdout)
    const names = await Promise.all(
      Array.from({ length: 600 }, async () => {
        const client = net.connect({ port, host: '127.0.0.1' })
        cleanUp(() => client.destroy())
        return text(client)
      }),
    )
    child.stdin?.end()
    const [code, signal] = await once(child, 'exit')
    assert.deepEqual([code, signal, await text(child.stderr as NodeJS.ReadableStream)], [0, null, ''])
    const by = (wanted: string) => names.filter((name) => name === wanted).length
    assert.deepEqual(JSON.parse(await rest), { main: by('main'), one: by('one'), two: by('two') })
    assert.equal(by('main') + by('one') + by('two'), 600)
  })

  it('keeps the clients in the backlog for the others when one is terminated with requests outstanding', async () => {
    const rounds = await report<Round[]>('shared-terminated.mjs', 'busy', '20')
    assert.deepEqual(rounds, Array(20).fill({ clients: 50, survivor: 50, victim: 0, lost: 0 }))
  })

  it('loses no client but one that a terminated thread has just accepted', async () => {
    const rounds = await report<Round[]>('shared-terminated.mjs', 'stream', '20')
    assert.equal(rounds.length, 20)
    for (const { clients, survivor, victim, lost } of rounds) {
      assert.equal(survivor + victim + lost, clients)
      assert.ok(lost <= 1, `${lost} of ${clients} lost`)
      // Those who came when it had gone, at least.
      assert.ok(survivor >= 20)
    }
  })
})

describe('process.exit', () => {
  it('ends with its code although requests are outstanding and connections are open', async () => {
    const { code, signal, stderr } = await runNode('exit-while-accepting.mjs', ['42'])
    assert.deepEqual({ code, signal, stderr }, { code: 42, signal: null, stderr: '' })
  })
})
