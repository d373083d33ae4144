import assert from 'node:assert/strict'
import { once } from 'node:events'
import type net from 'node:net'
import { createInterface } from 'node:readline'
import { dial } from '../backlog.js'
import { startNode, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'

/** Runs test/fixtures/lifetime.mjs, and sends it actions. */
class Process {
  readonly lines: string[] = []
  #child
  #closed

  constructor(...actions: string[]) {
    this.#child = startNode('lifetime.mjs', actions)
    this.#closed = once(this.#child, 'close')
    this.#child.stderr?.pipe(process.stderr)
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => this.lines.push(line))
  }

  async says(line: string): Promise<void> {
    await until(() => this.lines.includes(line) || this.#child.exitCode !== null)
    assert.ok(this.lines.includes(line), `the process ended without "${line}": ${this.lines.join(', ')}`)
  }

  /** Resolves when the process answers after its start, without having reached 'beforeExit'. */
  async isAlive(): Promise<void> {
    await until(() => this.lines[0]?.startsWith('ready') || this.#child.exitCode !== null)
    const word = `alive${this.lines.length}`
    this.do(`say ${word}`)
    await this.says(word)
    assert.ok(!this.lines.includes('nothing to do'), this.lines.join(', '))
  }

  do(action: string): void {
    this.#child.stdin?.write(`${action}\n`)
  }

  connect(): Promise<net.Socket> {
    return dial({ host: '127.0.0.1', port: Number(this.lines[0]?.split(' ')[1]) })
  }

  /** Resolves with the lines since the start, when the process has exited by itself. */
  async ended(): Promise<string[]> {
    assert.deepEqual(await this.#closed, [0, null])
    const ready = this.lines.findIndex((line) => line.startsWith('ready'))
    return this.lines.slice(ready + 1).filter((line) => !line.startsWith('alive'))
  }
}

describe('A process with a listener', () => {
  leaveNoFds()

  it('exits when no request is outstanding', async () => {
    assert.deepEqual(await new Process().ended(), ['nothing to do'])
  })

  it('stays alive until every request is cancelled', async () => {
    const child = new Process('ask', 'ask')
    await child.isAlive()
    child.do('cancel')
    await child.says('cancelled true')
    await child.isAlive()
    child.do('cancel')
    assert.deepEqual(await child.ended(), ['cancelled true', 'cancelled true', 'nothing to do'])
  })

  it('stays alive until the request is served', async () => {
    const child = new Process('ask')
    await child.isAlive()
    await child.connect()
    assert.deepEqual(await child.ended(), ['accepted', 'nothing to do'])
  })

  it('stays alive until the request times out', async () => {
    const child = new Process('ask 10', 'ask 20')
    assert.deepEqual(await child.ended(), ['ERR_ACCEPT_TIMEOUT', 'ERR_ACCEPT_TIMEOUT', 'nothing to do'])
  })

  it('stays alive until the listener closes', async () => {
    const child = new Process('ask')
    await child.isAlive()
    child.do('close')
    assert.deepEqual(await child.ended(), ['ERR_LISTENER_CLOSED', 'nothing to do'])
  })

  it('exits despite requests once the listener is unref()ed', async () => {
    for (const actions of [
      ['ask', 'unref'],
      ['unref', 'ask'],
      ['ask 600000', 'unref'],
      ['ask', 'unref', 'ask'],
      ['ref', 'unref', 'unref', 'ask'],
    ]) {
      assert.deepEqual(await new Process(...actions).ended(), ['nothing to do'], actions.join(', '))
    }
  })

  it('exits when the listener is unref()ed later', async () => {
    const child = new Process('ask')
    await child.isAlive()
    child.do('unref')
    assert.deepEqual(await child.ended(), ['nothing to do'])
  })

  it('stays alive when the listener is ref()ed again', async () => {
    for (const actions of [
      ['ask', 'unref', 'ref'],
      ['unref', 'ref', 'ask'],
      ['unref', 'ask', 'ref'],
    ]) {
      const child = new Process(...actions)
      await child.isAlive()
      child.do('cancel')
      assert.deepEqual(await child.ended(), ['cancelled true', 'nothing to do'], actions.join(', '))
    }
  })

  it('exits after ref() without a request', async () => {
    assert.deepEqual(await new Process('unref', 'ref').ended(), ['nothing to do'])
    assert.deepEqual(await new Process('ask', 'unref', 'ref', 'cancel').ended(), ['nothing to do'])
  })
})
