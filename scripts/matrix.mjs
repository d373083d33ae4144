// Runs the tests on every supported version of Node, with one binary of the addon:
// node scripts/matrix.mjs [major...] [test file...]
// The versions come from the registry, into node_modules/.cache; the addon is the one that setup.mjs has built.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { npm, root } from './steps.mjs'

const supported = ['20', '22', '24', '26']

const [given, files] = [/^\d+$/, /\.ts$/].map((pattern) => process.argv.slice(2).filter((each) => pattern.test(each)))
const majors = given.length > 0 ? given : supported
const tests = files.length > 0 ? files : ['test/**/*.test.ts']

/** The newest of a major version, as a package has it. */
function nodeOf(major) {
  const name = `node-${process.platform}-${process.arch}`
  const prefix = join(root, 'node_modules/.cache/nodes', major)
  const program = join(prefix, 'node_modules', name, 'bin/node')
  const flags = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error']
  if (!existsSync(program)) npm('install', '--prefix', prefix, ...flags, `${name}@${major}`)
  return program
}

const failed = majors.filter((major) => {
  const node = process.versions.node.startsWith(`${major}.`) ? process.execPath : nodeOf(major)
  console.log(`\nNode ${major}`)
  const { status, error } = spawnSync(node, ['node_modules/mocha/bin/mocha.js', '--reporter', 'dot', ...tests], {
    cwd: root,
    stdio: 'inherit',
  })
  if (error) throw error
  return status !== 0
})
console.log(failed.length === 0 ? `\nPassed on Node ${majors.join(', ')}.` : `\nFailed on Node ${failed.join(', ')}.`)
process.exitCode = failed.length === 0 ? 0 : 1
