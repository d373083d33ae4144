import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { listen, runNode } from '../helpers.js'
import { startOnPort } from './clients.js'

const examples = readdirSync(import.meta.dirname)
  .map((name) => name.replace('.test.ts', '.mjs'))
  .filter((name) => name.endsWith('.mjs') && name !== 'command-line.mjs')

/** The exit code and the output of an example that must fail with one line on stderr. */
async function failureOf(name: string, ...args: string[]): Promise<string> {
  const { code, signal, stdout, stderr } = await runNode(`examples/${name}`, args)
  assert.deepEqual({ signal, stdout }, { signal: null, stdout: '' })
  assert.match(stderr, /^.+\n$/)
  return `${code} ${stderr}`
}

for (const name of examples) {
  describe(`the command line of ${name}`, () => {
    const program = name.replace('.mjs', '')

    it('rejects a wrong port', async () => {
      for (const port of ['65536', 'x', '-1', '']) {
        const expected = `2 ${program}: port must be a whole number from 0 to 65535, not '${port}'; usage: node ${name} [port]`
        assert.ok((await failureOf(name, port)).startsWith(expected))
      }
    })

    it('rejects an argument too many', async () => {
      assert.match(await failureOf(name, '0', ...Array(9).fill('1')), /^2 .*: unexpected argument '1'; usage: /)
    })

    it('fails on a port that is in use', async () => {
      const port = String((await listen()).port)
      assert.equal(await failureOf(name, port), `1 ${program}: port ${port} is in use\n`)
    })

    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      it(`exits with 0 after ${signal}, and frees the port`, async () => {
        const args = name === 'metrics.mjs' ? ['0', '0'] : ['0']
        const [example, port] = await startOnPort(name, ...args)
        example.signal(signal)
        assert.equal(await example.ended, 0)
        assert.equal(example.stderr, '')
        await listen({ port: port as number })
      })
    }
  })
}
