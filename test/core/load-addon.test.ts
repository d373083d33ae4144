import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { temporaryDirectory } from '../helpers.js'

const prebuilt = `prebuilds/linux-${process.arch}/async-accept.node`

/** What the import of a copy of the package fails with, in a Node that gets `options`. `binary` is what it finds. */
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
  it('says for which machine there is no binary, where it was looked for, and what to do', () => {
    const { root, code, message, cause } = failure({})
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, new RegExp(`linux-${process.arch} with glibc [\\d.]+, Node ${process.version}`))
    assert.ok(message.includes(`${root}/build/Release/async_accept.node`), message)
    assert.ok(message.includes(`${root}/prebuilds/linux-${process.arch}`), message)
    assert.match(message, /npm rebuild async-accept/)
    assert.match(cause ?? '', /No native build was found/)
  })

  it('says which file does not fit this machine, and why', () => {
    const { root, code, message, cause } = failure({ binary: Buffer.from('for another machine') })
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.ok(message.includes(`${root}/${prebuilt} does not fit linux-${process.arch}`), message)
    assert.match(message, /file too short|invalid ELF header/)
    assert.match(message, /npm rebuild async-accept/)
    assert.equal(cause, 'ERR_DLOPEN_FAILED')
  })

  it('says when what finds the binary is not there itself', () => {
    const { code, message, cause } = failure({ lacks: 'node_modules/node-gyp-build' })
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, /Cannot find module 'node-gyp-build'$/)
    assert.equal(cause, 'MODULE_NOT_FOUND')
  })

  it('says when Node was told to load no addons', () => {
    const { code, message, cause } = failure({ binary: Buffer.from('any'), options: ['--no-addons'] })
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, /--no-addons/)
    assert.equal(cause, 'ERR_DLOPEN_DISABLED')
  })

  it('wants Linux, and looks for no binary elsewhere', () => {
    const elsewhere = 'Object.defineProperty(process, "platform", { value: "darwin" })'
    const { code, message, cause } = failure({ options: ['--import', `data:text/javascript,${elsewhere}`] })
    assert.equal(code, 'ERR_UNSUPPORTED_PLATFORM')
    assert.equal(message, 'async-accept needs Linux: this is darwin')
    assert.equal(cause, undefined)
  })
})
