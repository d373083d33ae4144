import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Activated } from '../../src/index.js'
import { reservedPort } from '../activated.js'
import { temporary } from '../descriptors.js'
import { cleanUp, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { needs } from '../needs.js'
import { ServiceManager } from './service-manager.js'

const service = fileURLToPath(new URL('../fixtures/service.mjs', import.meta.url))

interface Hello {
  pid: number
  found: Activated[]
  remotePort?: number
  REMOTE_ADDR?: string
  REMOTE_PORT?: string
}

/** A client of fixtures/service.mjs. */
class Client {
  readonly socket: net.Socket
  readonly #lines: AsyncIterator<string>

  constructor(where: net.NetConnectOpts) {
    this.socket = temporary(net.connect(where))
    this.#lines = createInterface(this.socket)[Symbol.asyncIterator]()
  }

  async line<Line = Hello>(): Promise<Line> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('the service closed the connection')
    return JSON.parse(value)
  }

  order(what: string): void {
    this.socket.write(`${what}\n`)
  }

  /** Sends an order, and waits until the service has executed it. */
  async done(what: string): Promise<void> {
    this.order(what)
    assert.equal(await this.line<string>(), what)
  }
}

describe('Under systemd', function () {
  // systemd takes time to start, and Node does at each activation.
  this.timeout(60_000)

  let manager: ServiceManager
  let count = 0

  before(async function () {
    manager = await ServiceManager.start(this)
  })
  after(() => manager?.end())
  leaveNoFds()

  /** Installs a service and its sockets under unique names, and starts the sockets. */
  function install(sockets: Record<string, string[]>, lines: string[] = [], words: string[] = []) {
    const name = `test${++count}`
    const each = Object.entries(sockets).map(
      ([socket, socketLines]) => [`${name}-${socket}.socket`, socketLines] as const,
    )
    const accepting = each.some(([, socketLines]) => socketLines.includes('Accept=yes'))
    const units: Record<string, string> = {}
    for (const [unit, socketLines] of each) {
      // systemd finds a template by the name of the socket.
      const belongs = accepting ? [] : [`Service=${name}.service`]
      units[unit] = ['[Socket]', ...belongs, ...socketLines, ''].join('\n')
    }
    const names = each.map(([unit]) => unit)
    const file = accepting ? (names[0] as string).replace('.socket', '@.service') : `${name}.service`
    units[file] = [
      '[Service]',
      `ExecStart=${[process.execPath, service, ...words].join(' ')}`,
      ...(accepting ? [] : [`Sockets=${names.join(' ')}`]),
      ...lines,
      '',
    ].join('\n')
    manager.units(units)
    manager.control('start', ...names)
    cleanUp(() => manager.control('stop', ...names, ...(accepting ? [`${file.replace('.service', '*')}`] : [file])))
    return file
  }

  const path = () => join(temporaryDirectory(), 'socket')

  it('a service starts with its first client, receives its sockets by name and reports readiness', async () => {
    const control = path()
    const port = reservedPort()
    const unit = install(
      {
        web: [`ListenStream=127.0.0.1:${port}`, 'FileDescriptorName=web'],
        control: [`ListenStream=${control}`, 'FileDescriptorName=control'],
      },
      ['Type=notify'],
    )
    assert.equal(manager.show(unit, 'ActiveState'), 'inactive')
    const client = new Client({ port, host: '127.0.0.1' })
    const { pid, found } = await client.line()
    assert.deepEqual(found.map(({ name, kind }) => `${name} ${kind}`).sort(), ['control listener', 'web listener'])
    await manager.shows(unit, 'ActiveState', 'active')
    assert.match(manager.show(unit, 'StatusText'), /^serving (web,control|control,web)$/)
    assert.equal(manager.show(unit, 'MainPID'), String(pid))
    assert.equal((await new Client({ path: control }).line()).pid, pid)
  })

  it('a socket without FileDescriptorName has the name of its unit', async () => {
    const where = path()
    const unit = install({ main: [`ListenStream=${where}`, `ListenStream=${where}.too`] }, ['Type=notify'])
    const { found } = await new Client({ path: where }).line()
    const name = unit.replace('.service', '-main.socket')
    assert.deepEqual(
      found.map((each) => each.name),
      [name, name],
    )
  })

  it('a service reports the begin and the end of a reload', async () => {
    const where = path()
    const unit = install({ main: [`ListenStream=${where}`] }, ['Type=notify'])
    const client = new Client({ path: where })
    await client.line()
    await manager.shows(unit, 'ActiveState', 'active')
    await client.done('reload')
    assert.equal(manager.show(unit, 'ActiveState'), 'reloading')
    await client.done('reloaded')
    assert.equal(manager.show(unit, 'ActiveState'), 'active')
    assert.equal(manager.show(unit, 'StatusText'), 'reloaded')
  })

  it('a service with Accept=yes receives its connection and the address of the peer', async () => {
    const port = reservedPort()
    install({ each: [`ListenStream=127.0.0.1:${port}`, 'Accept=yes'] })
    const clients = [1, 2].map(() => new Client({ port, host: '127.0.0.1' }))
    const hellos = await Promise.all(clients.map((client) => client.line()))
    for (const [i, { found, remotePort, REMOTE_ADDR, REMOTE_PORT }] of hellos.entries()) {
      assert.deepEqual(
        found.map(({ fd, name, kind }) => ({ fd, name, kind })),
        [{ fd: 3, name: 'connection', kind: 'connection' }],
      )
      assert.equal(remotePort, clients[i]?.socket.localPort)
      assert.deepEqual([REMOTE_ADDR, REMOTE_PORT], ['127.0.0.1', String(remotePort)])
    }
    assert.notEqual(hellos[0]?.pid, hellos[1]?.pid)
  })

  it('a service with StandardInput=socket receives its connection as fd 0', async () => {
    const where = path()
    install({ each: [`ListenStream=${where}`, 'Accept=yes'] }, ['StandardInput=socket'], ['inetd'])
    const { found } = await new Client({ path: where }).line()
    assert.deepEqual(
      found.map(({ fd, name, kind }) => ({ fd, name, kind })),
      [{ fd: 0, name: 'stdin', kind: 'connection' }],
    )
  })

  it('an established connection stays in the fd store across a restart until it is removed', async () => {
    const where = path()
    const unit = install({ main: [`ListenStream=${where}`] }, ['Type=notify', 'FileDescriptorStoreMax=4'])
    const client = new Client({ path: where })
    const before = await client.line()
    await client.done('store')
    assert.equal(manager.show(unit, 'NFileDescriptorStore'), '1')
    manager.control('restart', unit)
    const after = await client.line()
    assert.notEqual(after.pid, before.pid)
    assert.deepEqual(
      after.found.map(({ name, kind }) => [name, kind]),
      [
        [unit.replace('.service', '-main.socket'), 'listener'],
        ['kept', 'connection'],
      ],
    )
    await client.done('forget')
    assert.equal(manager.show(unit, 'NFileDescriptorStore'), '0')
  })

  it('the watchdog ends a service when its event loop hangs, not before', async () => {
    const where = path()
    const unit = install({ main: [`ListenStream=${where}`] }, ['Type=notify', 'WatchdogSec=5'])
    const client = new Client({ path: where })
    await client.line()
    const timestamp = 'WatchdogTimestampMonotonic'
    await manager.shows(unit, timestamp, (last) => Number(last) > 0)
    const first = Number(manager.show(unit, timestamp))
    await manager.shows(unit, timestamp, (last) => Number(last) >= first + 2_000_000)
    assert.equal(manager.show(unit, 'ActiveState'), 'active')
    client.order('hang')
    await manager.shows(unit, 'Result', 'watchdog')
  })

  it('the units of examples/activated serve clients', async () => {
    const [web, each] = [reservedPort(), reservedPort()]
    const units = exampleUnits('activated', { 'web.socket': web, 'each.socket': each })
    manager.units(units)
    manager.control('start', 'web.socket', 'each.socket')
    cleanUp(() => manager.control('stop', 'web.socket', 'each.socket', 'web.service', 'each@*.service'))
    const { status } = await fetch(`http://127.0.0.1:${web}`)
    assert.equal(status, 200)
    await manager.shows('web.service', 'ActiveState', 'active')
    assert.equal(manager.show('web.service', 'StatusText'), 'serving 1')
    const client = temporary(net.connect(each, '127.0.0.1'))
    client.end('a line\n')
    assert.equal(await text(client), 'hello 127.0.0.1\na line\n')
    manager.control('stop', 'web.service')
    assert.equal(manager.show('web.service', 'Result'), 'success')
  })

  it('the units of examples/inherit serve an unchanged server, which restarts and ends without a refused client', async () => {
    const [port, admin] = [reservedPort(), path()]
    const units = exampleUnits('inherit', { 'app.socket': port })
    for (const [name, text] of Object.entries(units)) {
      // A manager of a user has no dynamic users.
      const changed = text.replace('DynamicUser=yes\n', '').replaceAll('/run/app-admin.sock', admin)
      units[name] = changed
        .replace('server.mjs 3000', `server.mjs ${port}`)
        .replace('IDLE_TIMEOUT=300', 'IDLE_TIMEOUT=0.5')
    }
    manager.units(units)
    manager.control('start', 'app.socket')
    cleanUp(() => manager.control('stop', 'app.socket', 'app.service'))
    const get = async () => (await fetch(`http://127.0.0.1:${port}/a`, { headers: { connection: 'close' } })).text()
    // Without a connection, the service could end as idle before its state is queried.
    const holder = temporary(net.connect(port, '127.0.0.1'))
    assert.equal(await get(), 'hello /a\n')
    await manager.shows('app.service', 'ActiveState', 'active')
    const ofAdmin = temporary(net.connect(admin))
    ofAdmin.end('GET / HTTP/1.0\r\n\r\n')
    assert.match(await text(ofAdmin), /\d connections\n$/)
    holder.destroy()

    let restarting = true
    const clients = (async () => {
      let answered = 0
      for (; restarting; answered++) assert.equal(await get(), 'hello /a\n')
      return answered
    })()
    for (let restart = 0; restart < 3; restart++) await manager.controlBeside('restart', 'app.service')
    restarting = false
    assert.ok((await clients) > 0)

    // It is idle, and the next client starts it again.
    await manager.shows('app.service', 'ActiveState', 'inactive')
    assert.equal(manager.show('app.service', 'Result'), 'success')
    assert.equal(await get(), 'hello /a\n')
  })
})

describe('The units of the examples', () => {
  it('pass systemd-analyze verify', function () {
    needs(this, 'systemd-analyze', '--version')
    const directory = temporaryDirectory()
    const units = { ...exampleUnits('activated'), ...exampleUnits('inherit') }
    for (const [name, lines] of Object.entries(units)) writeFileSync(join(directory, name), lines)
    const files = Object.keys(units).map((name) => join(directory, name))
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...files], { encoding: 'utf8' })
    assert.deepEqual({ status, stderr }, { status: 0, stderr: '' })
  })
})

/** Reads the units of an example, and replaces the installation paths in them with those of this machine. */
function exampleUnits(example: string, ports: Record<string, number> = {}): Record<string, string> {
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const names = readdirSync(join(root, 'examples', example)).filter((name) => /\.(socket|service)$/.test(name))
  const changed = (name: string) =>
    readFileSync(join(root, 'examples', example, name), 'utf8')
      .replace('/usr/bin/node', process.execPath)
      .replace(/\/opt\/async-accept\/?/, root)
      .replace(/^ListenStream=.*$/m, (line) => (name in ports ? `ListenStream=127.0.0.1:${ports[name]}` : line))
  return Object.fromEntries(names.map((name) => [name, changed(name)]))
}
