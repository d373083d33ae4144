import assert from 'node:assert/strict'
import { join } from 'node:path'
import { fromRegistry, install, project, run } from './packed.js'

const program = `import('async-accept').catch(({ code, message }) => console.log(code + ': ' + message))`
const [bunArch, denoArch] = process.arch === 'arm64' ? ['aarch64', 'arm64'] : ['x64-baseline', 'x64']

describe('In a runtime other than Node.js', function () {
  this.timeout(300_000)

  const runtimes: Record<string, () => [command: string, ...args: string[]]> = {
    Bun: () => [join(fromRegistry(`@oven/bun-linux-${bunArch}`), 'bin/bun')],
    Deno: () => [
      join(fromRegistry(`@deno/linux-${denoArch}-glibc`), 'deno'),
      'run',
      '--allow-all',
      '--node-modules-dir=manual',
    ],
  }
  for (const [name, commandOf] of Object.entries(runtimes)) {
    it(`the import fails with a code: ${name}`, () => {
      const directory = project({ 'package.json': '{ "name": "user" }', 'program.mjs': program })
      install(directory)
      const [command, ...args] = commandOf()
      const { status, stdout, stderr } = run(directory, command, [...args, 'program.mjs'])
      assert.equal(stderr, '')
      assert.equal(status, 0)
      assert.match(
        stdout,
        new RegExp(`^ERR_UNSUPPORTED_PLATFORM: async-accept needs Node.js on Linux: this is ${name} \\d+\\.`),
      )
    })
  }
})
