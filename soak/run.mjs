// npm run soak -- --help
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { report } from './report.mjs'
import { soak } from './rounds.mjs'
import { kills } from './runner/kills.mjs'
import { reloads } from './runner/reloads.mjs'
import { steps } from './runner/steps.mjs'
import { recommended, slowhttp } from './slowhttp.mjs'

const help = `npm run soak -- [options] [slowhttp | runner]

Runs clients that connect, disconnect, reset, stall, half-close and fail their handshakes against a server whose limits
change, whose threads are terminated and whose fds run out. At the end, every client must be accounted for, and nothing may
be leaked. With "slowhttp": runs a healthy client during the four attacks of slowhttptest instead. With "runner": tests
async-accept run with reloads under load, SIGKILL under load, and random steps.

  --minutes <n>, --hours <n>   approximate duration (default: 3 minutes)
  --seed <n>                   repeat the choices of the run with this seed (default: derived from the time)
  --seconds <n>                slowhttp: duration of each mode (default: 10)
                               runner: duration of the kills of workers, and of supervisors (default: 60)
  --reloads <n>                runner: the number of reloads under load (default: 1000)
  --steps <n>                  runner: the number of random steps (default: 10000)
  --smoke                      a soak of about 40 seconds, a few seconds of each slowhttp mode, and a few reloads, kills and
                               steps, to show that all work
`

const smokeRound = 5
// In seconds: a round takes longer than its clients connect, because silent clients have to time out.
const roundsEnd = 7

function fail(text) {
  console.error(`soak: ${text}`)
  process.exit(2)
}

function options() {
  try {
    const string = { type: 'string' }
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        minutes: string,
        hours: string,
        seed: string,
        seconds: string,
        reloads: string,
        steps: string,
        smoke: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
    for (const name of ['minutes', 'hours', 'seconds', 'seed', 'reloads', 'steps']) {
      if (values[name] === undefined) continue
      if (!(Number(values[name]) > 0)) fail(`--${name} must be a positive number. Received ${values[name]}`)
      values[name] = Number(values[name])
    }
    const [only = 'all', ...more] = positionals
    if (!['all', 'slowhttp', 'runner'].includes(only) || more.length > 0)
      fail(`unknown argument "${positionals}"\n\n${help}`)
    return { ...values, only }
  } catch (error) {
    return fail(`${error.message}\n\n${help}`)
  }
}

/** The number and length of the rounds. The warm-up is as long as a round. */
function plan({ minutes = 3, hours = 0, smoke }) {
  if (smoke) return { rounds: 3, seconds: smokeRound }
  const all = hours > 0 ? hours * 60 : minutes
  const rounds = Math.max(8, Math.round(all / 5))
  return { rounds, seconds: Math.max(smokeRound, (all * 60) / (rounds + 1) - roundsEnd) }
}

const given = options()
if (given.help) {
  console.log(help)
  process.exit(0)
}
if (process.platform !== 'linux') fail('requires Linux')
const runs = (name) => given.only === name || (given.only === 'all' && given.smoke)
if (runs('slowhttp') && spawnSync('slowhttptest', ['-h']).error)
  fail('slowhttp requires slowhttptest (Debian package: slowhttptest)')

let well = true
const seed = given.seed ?? Math.floor(Date.now() / 1_000) % 1_000_000
console.log(`soak: --seed ${seed}`)
if (given.only === 'all') well = report(await soak({ ...plan(given), seed }))
if (runs('slowhttp')) {
  const attacked = given.smoke ? { seconds: 2, only: recommended } : { seconds: given.seconds ?? 10 }
  well = (await slowhttp(attacked)) && well
}
if (runs('runner')) {
  const numbers = given.smoke ? { reloads: 1, seconds: 2, steps: 20 } : { reloads: 1_000, seconds: 60, steps: 10_000 }
  const wanted = { ...numbers, ...given }
  well = (await reloads(wanted.reloads)) && well
  well = (await kills(wanted.seconds, seed)) && well
  well = (await steps(wanted.steps, seed)) && well
}
process.exitCode = well ? 0 : 1
