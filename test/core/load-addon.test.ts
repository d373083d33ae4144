import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { temporaryDirectory } from '../helpers.js'

const prebuilt = `prebuilds/linux-${process.arch}/async-accept.node`

/** Imports a copy of the package, with the addon `binary`, in a Node with `options`; returns the error. */
function failure({ binary, options = [], lacks }: { binary?: Buffer; options?: string[]; lacks?: string }) {
  const root = temporaryDirectory()
  for (const each of ['dist', 'package.json', 'node_modules/node-gyp-build']) {
    if (each !== lacks) cpSync(each, `${root}/${each}`, { recursive: true })
  }
  if (binary !== undefined) {
    mkdirSync(dirname(`${root}/${prebuilt}`), { recursive: true })
    writeFileSync(`${root}/${prebuilt}`, binary)
  }
  const program = `import('${root}/dist/index.js').catch(({ code, message, cause }) =>
    console.log(JSON.stringify({ code, message, cause: cause?.code ?? cause?.message })))`
  const { stdout, stderr } = spawnSync(process.execPath, [...options, '-e', program], { encoding: 'utf8' })
  assert.equal(stderr, '')
  return { root, ...(JSON.parse(stdout) as { code: string; message: string; cause?: string }) }
}

describe('Loading the addon', () => {
  it('names the platform without a binary, the searched paths and the remedy', () => {
    const { root, code, message, cause } = failure({})
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, new RegExp(`linux-${process.arch} with glibc [\\d.]+, Node ${process.version}`))
    assert.ok(message.includes(`${root}/build/Release/async_accept.node`), message)
    assert.ok(message.includes(`${root}/prebuilds/linux-${process.arch}`), message)
    assert.match(message, /npm rebuild async-accept/)
    assert.match(cause ?? '', /No native build was found/)
  })

  it('names the file that does not fit this machine, and the reason', () => {
    const { root, code, message, cause } = failure({ binary: Buffer.from('for another machine') })
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.ok(message.includes(`${root}/${prebuilt} does not fit linux-${process.arch}`), message)
    assert.match(message, /file too short|invalid ELF header/)
    assert.match(message, /npm rebuild async-accept/)
    assert.equal(cause, 'ERR_DLOPEN_FAILED')
  })

  it('reports that node-gyp-build is missing', () => {
    const { code, message, cause } = failure({ lacks: 'node_modules/node-gyp-build' })
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, /Cannot find module 'node-gyp-build'$/)
    assert.equal(cause, 'MODULE_NOT_FOUND')
  })

  it('reports that Node runs with --no-addons', () => {
    const { code, message, cause } = failure({ binary: Buffer.from('any'), options: ['--no-addons'] })
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, /--no-addons/)
    assert.equal(cause, 'ERR_DLOPEN_DISABLED')
  })

  it('fails on other platforms than Linux without a search for a binary', () => {
    const elsewhere = 'Object.defineProperty(process, "platform", { value: "darwin" })'
    const { code, message, cause } = failure({ options: ['--import', `data:text/javascript,${elsewhere}`] })
    assert.equal(code, 'ERR_UNSUPPORTED_PLATFORM')
    assert.equal(message, 'async-accept needs Linux: this is darwin')
    assert.equal(cause, undefined)
  })
})
