import assert from 'node:assert/strict'
import { needs } from '../needs.js'
import { curl, startOnPort } from './clients.js'

describe('tracing.mjs', () => {
  before(function () {
    needs(this, 'curl', '--version')
  })

  it('exports one span for each connection, with its requests, when it is closed', async () => {
    const [example, port] = await startOnPort('tracing.mjs', '0')
    const url = `http://127.0.0.1:${port}`
    assert.equal((await curl(`${url}/one`, `${url}/two`)).stdout, 'hello\nhello\n')
    await example.says(/path: '\/two'.*links/s)
    await curl(`${url}/three`)
    await example.says(/path: '\/three'.*links/s)

    const spans = example.stdout.split(/^(?=\{)/m).slice(1)
    assert.deepEqual(
      spans.map((span) => [...span.matchAll(/path: '(.*)'/g)].map(([, path]) => path)),
      [['/one', '/two'], ['/three']],
    )
    for (const span of spans) {
      assert.match(span, /name: 'connection'/)
      assert.match(span, /'client\.address': '(::ffff:)?127\.0\.0\.1',\s+'client\.port': \d+/)
    }
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.equal(example.stderr, '')
  })

  it('exports the span of a connection that a signal ends', async () => {
    const [example, port] = await startOnPort('tracing.mjs', '0')
    const response = await fetch(`http://127.0.0.1:${port}/kept`) // its connection stays open
    assert.equal(await response.text(), 'hello\n')
    assert.doesNotMatch(example.stdout, /connection/)
    example.signal('SIGTERM')
    assert.equal(await example.ended, 0)
    assert.match(example.stdout, /path: '\/kept'/)
  })
})
