// npm run soak -- --help
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { report } from './report.mjs'
import { soak } from './rounds.mjs'
import { recommended, slowhttp } from './slowhttp.mjs'

const help = `npm run soak -- [options] [slowhttp]

Clients that come, go, reset, stall, half-close and fail their handshakes, at a server whose limits change, whose threads die
and whose fds run out. In the end every client must be accounted for, and nothing may be left. With "slowhttp" instead: a
healthy client beside the four attacks of slowhttptest.

  --minutes <n>, --hours <n>   how long, about; 3 minutes unless given
  --seed <n>                   makes the same choices as the run that had it; by default the time
  --seconds <n>                slowhttp: of each mode, 10 unless given
  --smoke                      some 40 seconds of the one and some seconds of each mode of the other: that it works
`

const smokeRound = 5
// s that a round takes beyond its clients' coming: those that are silent are waited for.
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
        smoke: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
    for (const name of ['minutes', 'hours', 'seconds', 'seed']) {
      if (values[name] === undefined) continue
      if (!(Number(values[name]) > 0)) fail(`--${name} must be a positive number, and is ${values[name]}`)
      values[name] = Number(values[name])
    }
    if (positionals.some((each) => each !== 'slowhttp')) fail(`there is no "${positionals}"\n\n${help}`)
    return { ...values, only: positionals[0] }
  } catch (error) {
    return fail(`${error.message}\n\n${help}`)
  }
}

/** So many rounds behind the warm-up, which is as long as one. */
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
if (process.platform !== 'linux') fail('needs Linux')
const attacks = given.only === 'slowhttp' || given.smoke
if (attacks && spawnSync('slowhttptest', ['-h']).error) fail('slowhttp needs slowhttptest (Debian: slowhttptest)')

let well = true
if (given.only !== 'slowhttp') {
  const seed = given.seed ?? Math.floor(Date.now() / 1_000) % 1_000_000
  console.log(`soak: --seed ${seed}`)
  well = report(await soak({ ...plan(given), seed }))
}
if (attacks) {
  const attacked = given.smoke ? { seconds: 2, only: recommended } : { seconds: given.seconds ?? 10 }
  well = (await slowhttp(attacked)) && well
}
process.exitCode = well ? 0 : 1
