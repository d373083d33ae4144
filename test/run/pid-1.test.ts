import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { cleanUp, nodeEnvironment, temporaryDirectory, until } from '../helpers.js'
import { needs, skip } from '../needs.js'
import { RunningExample } from '../running-example.js'
import { Supervised } from './supervised.js'

const namespace = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']

/** Answers with the pid of a grandchild that was orphaned, and has ended or ends soon. */
const orphaning = `
  import { spawn } from 'node:child_process'
  import http from 'node:http'
  http.createServer((request, response) => {
    const shell = spawn('sh', ['-c', '(sleep 0.1 & echo $!)'], { stdio: ['ignore', 'pipe', 'inherit'] })
    shell.stdout.once('data', (pid) => response.end(String(pid).trim()))
  }).listen(3000)
`

/** The states of the processes below a process, outside of its namespace. */
function statesBelow(pid: number): string[] {
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return all.flatMap((name) => {
    try {
      const [, state = '', parent] = /\) (\S) (\d+) /.exec(readFileSync(`/proc/${name}/stat`, 'utf8')) ?? []
      return Number(parent) === pid ? [state, ...statesBelow(Number(name))] : []
    } catch {
      return []
    }
  })
}

/**
 * Makes a root file system like that of an image without a shell: Node.js and env(1), the libraries of both, and in
 * `/app` the installed package and the server of the example.
 */
function makeImage(): string {
  const root = temporaryDirectory()
  const copy = (file: string, to = file) => {
    mkdirSync(dirname(join(root, to)), { recursive: true })
    copyFileSync(file, join(root, to))
  }
  const addon = 'build/Release/async_accept.node'
  const libraries = execFileSync('ldd', [process.execPath, '/usr/bin/env', addon], { encoding: 'utf8' })
  for (const library of new Set(libraries.match(/\/\S+\.so\S*(?= \()/g))) copy(library)
  copy('/usr/bin/env')
  copy(process.execPath, '/usr/local/bin/node')
  const modules = '/app/node_modules'
  for (const file of ['package.json', addon]) copy(file, `${modules}/async-accept/${file}`)
  cpSync('dist', join(root, modules, 'async-accept/dist'), { recursive: true })
  // As npm does.
  chmodSync(join(root, modules, 'async-accept/dist/run/main.js'), 0o755)
  mkdirSync(join(root, modules, '.bin'))
  symlinkSync('../async-accept/dist/run/main.js', join(root, modules, '.bin/async-accept'))
  copy('examples/run/server.mjs', '/app/server.mjs')
  for (const directory of ['dev', 'proc', 'run']) mkdirSync(join(root, directory))
  writeFileSync(join(root, 'dev/null'), '')
  return root
}

/** The `CMD` of the example, with one worker, on any port, and without its delays. */
function commandOfImage(): string[] {
  const [, json = ''] = /^CMD (.*)$/m.exec(readFileSync('examples/run/Dockerfile', 'utf8')) ?? []
  const [program, run, ...words]: string[] = JSON.parse(json)
  const changed = words.map((word) => ({ 'web=3000': 'web=127.0.0.1:0', 5: '0' })[word] ?? word)
  return [program as string, run as string, '-n', '1', '--settle', '0', ...changed]
}

describe('async-accept run as PID 1', function () {
  this.timeout(60_000)

  it('releases the processes that are orphaned to it, and ends at SIGTERM', async function () {
    const [program = '', ...words] = namespace
    needs(this, program, ...words, 'true')
    const supervised = await new Supervised(orphaning, { options: ['-n', '1'], before: namespace }).ready(1)
    // Of unshare, the supervisor and the worker.
    for (let i = 0; i < 5; i++) assert.match(await supervised.request(), /^\d+$/)
    await until(() => statesBelow(supervised.pid).length === 2)
    assert.ok(!statesBelow(supervised.pid).includes('Z'))
    assert.equal((await supervised.status()).pid, 1)
    execFileSync('pkill', ['-TERM', '-P', String(supervised.pid)])
    assert.equal(await supervised.run.ended, 0)
  })

  it('serves, reloads and ends in an image without a shell', async function () {
    if (process.env.ASYNC_ACCEPT_ADDON !== undefined) skip(this, 'the image contains the addon of the package')
    const [program = '', ...words] = namespace
    needs(this, program, ...words, '--root=/', 'true')
    const { NODE_OPTIONS } = nodeEnvironment()
    const env = { PATH: '/usr/local/bin:/usr/bin:/bin', NODE_OPTIONS, ASYNC_ACCEPT_INHERIT: '3000=web' }
    const child = spawn(program, [...words, `--root=${makeImage()}`, '--wd=/app', ...commandOfImage()], { env })
    const run = new RunningExample(child)
    cleanUp(async () => {
      child.kill('SIGKILL')
      await run.ended
    })
    const signal = (name: string) => execFileSync('pkill', [`-${name}`, '-P', String(child.pid)])
    const answer = async () => (await fetch(`http://127.0.0.1:${port}`)).text()
    const says = (text: string) =>
      until(() => {
        assert.equal(child.exitCode, null, run.stderr)
        return run.stderr.includes(text)
      })
    await says('is ready')
    const [, port] = /port (\d+)/.exec(run.stderr) ?? []
    const before = await answer()
    assert.match(before, /^hello from process/)
    signal('HUP')
    await says('has ended')
    assert.notEqual(await answer(), before)
    signal('TERM')
    assert.equal(await run.ended, 0)
  })
})
