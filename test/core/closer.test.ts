import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { runNode } from '../helpers.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

describe('A close(2) that waits', () => {
  // A minute long after it, closes of other unix sockets are not waited for. Tests at the fd limit would notice.
  it('does not stop the event loop: test/core/closer.apart.ts, in a process of its own', async function () {
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
