import assert from 'node:assert/strict'
import { type Finished, nodeEnvironment, runNode } from './helpers.js'

/** The output of test/fixtures/hardened.mjs: a line for each way in which a request ends. */
async function outcomes(hardening: string[], flag?: string): Promise<string[]> {
  const { NODE_OPTIONS = '' } = nodeEnvironment()
  const command = flag === undefined ? [] : ['env', `NODE_OPTIONS=${NODE_OPTIONS} ${flag}`]
  const finished: Finished = await runNode('hardened.mjs', hardening, command)
  assert.equal(finished.code, 0, finished.stderr)
  return finished.stdout.trim().split('\n')
}

// Errors of Node's classes, whose stacks the package never reads.
const withoutStacks = (lines: string[]) => lines.map((line) => line.replace(/(keys=\S*) .*/, '$1'))

describe('A listener in a hardened environment', () => {
  let usual: string[]

  before(async () => {
    usual = await outcomes(['nothing'])
  })

  it('ends each request with its error code, which the stack contains', () => {
    const uncoded = usual.filter((line) => / keys=/.test(line) && !/ (E[A-Z_]+|ABORT_ERR) /.test(line))
    assert.deepEqual(uncoded, [])
    const hidden = usual.filter((line) => {
      const [, code = '', header = ''] = / (ERR_\w+) \w+ keys=\S* (.*)/.exec(line) ?? []
      return code !== '' && !header.includes(`Error [${code}]: `)
    })
    assert.deepEqual(hidden, [])
    assert.ok(usual.includes('aborted: ABORT_ERR AbortError keys=code AbortError: The operation was aborted'))
    assert.ok(!usual.some((line) => /keys=\S*name/.test(line)), usual.join('\n'))
    assert.equal(usual.at(-1), 'uncaught: 0')
  })

  const same = ['frozen Error', 'frozen prototypes', 'frozen intrinsics', 'sealed and frozen Error']
  for (const hardening of same) {
    it(`works the same: ${hardening}`, async () => {
      assert.deepEqual(await outcomes([hardening]), usual)
    })
  }

  it('works the same: node --frozen-intrinsics', async () => {
    assert.deepEqual(await outcomes(['nothing'], '--frozen-intrinsics'), usual)
  })

  it('delivers the same results when Node can create no emitters: frozen EventEmitter', async () => {
    const made = ['handler']
    assert.deepEqual(
      await outcomes(['frozen EventEmitter']),
      usual.filter((line) => !made.includes(line.split(':')[0] as string)),
    )
  })

  for (const hardening of [
    'Error.prepareStackTrace that throws',
    'Error.stackTraceLimit that throws',
    'no Error.stackTraceLimit',
  ]) {
    it(`ends each request with its error code: ${hardening}`, async () => {
      assert.deepEqual(withoutStacks(await outcomes([hardening])), withoutStacks(usual))
    })
  }

  // Properties that the package's own objects may lack, those of its errors, and those of property descriptors. Without
  // properties of options or of the language (`timeout`, `then`): the caller gets the exceptions of their getters.
  const names = ['code', 'errno', 'syscall', 'address', 'port', 'family', 'option', 'cause', 'reason', 'name', 'stack']
  const more = ['ref', 'connection', 'promise', 'last', 'peer', 'keeper', 'deliver', 'get', 'set', 'value', 'writable']
  it('ends each request with its error code when Object.prototype has getters that throw', async () => {
    const all = [...names, ...more]
    assert.deepEqual(await outcomes(['getters on Object.prototype that throw', ...all]), usual)
  })
})
