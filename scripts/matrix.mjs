// Runs the tests on every supported version of Node, with one binary of the addon:
// node scripts/matrix.mjs [--permission] [major...] [test file...]
// The Node versions are npm packages in node_modules/.cache. The addon is the one that setup.mjs has built. With
// --permission, the tests and the programs that they start run under Node's permission model.
import { execFileSync, spawnSync } from 'node:child_process'
import { delimiter, dirname } from 'node:path'
import { nodeOf } from './nodes.mjs'
import { root } from './steps.mjs'

const supported = ['20', '22', '24', '26']

const [given, files] = [/^\d+$/, /\.ts$/].map((pattern) => process.argv.slice(2).filter((each) => pattern.test(each)))
const majors = given.length > 0 ? given : supported
// What is installed and bundled is the same on every version: those tests run once, with the others of the test command.
const tests = files.length > 0 ? files : ['--ignore=test/package/**', 'test/**/*.test.ts']

// The tests start programs and threads, and write files. permission.test.ts checks which grants the package needs.
const granted = ['fs-read=*', 'fs-write=*', 'addons', 'worker', 'child-process', 'net', 'inspector']

/** Returns the flags that enable the permission model in this version of Node, with all grants that the tests need. */
function permission(node) {
  const known = execFileSync(node, ['-p', "[...process.allowedNodeEnvironmentFlags].join(' ')"], { encoding: 'utf8' })
  const has = (flag) => known.trim().split(' ').includes(flag.replace(/=.*/, ''))
  const model = ['--permission', '--experimental-permission'].find(has)
  // A version without a grant does not restrict the corresponding operation.
  const grants = granted.map((each) => `--allow-${each}`).filter(has)
  // Tests check the stderr of their programs.
  const silent = ['SecurityWarning', 'ExperimentalWarning'].map((warning) => `--disable-warning=${warning}`)
  return [model, ...grants, ...silent].join(' ')
}

const restricted = process.argv.includes('--permission')
const failed = majors.filter((major) => {
  const node = process.versions.node.startsWith(`${major}.`) ? process.execPath : nodeOf(major)
  console.log(`\nNode ${major}${restricted ? ', under its permission model' : ''}`)
  // Programs that the tests start as `node` use this version, too.
  const env = { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` }
  if (restricted) env.NODE_OPTIONS = permission(node)
  const { status, error } = spawnSync(node, ['node_modules/mocha/bin/mocha.js', '--reporter', 'dot', ...tests], {
    cwd: root,
    stdio: 'inherit',
    env,
  })
  if (error) throw error
  return status !== 0
})
console.log(failed.length === 0 ? `\nPassed on Node ${majors.join(', ')}.` : `\nFailed on Node ${failed.join(', ')}.`)
process.exitCode = failed.length === 0 ? 0 : 1
