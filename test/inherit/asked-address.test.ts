import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { type Asked, isWithin, type SocketAddress } from '../../src/inherit/asked-address.js'
import { temporaryDirectory } from '../helpers.js'

const ipv4 = (address: string, port = 3000): SocketAddress => ({
  address: { address, port, family: 'IPv4' },
  dualStack: false,
})
const ipv6 = (address: string, dualStack = false, port = 3000): SocketAddress => ({
  address: { address, port, family: 'IPv6' },
  dualStack,
})
const port = (address: string | null = null, ipv6Only = false): Asked => ({ port: 3000, address, ipv6Only })
const path = (address: string): SocketAddress => ({ address, dualStack: false })

/** The asked addresses, and the sockets that match and do not match. */
const rules: { asked: Asked; matching: SocketAddress[]; other: SocketAddress[] }[] = [
  {
    asked: port(),
    matching: [ipv4('0.0.0.0'), ipv4('127.0.0.1'), ipv6('::', true), ipv6('::'), ipv6('::1')],
    other: [ipv4('127.0.0.1', 3001), path('/run/3000')],
  },
  { asked: port('::'), matching: [ipv6('::', true), ipv4('127.0.0.1')], other: [ipv6('::', true, 3001)] },
  { asked: port('::', true), matching: [ipv6('::'), ipv6('::1')], other: [ipv6('::', true), ipv4('127.0.0.1')] },
  { asked: { port: 3000, address: null, ipv6Only: false, reusePort: true }, matching: [], other: [ipv6('::', true)] },
  { asked: port('0:0:0:0:0:0:0:0'), matching: [ipv6('::', true)], other: [] },
  {
    asked: port('0.0.0.0'),
    matching: [ipv4('0.0.0.0'), ipv4('10.0.0.1')],
    other: [ipv6('::', true), ipv6('::'), ipv6('::1')],
  },
  {
    asked: port('127.0.0.1'),
    matching: [ipv4('127.0.0.1'), ipv6('::ffff:127.0.0.1')],
    other: [ipv4('0.0.0.0'), ipv4('127.0.0.2'), ipv6('::', true), ipv4('127.0.0.1', 80)],
  },
  { asked: port('::1'), matching: [ipv6('::1')], other: [ipv6('::', true), ipv6('::'), ipv4('127.0.0.1')] },
  { asked: port('0:0:0:0:0:0:0:1'), matching: [ipv6('::1')], other: [] },
  { asked: port('fe80::1%eth0'), matching: [ipv6('fe80::1%eth0')], other: [ipv6('fe80::1%eth1'), ipv6('fe80::1')] },
  {
    asked: { path: '/run/app.sock' },
    matching: [path('/run/app.sock')],
    other: [path('/run/b.sock'), ipv4('0.0.0.0')],
  },
  { asked: { path: '/run/../run/app.sock' }, matching: [path('/run/app.sock')], other: [] },
  {
    asked: { path: '\0app' },
    matching: [path('\0app'), path(`\0app${'\0'.repeat(20)}`)],
    other: [path('\0ap'), path('app')],
  },
]

const show = (value: unknown) => JSON.stringify(value)

describe('The sockets that match a listen() call', () => {
  for (const { asked, matching, other } of rules) {
    it(`are at the asked address or narrower: ${show(asked)}`, () => {
      assert.deepEqual(
        [...matching, ...other].filter((socket) => isWithin(socket, asked)),
        matching,
      )
    })
  }

  it('are at another path of the same file', () => {
    const directory = temporaryDirectory()
    mkdirSync(join(directory, 'run'))
    symlinkSync('run', join(directory, 'var'))
    writeFileSync(join(directory, 'run/app.sock'), '')
    const bound = path(join(directory, 'run/app.sock'))
    assert.ok(isWithin(bound, { path: join(directory, 'var/app.sock') }))
    assert.ok(isWithin(bound, { path: relative(process.cwd(), join(directory, 'run/app.sock')) }))
    assert.ok(!isWithin(bound, { path: join(directory, 'var/other.sock') }))
  })
})
