import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { join, posix } from 'node:path'
import { text } from 'node:stream/consumers'
import { spawnActivated } from '../../src/index.js'
import { cleanUp, listen, nodeEnvironment, startNode } from '../helpers.js'
import { RunningExample } from '../running-example.js'
import { asModule, install, output, packedFiles, project, run } from './packed.js'

/** The first program of the README, on any port, which it prints. */
function readme(): string {
  const [, program = ''] = /```js\n(.*?)```/s.exec(readFileSync('README.md', 'utf8')) ?? []
  const [opening = ''] = /const listener = .*port: 3000.*\n/.exec(program) ?? []
  assert.notEqual(opening, '')
  return program.replace(opening, `${opening.replace('3000', '0')}console.log(listener.address().port)\n`)
}

/** What a client of that program receives after it has sent a line. */
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

describe('The package', function () {
  // It may compile.
  this.timeout(600_000)

  it('runs the first program of the README, as a module and through require', async () => {
    const program = readme()
    const required = program.replace(/import (.*) from ('async-accept')/, 'const $1 = require($2)')
    const directory = project({
      'package.json': '{ "name": "user" }',
      'program.mjs': program,
      'program.cjs': `(async () => {\n${required}})()\n`,
    })
    install(directory)
    for (const file of ['program.mjs', 'program.cjs']) {
      assert.equal(await answer(join(directory, file)), 'hello ::ffff:127.0.0.1\nis anybody there?\n')
    }
  })

  it('gives inherited sockets to a program in whose project it is installed', async () => {
    const directory = project({
      'package.json': '{ "name": "user" }',
      'server.js': `require('node:http').createServer((_, response) => response.end('answered')).listen(process.env.PORT)`,
    })
    install(directory)
    const web = await listen({ host: '127.0.0.1' })
    const words = ['--import', 'async-accept/inherit', 'server.js']
    const env = { ...nodeEnvironment(), PORT: String(web.port) }
    const child = spawnActivated(process.execPath, words, { web }, { cwd: directory, env, stdio: 'inherit' })
    const ended = once(child, 'exit')
    cleanUp(() => child.kill('SIGKILL'))
    assert.equal(await (await fetch(`http://127.0.0.1:${web.port}`)).text(), 'answered')
    child.kill('SIGTERM')
    assert.deepEqual(await ended, [0, null])
  })

  it('installs the command, which runs the workers of that project', async () => {
    const directory = project({
      'package.json': '{ "name": "user" }',
      'server.js': `
        require('node:http').createServer((_, response) => response.end('answered')).listen(3000)
        setTimeout(() => console.log('listens'))
      `,
    })
    install(directory)
    const env = { ...nodeEnvironment(), ASYNC_ACCEPT_INHERIT: '3000=web', ASYNC_ACCEPT_RUN_DIRECTORY: directory }
    const command = (...words: string[]) =>
      spawn('node_modules/.bin/async-accept', words, { cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'] })
    const supervisor = new RunningExample(command('run', '-n', '1', '-l', 'web=127.0.0.1:0', 'server.js'))
    cleanUp(() => supervisor.signal('SIGQUIT'))
    await supervisor.says(/listens/)
    const status = JSON.parse(await text(command('status', '--json').stdout))
    const port = Number(/port (\d+)/.exec(status.sockets[0].address)?.[1])
    assert.equal(await (await fetch(`http://127.0.0.1:${port}`)).text(), 'answered')
    assert.deepEqual(await once(command('stop'), 'exit'), [0, null])
    assert.equal(await supervisor.ended, 0)
  })

  it('has every file that its documents link to', () => {
    const files = packedFiles()
    const missing = files
      .filter((file) => file.endsWith('.md'))
      .flatMap((file) => {
        const links = [...readFileSync(file, 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(
          ([, link]) => link as string,
        )
        return links.map((link) => posix.join(posix.dirname(file), link))
      })
      .filter((target) => !files.some((file) => file === target || file.startsWith(`${target}/`)))
    assert.deepEqual(missing, [])
  })

  it('compiles the addon where no binary fits, with the command that the error names', () => {
    const directory = project({ 'package.json': '{ "name": "user" }', 'program.mjs': asModule })
    install(directory)
    rmSync(join(directory, 'node_modules/async-accept/prebuilds', `linux-${process.arch}`), { recursive: true })
    const { status, stderr } = run(directory, process.execPath, ['program.mjs'])
    assert.equal(status, 1)
    const [, command] = /Compile the addon with "node ([^"]+)"/.exec(stderr) ?? []
    assert.ok(command !== undefined, stderr)
    const compiled = run(directory, process.execPath, [command])
    assert.equal(compiled.status, 0, compiled.stderr)
    assert.doesNotMatch(compiled.stderr, /warning/)
    assert.equal(output(directory, process.execPath, 'program.mjs'), 'answered\n')
  })

  it('installs as a git dependency, which it prepares from its sources', () => {
    // The files as they are here, also those that are not committed yet.
    const directory = project({ 'package.json': '{ "name": "user" }', 'program.mjs': asModule })
    const repository = join(directory, 'repository')
    const listed = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
      encoding: 'utf8',
    })
    const files = listed.stdout.split('\0').filter((file) => file !== '' && existsSync(file))
    for (const file of files) cpSync(file, join(repository, file))
    for (const args of [
      ['init', '--quiet'],
      ['add', '.'],
      ['commit', '--quiet', '--message=all'],
    ]) {
      output(repository, 'git', '-c', 'user.name=test', '-c', 'user.email=test@localhost', ...args)
    }
    const flags = ['--no-audit', '--no-fund', '--loglevel=error', '--prefer-offline']
    output(directory, 'npm', 'install', ...flags, `git+file://${repository}`)
    assert.equal(output(directory, process.execPath, 'program.mjs'), 'answered\n')
  })
})
