import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { cleanUp, startNode, temporaryDirectory } from './helpers.js'
import { RunningExample } from './running-example.js'

function npm(directory: string, ...args: string[]): string {
  const { error, status, stdout, stderr } = spawnSync('npm', [...args, '--loglevel=error'], {
    cwd: directory,
    encoding: 'utf8',
  })
  assert.equal(status, 0, error?.message ?? stderr)
  return stdout
}

/** The first program of the README, changed to listen on any port and to print it. */
function readme(): string {
  const [, program = ''] = /```js\n(.*?)```/s.exec(readFileSync('README.md', 'utf8')) ?? []
  const [opening = ''] = /const listener = .*port: 3000.*\n/.exec(program) ?? []
  assert.notEqual(opening, '')
  return program.replace(opening, `${opening.replace('3000', '0')}console.log(listener.address().port)\n`)
}

/** Starts the program, and returns its answer to a client that sends a line. */
async function answer(file: string): Promise<string> {
  const example = new RunningExample(startNode(file))
  const [, port] = await example.says(/^(\d+)\n/)
  const client = net.connect(Number(port)).setEncoding('utf8')
  cleanUp(() => client.destroy())
  let received = ''
  client.on('data', (data) => {
    received += data
  })
  client.end('is anybody there?\n')
  await once(client, 'end')
  assert.equal(example.stderr, '')
  return received
}

describe('The package', () => {
  it('installs from its tarball without scripts, and runs with import and with require', async function () {
    // The pack may compile the addon.
    this.timeout(600_000)
    const project = temporaryDirectory()
    const [packed] = JSON.parse(npm('.', 'pack', '--json', `--pack-destination=${project}`))
    assert.deepEqual(
      packed.files.filter(({ path }: { path: string }) => path.includes(`/linux-${process.arch}/`)).length,
      1,
    )
    writeFileSync(`${project}/package.json`, '{}')
    npm(project, 'install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', `./${packed.filename}`)

    const program = readme()
    const said = 'hello ::ffff:127.0.0.1\nis anybody there?\n'
    writeFileSync(`${project}/program.mjs`, program)
    assert.equal(await answer(`${project}/program.mjs`), said)

    const required = program.replace(/import (.*) from ('async-accept')/, 'const $1 = require($2)')
    writeFileSync(`${project}/program.cjs`, `(async () => {\n${required}})()\n`)
    assert.equal(await answer(`${project}/program.cjs`), said)
  })
})
