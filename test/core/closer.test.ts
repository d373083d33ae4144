import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { runNode } from '../helpers.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

describe('A close(2) that blocks', () => {
  // For a minute after a slow close(2), the addon closes unix sockets in the background. Fd limit tests would fail.
  it('does not block the event loop (test/core/closer.apart.ts, in a separate process)', async function () {
    this.timeout(240_000)
    const files = [
      `${root}node_modules/mocha/bin/mocha.js`,
      [`${root}test/core/closer.apart.ts`, '--reporter', 'dot'],
    ] as const
    const { code, stdout, stderr } = await runNode(...files)
    assert.equal(code, 0, `${stdout}\n${stderr}`)
    assert.match(stdout, /\d+ passing/)
    assert.doesNotMatch(stdout, /pending/)
  })
})
