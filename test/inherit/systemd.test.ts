import assert from 'node:assert/strict'
import http from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { reservedPort } from '../activated.js'
import { ServiceManager } from '../handover/service-manager.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { hasIpv6, skip } from '../needs.js'
import { SteadyClient } from '../steady-client.js'
import { preload } from './preloaded.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const application = 'test/fixtures/unchanged-express.cjs'
const restarts = Math.ceil(Number(process.env.RESTARTS ?? 100) / 10)

const get = async (where: http.RequestOptions): Promise<string> => {
  const request = http.get({ host: '127.0.0.1', agent: false, ...where })
  const response = await new Promise<http.IncomingMessage>((resolve, reject) =>
    request.on('response', resolve).on('error', reject),
  )
  return text(response)
}

describe('An unchanged Express application under systemd', function () {
  // systemd takes time to start, and Node does at each activation.
  this.timeout(60_000)

  let manager: ServiceManager
  let count = 0

  before(async function () {
    manager = await ServiceManager.start(this)
  })
  after(() => manager?.end())
  leaveNoFds()

  /** Starts socket units. Their service is the application, which listens on `places`. Returns the name of the service. */
  function install(
    sockets: readonly (readonly string[])[],
    places: readonly (string | number)[],
    lines: readonly string[] = [],
  ): string {
    const name = `inherit${++count}`
    const units: Record<string, string> = {}
    for (const [index, socketLines] of sockets.entries()) {
      units[`${name}-${index}.socket`] = ['[Socket]', `Service=${name}.service`, ...socketLines, ''].join('\n')
    }
    const names = Object.keys(units)
    const words = [process.execPath, ...preload, application, ...places]
    const service = [`WorkingDirectory=${root}`, `ExecStart=${words.join(' ')}`, `Sockets=${names.join(' ')}`]
    const unit = ['[Unit]', 'StartLimitIntervalSec=0']
    units[`${name}.service`] = [...unit, '[Service]', 'Type=notify', ...service, ...lines, ''].join('\n')
    manager.units(units)
    manager.control('start', ...names)
    cleanUp(() => manager.control('stop', ...names, `${name}.service`))
    return `${name}.service`
  }

  const active = (unit: string) => manager.shows(unit, 'ActiveState', 'active')

  it('gets the sockets of two units, and is active when both are served', async () => {
    const [port, path] = [reservedPort(), join(temporaryDirectory(), 'two.sock')]
    const unit = install(
      [[`ListenStream=127.0.0.1:${port}`], [`ListenStream=${path}`, 'SocketMode=0660']],
      [port, path],
    )
    assert.equal(manager.show(unit, 'ActiveState'), 'inactive')

    const [first, second] = await Promise.all([get({ port }), get({ socketPath: path })])
    await active(unit)
    assert.equal(first, `hello from process ${manager.show(unit, 'MainPID')}`)
    assert.equal(second, first)
    manager.control('stop', unit)
    assert.equal(manager.show(unit, 'Result'), 'success')
  })

  it('gets IPv4 beside IPv6 with one listen()', async function () {
    if (!hasIpv6) skip(this, 'this host has no IPv6 loopback address')
    const port = reservedPort()
    const unit = install([[`ListenStream=127.0.0.1:${port}`, `ListenStream=[::1]:${port}`]], [port])
    assert.equal(await get({ port }), await get({ port, host: '::1' }))
    await active(unit)
  })

  it('gets the socket that a map names, on another port', async () => {
    const port = reservedPort()
    const unit = install(
      [[`ListenStream=127.0.0.1:${port}`, 'FileDescriptorName=web']],
      [3000],
      ['Environment=ASYNC_ACCEPT_INHERIT=3000=web'],
    )
    assert.match(await get({ port }), /^hello/)
    await active(unit)
  })

  it('fails to start when a socket has no server', async () => {
    const [port, other] = [reservedPort(), reservedPort()]
    const sockets = [[`ListenStream=127.0.0.1:${port}`], [`ListenStream=127.0.0.1:${other}`]]
    const unit = install(sockets, [port], ['TimeoutStartSec=2', 'TimeoutStopSec=5'])
    assert.match(await get({ port }), /^hello/)
    assert.equal(manager.show(unit, 'ActiveState'), 'activating')
    await manager.shows(unit, 'Result', 'timeout')
  })

  it('fails to start with a wrong setting', async () => {
    const port = reservedPort()
    const wrong = ['Environment=ASYNC_ACCEPT_MAX_CONNECTIONS=many', 'Restart=no']
    const unit = install([[`ListenStream=127.0.0.1:${port}`]], [port], wrong)
    // systemd starts the service again while the client waits.
    const refused = assert.rejects(get({ port }))
    await manager.shows(unit, 'ExecMainStatus', '2')
    manager.control('stop', unit.replace('.service', '-0.socket'))
    await refused
  })

  it('is ended by the watchdog when its event loop hangs, not before', async () => {
    const port = reservedPort()
    const unit = install([[`ListenStream=127.0.0.1:${port}`]], [port], ['WatchdogSec=5'])
    await get({ port })
    await active(unit)
    const timestamp = 'WatchdogTimestampMonotonic'
    const first = Number(manager.show(unit, timestamp))
    await manager.shows(unit, timestamp, (last) => Number(last) >= first + 2_000_000)
    assert.equal(manager.show(unit, 'ActiveState'), 'active')
    const hanging = get({ port, path: '/hang' })
    await Promise.all([assert.rejects(hanging), manager.shows(unit, 'Result', 'watchdog')])
  })

  it(`refuses no client and fails no request during ${restarts} restarts under load`, async function () {
    this.timeout(60_000 + restarts * 10_000)
    const port = reservedPort()
    const unit = install([[`ListenStream=127.0.0.1:${port}`]], [port])
    await get({ port })
    await active(unit)
    const clients = [
      ...[1, 2].map(() => new SteadyClient(port, false)),
      ...[1, 2].map(() => new SteadyClient(port, true)),
      ...[1, 2].map(() => new SteadyClient(port, true, 'POST')),
    ]
    const running = Promise.all(clients.map((client) => client.run()))
    const failed = running.then(() => {
      throw new Error('the clients ended too early')
    })
    failed.catch(() => {})
    for (let restart = 0; restart < restarts; restart++) {
      await Promise.race([manager.controlBeside('restart', unit), failed])
      const answer = `hello from process ${manager.show(unit, 'MainPID')}`
      await Promise.race([until(() => clients.every(({ servers }) => servers.has(answer))), failed])
    }
    for (const client of clients) client.end()
    await running
    for (const { reused, servers } of clients.slice(2)) assert.ok(reused > servers.size, `${reused} reused`)
  })
})
