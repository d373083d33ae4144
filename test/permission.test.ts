import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { startNode, temporaryDirectory, until } from './helpers.js'

const theModel = process.allowedNodeEnvironmentFlags.has('--permission') ? '--permission' : '--experimental-permission'
const readable = (path: string) => `--allow-fs-read=${path}`
// The grants that docs/api.md lists. The program and the package are in the same directory here.
const program = readable(fileURLToPath(new URL('..', import.meta.url)))
const minimum = [program, '--allow-addons']
// From Node 26.12 on, needed to make a socket from an fd.
const network = process.allowedNodeEnvironmentFlags.has('--allow-net') ? ['--allow-net'] : []

interface Permitted {
  address?: net.AddressInfo | string
  code?: string
  permission?: string
  resource?: string
  cause?: string
  message?: string
}

/** The first line that a program prints when it runs with exactly these grants. */
async function permitted(grants: readonly string[], ...args: string[]): Promise<Permitted> {
  const command = ['env', `NODE_OPTIONS=${[theModel, ...grants].join(' ')}`]
  const child = startNode('permitted.mjs', args, command)
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) return JSON.parse(line)
  assert.fail(await text(child.stderr as NodeJS.ReadableStream))
}

describe("Under Node's permission model", () => {
  it('the package loads and serves with the documented grants', async () => {
    const { address, ...failed } = await permitted([...minimum, ...network])
    assert.deepEqual(failed, {})
    const { port } = address as net.AddressInfo
    assert.equal(await text(net.connect(port, '127.0.0.1')), 'served')
  })

  it('listening and accepting need no grant for the network; where a socket does, its error says so', async () => {
    const command = ['env', `NODE_OPTIONS=${[theModel, ...minimum].join(' ')}`]
    const child = startNode('permitted.mjs', [], command)
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
    const { address } = JSON.parse((await lines.next()).value) as Permitted
    const { port } = address as net.AddressInfo
    const received = await text(net.connect(port, '127.0.0.1'))
    const { value, done } = await lines.next()
    if (received === 'served') return assert.equal(done, true)
    const { code, permission } = JSON.parse(value) as Permitted
    assert.deepEqual([code, permission], ['ERR_ACCESS_DENIED', 'Net'])
  })

  it('loading fails with ERR_ADDON_LOAD without --allow-addons', async () => {
    const grants = minimum.filter((grant) => grant !== '--allow-addons')
    const { code, cause } = await permitted(grants)
    assert.deepEqual([code, cause], ['ERR_ADDON_LOAD', 'ERR_DLOPEN_DISABLED'])
  })

  it('loading fails with the path that it may not read to find the binary', async () => {
    const root = fileURLToPath(new URL('..', import.meta.url))
    const parts = ['package.json', 'dist', 'test'].map((each) => readable(join(root, each)))
    const { code, cause, message } = await permitted([...parts, '--allow-addons'])
    assert.deepEqual([code, cause], ['ERR_ADDON_LOAD', 'ERR_ACCESS_DENIED'])
    assert.ok(message?.includes(`may not read ${join(root, 'build/Release/async_accept.node')}`), message)
  })

  it('a listener serves on a path with read and write grants, and removes it', async () => {
    const path = join(temporaryDirectory(), 'served')
    const grants = [...minimum, ...network, readable(path), `--allow-fs-write=${path}`]
    assert.deepEqual(await permitted(grants, path), { address: path })
    assert.equal(await text(net.connect(path)), 'served')
    await until(() => !existsSync(path))
  })

  it('a listener does not create a path without a read grant', async () => {
    const path = join(temporaryDirectory(), 'unseen')
    const { code, permission, resource } = await permitted(minimum, path)
    assert.deepEqual([code, permission, resource], ['ERR_ACCESS_DENIED', 'FileSystemRead', path])
    assert.equal(existsSync(path), false)
  })
})
