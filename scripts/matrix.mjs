// Runs the tests on every supported version of Node, with one binary of the addon, on two versions at the same time:
// node scripts/matrix.mjs [major...] [--permission [major...]] [test file...]
// The Node versions are npm packages in node_modules/.cache. The addon is the one that setup.mjs has built. On the
// versions after --permission, the tests and the programs that they start run under Node's permission model.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { delimiter, dirname } from 'node:path'
import { nodeOf } from './nodes.mjs'
import { root } from './steps.mjs'

const supported = ['20', '22', '24', '26']

const words = process.argv.slice(2)
const files = words.filter((word) => word.endsWith('.ts'))
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

function suite(major, restricted) {
  const node = process.versions.node.startsWith(`${major}.`) ? process.execPath : nodeOf(major)
  // Programs that the tests start as `node` use this version, too.
  const env = { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` }
  if (restricted) env.NODE_OPTIONS = permission(node)
  return { name: `Node ${major}${restricted ? ' under its permission model' : ''}`, node, env }
}

/** Runs the tests. Adds `output`, of stdout and stderr, and `passed` to the suite. */
async function run(suite) {
  const started = performance.now()
  console.log(`${suite.name}: started`)
  const child = spawn(suite.node, ['node_modules/mocha/bin/mocha.js', '--reporter', 'dot', ...tests], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: suite.env,
  })
  suite.output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      suite.output += text
    })
  }
  const [code, signal] = await once(child, 'close')
  suite.passed = code === 0
  const result = suite.passed ? 'passed' : `failed with ${signal ?? `exit code ${code}`}`
  console.log(`${suite.name}: ${result}, after ${Math.round((performance.now() - started) / 1000)} seconds`)
  console.log(suite.output)
}

const restrict = words.includes('--permission')
const at = restrict ? words.indexOf('--permission') : words.length
const [plain, restricted] = [words.slice(0, at), words.slice(at)].map((list) =>
  list.filter((word) => /^\d+$/.test(word)),
)
if (plain.length === 0 && !restrict) plain.push(...supported)
if (restricted.length === 0 && restrict) restricted.push(...supported)
// All versions are installed before the first suite starts.
const suites = [...plain.map((major) => suite(major, false)), ...restricted.map((major) => suite(major, true))]

// Two at the same time, because the tests often wait for a process or a timer. The output of each is printed when
// it ends, and that of those that failed once more at the end.
const waiting = [...suites]
const runWaiting = async () => {
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await run(next)
}
await Promise.all([runWaiting(), runWaiting()])

const failed = suites.filter(({ passed }) => !passed)
for (const { name, output } of failed) console.log(`\n${name}:\n${output}`)
const namesOf = (list) => list.map(({ name }) => name).join(', ')
console.log(failed.length === 0 ? `Passed on ${namesOf(suites)}.` : `Failed on ${namesOf(failed)}.`)
process.exitCode = failed.length === 0 ? 0 : 1
