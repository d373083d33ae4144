// npm run bench -- --help
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { parseArgs } from 'node:util'
import { cores, fileOf } from './measure.mjs'
import { barPlot } from './plot.mjs'
import { checkTable, markdown, replaceBetweenMarkers, table } from './report.mjs'

const questions = [
  'accept',
  'tls',
  'outstanding',
  'http',
  'inherit',
  'first-byte',
  'overload',
  'held',
  'skewed',
  'spread',
  'workers',
  'wake',
  'scale',
]

// The questions that can measure a contender against itself.
const withSelf = ['accept', 'tls', 'http', 'first-byte']

const help = `npm run bench -- [options] [question...]

Questions: ${questions.join(', ')} (default: all).

  --node <path>         measure with this Node instead of the current one; can be repeated
  --rounds <n>          number of measurements of each contender
  --connections <n>     number of connections of each measurement
  --self                measure only how exact the ratios are: a contender against itself
                        (${withSelf.join(', ')})
  --smoke               one round with tiny sizes, to show that the benchmarks run
  --json                print the results as JSON on stdout
  --write               write the results into docs/benchmarks.md, and their pictures into docs/
`

function fail(text) {
  console.error(`bench: ${text}`)
  process.exit(2)
}

function options() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        node: { type: 'string', multiple: true },
        rounds: { type: 'string' },
        connections: { type: 'string' },
        self: { type: 'boolean' },
        smoke: { type: 'boolean' },
        json: { type: 'boolean' },
        write: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
  } catch (error) {
    return fail(`${error.message}\n\n${help}`)
  }
}

const { values, positionals } = options()
if (values.help) {
  console.log(help)
  process.exit(0)
}
if (process.platform !== 'linux') fail('requires Linux')
for (const name of positionals) if (!questions.includes(name)) fail(`unknown question "${name}"\n\n${help}`)
for (const name of ['rounds', 'connections']) {
  if (values[name] === undefined) continue
  if (!/^[1-9]\d*$/.test(values[name])) fail(`--${name} must be a positive integer. Received ${values[name]}`)
  values[name] = Number(values[name])
}
if (values.write && values.smoke) fail('--write cannot be used with --smoke, whose results mean nothing')

const unable = positionals.find((name) => values.self && !withSelf.includes(name))
if (unable) fail(`--self cannot be used with ${unable}`)
if (values.self && values.write) fail('--write cannot be used with --self, which measures no contender')

const names = positionals.length > 0 ? positionals : values.self ? withSelf : questions
const nodes = (values.node ?? [process.execPath]).map((path) => {
  try {
    return { path, version: execFileSync(path, ['-p', 'process.versions.node'], { encoding: 'utf8' }).trim() }
  } catch (error) {
    return fail(`--node ${path}: ${error.message}`)
  }
})

const given = Object.fromEntries(['rounds', 'connections'].filter((name) => values[name]).map((n) => [n, values[n]]))
const say = values.json ? () => {} : console.log
const progress = (text) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

const machine = [
  `${os.cpus()[0].model}, ${os.cpus().length} cores; Linux ${os.release()} ${os.arch()}`,
  cores()
    ? `servers on core ${cores().server}, load on core ${cores().load}`
    : 'servers and load share the cores (no taskset, or one core)',
].join('; ')
const versions = nodes.map(({ version }) => version).join(', ')
say(`${machine}; Node ${versions}\n`)

const results = {}
for (const name of names) {
  const question = await import(`./${name}.mjs`)
  const sizes = { ...(values.smoke ? question.smoke : question.defaults), ...given, self: values.self }
  const answers = []
  for (const { path, version } of nodes) {
    const major = Number.parseInt(version, 10)
    const prefix = `${name}, Node ${version}: `
    const answer = await question.measure({ node: path, major, ...sizes, progress: (text) => progress(prefix + text) })
    progress('')
    answers.push({ version, ...sizes, ...answer })
    say(`${question.title}, Node ${version}\n`)
    for (const each of answer.tables) say(table(each))
    // One round with tiny sizes is meaningless for a target.
    if (!values.smoke && answer.checks.length > 0) say(table(checkTable(answer.checks)))
  }
  results[name] = answers
  if (values.write) write(name, question, answers)
}
if (values.json) console.log(JSON.stringify({ machine, date: new Date().toISOString(), results }, undefined, 2))

function write(name, question, answers) {
  const path = fileOf('../docs/benchmarks.md')
  // The picture shows the newest Node.
  const drawBars = (all) => barPlot(`${question.title}, Node ${all.at(-1).version}`, all.at(-1).tables)
  const { file, draw } = question.plot ?? { file: `benchmark-${name}.svg`, draw: drawBars }
  const extra = Object.entries(given).map(([option, value]) => ` --${option} ${value}`)
  const command = `npm run bench -- ${name}${extra.join('')}${(values.node ?? []).map(() => ' --node <path>').join('')}`
  const head = [
    `Command: \`${command}\``,
    `Machine: ${machine}; Node ${versions}`,
    `Date: ${new Date().toISOString().slice(0, 10)}`,
  ].join('\\\n')
  const text = `${head}\n\n${markdown(question, answers, file)}`
  writeFileSync(path, replaceBetweenMarkers(readFileSync(path, 'utf8'), name, text))
  writeFileSync(fileOf(`../docs/${file}`), draw(answers))
  // The README has markers for the pictures of some questions.
  const readme = fileOf('../README.md')
  const front = readFileSync(readme, 'utf8')
  const picture = `picture of ${name}`
  if (!front.includes(`<!-- ${picture} -->`)) return
  writeFileSync(readme, replaceBetweenMarkers(front, picture, `![${question.title}](docs/${file})`))
}
