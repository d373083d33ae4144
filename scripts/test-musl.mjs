// Runs tests with the binary for musl, on a Node for musl: node scripts/test-musl.mjs [test file...]
import { spawnSync } from 'node:child_process'
import { delimiter, dirname } from 'node:path'
import { muslAddon } from './musl.mjs'
import { muslNode } from './musl-node.mjs'
import { root } from './steps.mjs'

const given = process.argv.slice(2)
const node = muslNode()
const { status, error } = spawnSync(node, ['node_modules/mocha/bin/mocha.js', ...given], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    ASYNC_ACCEPT_PREBUILD: muslAddon(process.arch),
    // What the tests start by its name is this Node, too.
    PATH: `${dirname(node)}${delimiter}${process.env.PATH}`,
  },
})
if (error) throw error
// None when a signal has ended it.
process.exitCode = status === 0 ? 0 : 1
