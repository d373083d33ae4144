import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { cleanUp, runNode, startNode, temporaryDirectory } from './helpers.js'
import { needsStrace } from './needs.js'

/** The JSON that a fixture prints. Asserts that the fixture exits cleanly and prints nothing else. */
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

// Some fixtures start dozens of workers, each of which takes as long as a process.
const manyWorkers = 300_000

describe('Listener in a worker', function () {
  this.timeout(manyWorkers)

  it('is closed at every kind of worker exit: 50 workers leak no fd', async () => {
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

  it('survives 20 worker terminations while it accepts connections, and leaks no fd', async () => {
    const { codes, leaked } = await report<{ codes: number[]; leaked: number }>('worker-terminated.mjs')
    assert.deepEqual(codes, Array(20).fill(1))
    assert.equal(leaked, 0)
  })

  it('loses only open connections when its worker is terminated while it serves HTTP, and none when it drains', async () => {
    const expected = { drainedWithoutFailure: 5, tooManyFailed: 0, leaked: 0 }
    assert.deepEqual(await report('worker-serves.mjs', '15'), expected)
  })

  it('survives worker termination at any point during toSocket()', async () => {
    const expected = { rounds: 80, leaked: 0 }
    assert.deepEqual(await report('worker-terminated-busy.mjs', '80'), expected)
  })

  it('closes no fd twice on worker termination, which could close a new fd of another thread', async function () {
    needsStrace(this)
    const log = join(temporaryDirectory(), 'log')
    const trace = `strace -f -qq --seccomp-bpf -e trace=close -e status=failed -e signal=none -o ${log}`.split(' ')
    const { code, signal } = await runNode('worker-terminated-busy.mjs', ['80'], trace)
    assert.deepEqual({ code, signal }, { code: 0, signal: null })
    assert.doesNotMatch(readFileSync(log, 'utf8'), /EBADF/)
  })

  it('closes unclaimed connections on worker termination, but not detached fds', async () => {
    assert.deepEqual(await report('worker-unclaimed.mjs'), { unclaimed: 0, detached: 3 })
  })

  it('survives worker termination during a native call', async () => {
    assert.deepEqual(await report('worker-in-call.mjs'), Array(45).fill(1))
  })

  it("emits the exception of an 'accept' handler as the worker's error", async () => {
    assert.deepEqual(await report('worker-handler-throws.mjs'), { errors: ['from the handler'], code: 1 })
  })
})

describe('A listening socket shared by several threads', function () {
  this.timeout(manyWorkers)

  it('delivers every client to exactly one thread', async () => {
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

  it('keeps clients in the backlog for the other threads when a thread with outstanding requests is terminated', async () => {
    const rounds = await report<Round[]>('shared-terminated.mjs', 'busy', '20')
    assert.deepEqual(rounds, Array(20).fill({ clients: 50, survivor: 50, victim: 0, lost: 0 }))
  })

  it('loses at most the one client that a terminated thread has just accepted', async () => {
    const rounds = await report<Round[]>('shared-terminated.mjs', 'stream', '20')
    assert.equal(rounds.length, 20)
    for (const { clients, survivor, victim, lost } of rounds) {
      assert.equal(survivor + victim + lost, clients)
      assert.ok(lost <= 1, `${lost} of ${clients} lost`)
      // At least the clients that connected after the termination.
      assert.ok(survivor >= 20)
    }
  })
})

describe('process.exit', () => {
  it('exits with its code despite outstanding requests and open connections', async () => {
    const { code, signal, stderr } = await runNode('exit-while-accepting.mjs', ['42'])
    assert.deepEqual({ code, signal, stderr }, { code: 42, signal: null, stderr: '' })
  })
})
