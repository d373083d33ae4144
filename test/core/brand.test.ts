import assert from 'node:assert/strict'
import { cpSync, mkdirSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { runNode, temporaryDirectory } from '../helpers.js'

/** Another installation of the package: a copy of its JavaScript, and either a copy of the addon or the same addon. */
function copy(addon: 'separate addon' | 'same addon'): string {
  const directory = temporaryDirectory()
  cpSync('dist', join(directory, 'dist'), { recursive: true })
  cpSync('package.json', join(directory, 'package.json'))
  symlinkSync(resolve('node_modules'), join(directory, 'node_modules'))
  const file = 'build/Release/async_accept.node'
  mkdirSync(join(directory, 'build/Release'), { recursive: true })
  if (addon === 'same addon') symlinkSync(resolve(file), join(directory, file))
  else cpSync(file, join(directory, file))
  return directory
}

describe('Two copies of the package in one process', () => {
  for (const addon of ['separate addon', 'same addon'] as const) {
    it(`work, and name the other copy when they reject its objects (${addon})`, async () => {
      const directory = copy(addon)
      const { code, stdout, stderr } = await runNode('two-copies.mjs', [join(directory, 'dist/index.js')])
      assert.equal(code, 0, stderr)
      const of = (name: string) => `Received a ${name} of another copy of async-accept, loaded from ${directory}/dist/`
      assert.deepEqual(stdout.trim().split('\n'), [
        `serve: ERR_INVALID_ARG_TYPE The "listener" argument must be a Listener or an array of them. ${of('Listener')}`,
        `spawnActivated: ERR_INVALID_ARG_TYPE The "passed.web" property must be a Listener or an array of Listeners. ${of('Listener')}`,
        `FdChannel.fromConnection: ERR_INVALID_ARG_TYPE The "connection" argument must be a Connection. ${of('Connection')}`,
        'Listener.fromFd: done',
      ])
    })
  }
})
