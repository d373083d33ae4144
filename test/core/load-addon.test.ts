import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { temporaryDirectory } from '../helpers.js'

const compiled = 'build/Release/async_accept.node'
const prebuilt = `prebuilds/linux-${process.arch}/async-accept.glibc.node`

interface Failure {
  code: string
  message: string
  cause?: string
}

/** A copy of the package with these addon files; text stands for a file that is no addon. */
function copy(
  addons: Record<string, string | Buffer> = {},
  files = ['dist', 'package.json', 'scripts/compile.mjs'],
): string {
  const root = temporaryDirectory()
  for (const each of files) cpSync(each, join(root, each), { recursive: true })
  for (const [file, content] of Object.entries(addons)) {
    mkdirSync(dirname(join(root, file)), { recursive: true })
    writeFileSync(join(root, file), content)
  }
  return root
}

/** What the import of a copy of the package fails with, in a Node with these options; undefined when it succeeds. */
function failure(root: string, options: string[] = [], environment: NodeJS.ProcessEnv = {}): Failure | undefined {
  const program = `import('${root}/dist/index.js').then(() => console.log('{}'), ({ code, message, cause }) =>
    console.log(JSON.stringify({ code, message, cause: cause?.code ?? cause?.message })))`
  const { ASYNC_ACCEPT_ADDON, ...env } = process.env
  const { stdout, stderr } = spawnSync(process.execPath, [...options, '-e', program], {
    encoding: 'utf8',
    env: { ...env, ...environment },
  })
  assert.equal(stderr, '')
  const failed: Failure | Record<string, never> = JSON.parse(stdout)
  return failed.code === undefined ? undefined : (failed as Failure)
}

const preload = (code: string) => ['--import', `data:text/javascript,${encodeURIComponent(code)}`]

describe('Loading the addon', () => {
  it('says for which machine there is no binary, which files it looked for, and the command that compiles one', () => {
    const root = copy()
    const { code, message, cause } = failure(root) as Failure
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, new RegExp(`linux-${process.arch} with glibc [\\d.]+, Node.js ${process.version}`))
    for (const file of [compiled, prebuilt, 'dist/core/async-accept.glibc.node']) {
      assert.ok(message.includes(join(root, file)), message)
    }
    assert.ok(message.includes(`"node ${root}/scripts/compile.mjs"`), message)
    assert.equal(cause, undefined)
  })

  it('says which file does not fit this machine, and why', () => {
    const root = copy({ [prebuilt]: 'for another machine' })
    const { code, message, cause } = failure(root) as Failure
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.ok(message.includes(`${root}/${prebuilt} does not fit linux-${process.arch}`), message)
    assert.match(message, /file too short|invalid ELF header/)
    assert.match(message, /compile\.mjs/)
    assert.equal(cause, 'ERR_DLOPEN_FAILED')
  })

  it('prefers the binary that was compiled on this machine', () => {
    const root = copy({ [prebuilt]: 'for another machine', [compiled]: '' })
    copyFileSync(compiled, join(root, compiled))
    assert.equal(failure(root), undefined)
  })

  it('loads the binary of the package, and one next to the file that a bundler has made', () => {
    for (const file of [prebuilt, 'dist/core/async-accept.glibc.node']) {
      const root = copy({ [file]: '' })
      copyFileSync(compiled, join(root, file))
      assert.equal(failure(root), undefined)
    }
  })

  it('loads the file that ASYNC_ACCEPT_ADDON names, and no other', () => {
    const root = copy({ [prebuilt]: 'for another machine' })
    assert.equal(failure(root, [], { ASYNC_ACCEPT_ADDON: join(process.cwd(), compiled) }), undefined)
    const { message } = failure(root, [], { ASYNC_ACCEPT_ADDON: '/nowhere/addon.node' }) as Failure
    assert.match(message, /These files were looked for: \/nowhere\/addon\.node\. /)
  })

  it('says what to do when the package was bundled without its binary', () => {
    const { message } = failure(copy({}, ['dist', 'package.json'])) as Failure
    assert.ok(message.endsWith(`put ${prebuilt} of the package next to it`), message)
    assert.doesNotMatch(message, /compile\.mjs/)
  })

  it('finds the C library when it may not read the executable', () => {
    const root = copy({ [prebuilt]: '' })
    copyFileSync(compiled, join(root, prebuilt))
    const unreadable = 'Object.defineProperty(process, "execPath", { value: "/nowhere/node" })'
    assert.equal(failure(root, preload(unreadable)), undefined)
  })

  it('looks for the binary of musl in an executable of musl', () => {
    const root = copy()
    writeFileSync(join(root, 'node'), '\x7fELF/lib/ld-musl-x86_64.so.1')
    const musl = `Object.defineProperty(process, "execPath", { value: "${root}/node" })`
    const { message } = failure(root, preload(musl)) as Failure
    assert.ok(message.includes(join(root, prebuilt.replace('glibc', 'musl'))), message)
    assert.ok(!existsSync(join(root, 'build')))
  })

  it('says when Node.js may not load addons', () => {
    const { code, message, cause } = failure(copy({ [prebuilt]: 'any' }), ['--no-addons']) as Failure
    assert.equal(code, 'ERR_ADDON_LOAD')
    assert.match(message, /--no-addons/)
    assert.equal(cause, 'ERR_DLOPEN_DISABLED')
  })

  // An import of node:process would open them. A pipe of stdin is non-blocking from then on, also in child processes.
  // Modules of Node 26 open stderr.
  it('opens neither stdin nor stdout', () => {
    const record = `
      globalThis.opened = []
      for (const name of ['stdin', 'stdout']) Object.defineProperty(process, name, { get() { opened.push(name) } })`
    const program = "import('async-accept').then(() => process._rawDebug(opened.length, ...opened))"
    const { stderr } = spawnSync(process.execPath, [...preload(record), '-e', program], { encoding: 'utf8' })
    assert.equal(stderr, '0\n')
  })

  const platforms = {
    darwin: 'Object.defineProperty(process, "platform", { value: "darwin" })',
    'Bun 1.3.0': 'Object.defineProperty(process.versions, "bun", { value: "1.3.0" })',
    'Deno 2.5.0': 'Object.defineProperty(process.versions, "deno", { value: "2.5.0" })',
  }
  for (const [name, code] of Object.entries(platforms)) {
    it(`refuses ${name}, without a look for a binary`, () => {
      const failed = failure(copy({ [prebuilt]: 'any' }), preload(code))
      assert.deepEqual(failed, {
        code: 'ERR_UNSUPPORTED_PLATFORM',
        message: `async-accept needs Node.js on Linux: this is ${name}`,
      })
    })
  }
})
