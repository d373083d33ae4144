import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import https from 'node:https'
import { cleanUp, until } from './helpers.js'
import { ask, eventsOf, openEvents, type Status, startMachines } from './running-machines.js'

type Events = AsyncGenerator<[string, string]>

/** Reads events until one of them has a status for which `condition` holds. */
async function statusWith(events: Events, condition: (status: Status) => boolean): Promise<Status> {
  for (;;) {
    const { value, done } = await events.next()
    assert.equal(done, false, 'the stream has ended')
    const status: Status = JSON.parse(value[1])
    if (condition(status)) return status
  }
}

/** Collects what is written. */
class FakeResponse extends EventEmitter {
  written: string[] = []
  writableLength = 0
  writableEnded = false
  writeHead(): void {}
  write(text: string): void {
    this.written.push(text)
  }
  end(text: string): void {
    this.written.push(text)
    this.writableEnded = true
    this.emit('close')
  }
  get updates(): string[] {
    return this.written.filter((text) => text.startsWith('data:'))
  }
}

describe('GET /events of examples/http2-machines.mjs', () => {
  it('sends the status at once, and again when it changes', async () => {
    const machines = await startMachines(['--machines', '3'])
    const stream = openEvents(await machines.session())
    const [headers] = await once(stream, 'response')
    assert.equal(headers['content-type'], 'text/event-stream')
    const events = eventsOf(stream)
    const first = await statusWith(events, () => true)
    assert.deepEqual(first.refs, [2, 3, 4])
    const other = await machines.session()
    const { pool, refs } = await statusWith(events, (status) => status.pool.connected === 2)
    assert.deepEqual(refs, [3, 4, 5])
    assert.equal(pool.listening, 3)
    other.close()
    await statusWith(events, (status) => status.pool.connected === 1)
  })

  it('works over HTTP/1.1', async () => {
    const machines = await startMachines()
    const request = https.get(machines.url('/events'), { rejectUnauthorized: false, agent: false })
    cleanUp(() => request.destroy())
    request.on('error', () => {})
    const [response] = await once(request, 'response')
    const events = eventsOf(response.setEncoding('utf8'))
    await statusWith(events, ({ pool }) => pool.connected === 1)
    const session = await machines.session()
    await statusWith(events, ({ pool }) => pool.connected === 2)
    session.close()
  })

  it('ends in a drain, which then does not wait', async () => {
    const machines = await startMachines(['--drain-timeout', '3600'])
    // Node's client drops data that nothing has read when the server closes the session. 'data' listeners read at once.
    const received = await Promise.all(
      Array.from({ length: 5 }, async () => {
        const stream = openEvents(await machines.session())
        const chunks: string[] = []
        stream.on('data', (chunk) => chunks.push(chunk))
        await until(() => chunks.join('').includes('data: '))
        return { chunks, closed: once(stream, 'close') }
      }),
    )
    machines.signal('SIGINT')
    for (const { chunks, closed } of received) {
      await closed
      assert.match(chunks.join(''), /\n\nevent: stop\ndata:\n\n$/)
    }
    assert.equal(await machines.ended, 0)
    assert.match(machines.stdout, /\ndrained\n$/)
  })

  it('is limited to 50 streams, and counts a stream until its client leaves', async () => {
    const machines = await startMachines()
    const session = await machines.session()
    const open = async () => {
      const stream = openEvents(session)
      const [headers] = await once(stream, 'response')
      return { stream, status: headers[':status'] }
    }
    const streams = await Promise.all(Array.from({ length: 50 }, open))
    assert.deepEqual([...new Set(streams.map(({ status }) => status))], [200])
    const { stream, status } = await open()
    assert.equal(status, 503)
    stream.close()
    streams[0]?.stream.close()
    await until(async () => {
      const next = await open()
      if (next.status !== 200) next.stream.close()
      return next.status === 200
    })
    assert.equal(JSON.parse(await ask(session, '/status')).pool.connected, 1)
    assert.equal(machines.stderr, '')
  })
})

describe('EventStreams', () => {
  interface Streams {
    add(response: FakeResponse): boolean
    end(): void
  }
  let EventStreams: new (read: () => unknown, options: object) => Streams

  before(async () => {
    // A variable, because the example has no types.
    const file = '../examples/http2-machines/event-streams.mjs'
    EventStreams = (await import(file)).EventStreams
  })

  /** Event streams of `state.value`, which look for a change every millisecond. */
  function streams(options = {}): {
    state: { value: number; reads: number }
    events: InstanceType<typeof EventStreams>
  } {
    const state = { value: 0, reads: 0 }
    const read = () => {
      state.reads++
      return state.value
    }
    const events = new EventStreams(read, { interval: 1, ...options })
    cleanUp(() => events.end())
    return { state, events }
  }

  it('send each status once to each client, with one read for all of them', async () => {
    const { state, events } = streams()
    const clients = Array.from({ length: 20 }, () => new FakeResponse())
    for (const client of clients) events.add(client)
    state.reads = 0
    await until(() => state.reads === 10)
    state.value = 1
    await until(() => state.reads >= 20)
    for (const client of clients) assert.deepEqual(client.updates, ['data: 0\n\n', 'data: 1\n\n'])
  })

  it('read nothing without a client', async () => {
    const { state, events } = streams()
    const [gone, stays] = [new FakeResponse(), new FakeResponse()]
    events.add(gone)
    gone.emit('close')
    const { reads } = state
    const other = streams()
    other.events.add(stays)
    await until(() => other.state.reads > 20)
    assert.equal(state.reads, reads)
  })

  it('skip updates for a slow client, which then gets the newest', async () => {
    const { state, events } = streams()
    const [slow, fast] = [new FakeResponse(), new FakeResponse()]
    for (const client of [slow, fast]) events.add(client)
    slow.writableLength = 1
    for (const value of [1, 2, 3]) {
      state.value = value
      await until(() => fast.updates.at(-1) === `data: ${value}\n\n`)
    }
    assert.deepEqual(slow.updates, ['data: 0\n\n'])
    slow.writableLength = 0
    await until(() => slow.updates.length > 1)
    assert.deepEqual(slow.updates, ['data: 0\n\n', 'data: 3\n\n'])
  })

  it('send a comment after some time without a change', async () => {
    const { events } = streams({ heartbeat: 5 })
    const client = new FakeResponse()
    events.add(client)
    await until(() => client.written.filter((text) => text === ':\n\n').length === 3)
    assert.equal(client.updates.length, 1)
  })

  it('refuse clients after end()', () => {
    const { events } = streams()
    const client = new FakeResponse()
    events.add(client)
    events.end()
    assert.deepEqual(client.written.at(-1), 'event: stop\ndata:\n\n')
    assert.equal(events.add(new FakeResponse()), false)
  })
})
