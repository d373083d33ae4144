import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { reservedPort } from '../activated.js'
import { ServiceManager } from '../handover/service-manager.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needs } from '../needs.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** A unit of examples/run, with the paths of this machine, and other ports and workers if they are given. */
function unit(name: string, port?: number, directory = ''): string {
  const text = readFileSync(join(root, 'examples/run', name), 'utf8')
    .replace('/usr/bin/node', process.execPath)
    .replace('/opt/async-accept', root)
  if (port === undefined) return text
  return text
    .replace('ListenStream=3000', `ListenStream=127.0.0.1:${port}`)
    .replace('-n 4', '-n 2')
    .replace('server.mjs', `server.mjs ${port}`)
    .replace('[Service]', `[Service]\nEnvironment=ASYNC_ACCEPT_RUN_DIRECTORY=${directory}`)
}

/** Clients in a process of their own, because systemctl(1) blocks this one. One follows the other. */
class Clients {
  /** The different answers so far. */
  readonly answers = new Set<string>()
  readonly #child: ReturnType<typeof spawn>
  #errors = ''

  constructor(port: number) {
    const code = `
      const url = 'http://127.0.0.1:' + process.argv[1]
      for (;;) console.log(await (await fetch(url, { headers: { connection: 'close' } })).text())
    `
    this.#child = spawn(process.execPath, ['--input-type=module', '-e', code, String(port)], { stdio: 'pipe' })
    cleanUp(() => this.#child.kill('SIGKILL'))
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.split('\n')) if (/^hello from process \d+$/.test(line)) this.answers.add(line)
    })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text
    })
  }

  /** Resolves with the error of the first client that failed. */
  async end(): Promise<string> {
    const closed = once(this.#child, 'close')
    this.#child.kill('SIGKILL')
    await closed
    return this.#errors
  }
}

describe('The units of examples/run', function () {
  this.timeout(60_000)
  let manager: ServiceManager

  before(async function () {
    manager = await ServiceManager.start(this)
  })
  after(() => manager?.end())
  leaveNoFds()

  it('serve with several workers, which a reload and a restart replace without a refused client', async () => {
    const port = reservedPort()
    const directory = temporaryDirectory()
    manager.units({ 'app.socket': unit('app.socket', port), 'app.service': unit('app.service', port, directory) })
    manager.control('start', 'app.socket')
    cleanUp(() => manager.control('stop', 'app.socket', 'app.service'))
    const clients = new Clients(port)
    await until(() => clients.answers.size > 0)
    await until(() => manager.show('app.service', 'StatusText') === '2 of 2 workers are ready')
    const pid = manager.show('app.service', 'MainPID')
    const before = clients.answers.size
    manager.control('reload', 'app.service')
    await until(() => clients.answers.size > before)
    assert.equal(manager.show('app.service', 'MainPID'), pid)
    const reloaded = clients.answers.size
    manager.control('restart', 'app.service')
    await until(() => clients.answers.size > reloaded)
    assert.notEqual(manager.show('app.service', 'MainPID'), pid)
    assert.equal(await clients.end(), '')
    manager.control('stop', 'app.service')
    assert.equal(manager.show('app.service', 'Result'), 'success')
  })

  it('keep a socket that the supervisor has bound across a restart, with a store for fds', async () => {
    const port = reservedPort()
    const service = unit('app.service', port, temporaryDirectory())
      .replace('Requires=app.socket', '')
      .replace('run -n 2', `run -n 1 -l web=127.0.0.1:${port}`)
      .replace('[Service]', '[Service]\nFileDescriptorStoreMax=4')
    manager.units({ 'store.service': service })
    manager.control('start', 'store.service')
    cleanUp(() => manager.control('stop', 'store.service'))
    assert.equal(manager.show('store.service', 'NFileDescriptorStore'), '1')
    const clients = new Clients(port)
    await until(() => clients.answers.size > 0)
    manager.control('restart', 'store.service')
    await until(() => clients.answers.size > 1)
    assert.equal(await clients.end(), '')
    assert.equal(manager.show('store.service', 'NFileDescriptorStore'), '1')
  })

  it('pass systemd-analyze verify', function () {
    needs(this, 'systemd-analyze', '--version')
    const directory = temporaryDirectory()
    const files = ['app.socket', 'app.service'].map((name) => {
      writeFileSync(join(directory, name), unit(name))
      return join(directory, name)
    })
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...files], { encoding: 'utf8' })
    assert.deepEqual({ status, stderr }, { status: 0, stderr: '' })
  })
})
