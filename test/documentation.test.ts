import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { codes } from '../src/index.js'
import { cleanUp, runNode } from './helpers.js'

const read = (file: string) => readFileSync(new URL(`../${file}`, import.meta.url), 'utf8')

interface Snippet {
  title: string
  code: string
  output: string
}

// A program is a js block followed by a text block with its output.
function snippets(file: string): Snippet[] {
  const blocks = read(file).matchAll(/```js\n((?:(?!```).)*)```\n\n```text\n(.*?)```/gs)
  return [...blocks].map(([, code = '', output = ''], index) => ({ title: `${file} ${index + 1}`, code, output }))
}

describe('The documentation', () => {
  for (const file of ['README.md', 'docs/api.md', 'docs/migrating.md', 'docs/operations.md']) {
    it(`has programs in ${file}`, () => assert.notEqual(snippets(file).length, 0))

    for (const { title, code, output } of snippets(file)) {
      it(`has a program that prints the shown output: ${title}`, async () => {
        // Inside the package, so that the program can import the package by its name.
        const directory = mkdtempSync('build/documentation-')
        cleanUp(() => rmSync(directory, { recursive: true }))
        writeFileSync(`${directory}/program.mjs`, code)
        const finished = await runNode(`${directory}/program.mjs`)
        assert.deepEqual(finished, { code: 0, signal: null, stdout: output, stderr: '' })
      })
    }
  }

  it('shows the same echo server as examples', () => {
    const example = read('examples/echo.mjs')
    const [, shown = ''] = /```js\n(.*?)```/s.exec(read('README.md')) ?? []
    const loop = shown.slice(shown.indexOf('for await'))
    assert.notEqual(loop, '')
    assert.ok(example.includes(loop.trim()), 'the loops in examples/echo.mjs and README.md differ')
  })

  it('serves and drains with the last program of README.md', async () => {
    const [code = ''] = [...read('README.md').matchAll(/```js\n(.*?)```/gs)].map(([, block]) => block).slice(-1)
    assert.ok(code.includes('port: 3000'))
    const client = `
      const response = await fetch(\`http://127.0.0.1:\${server.address().port}\`)
      process.stdout.write(await response.text())
      process.kill(process.pid, 'SIGTERM')
    `
    const directory = mkdtempSync('build/documentation-')
    cleanUp(() => rmSync(directory, { recursive: true }))
    writeFileSync(`${directory}/program.mjs`, code.replace('port: 3000', 'port: 0') + client)
    const finished = await runNode(`${directory}/program.mjs`)
    assert.deepEqual(finished, { code: 0, signal: null, stdout: 'hello\n', stderr: '' })
  })

  it('lists every error code', () => {
    const api = read('docs/api.md')
    assert.deepEqual(
      Object.keys(codes).filter((code) => !api.includes(`\`${code}\``)),
      [],
    )
  })

  it('lists every source file in CONTRIBUTING.md', () => {
    const contributing = read('CONTRIBUTING.md')
    const files = ['native', 'src'].flatMap((directory) =>
      readdirSync(directory, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ name }) => name),
    )
    const missing = files.filter((file) => {
      const source = file.replace(/\.h$/, '.cc')
      return !contributing.includes(`  ${files.includes(source) ? source : file} `)
    })
    assert.deepEqual(missing, [])
  })
})
