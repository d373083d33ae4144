// What do several processes of one server cost, and what do clients notice of their replacement?
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { has, loadFor, wrk } from './http.mjs'
import { fileOf, load, percentile, pinned, summarize } from './measure.mjs'
import { again, inPairs } from './pairs.mjs'
import { noPolicy, ours, plain, pm2, roundRobin } from './workers-contenders.mjs'

const clients = fileOf('workers-clients.mjs')
const perSecond = 320
const posting = { keepAlive: 8, new: 4 }
// What the clients of the reloads may get instead of an answer.
const failures = ['refused', 'reset', '5xx', 'unanswered', 'other']
const gaps = { 'at once': 0, 'every 2 ms': 2 }

const loads = { 'keep-alive': wrk('http'), 'one request per connection': wrk('http', '-H', 'Connection: close') }

// `warmUp` and `slice` in seconds, as in http.mjs. `requests` is the number of the skewed load, and `connections` that
// of the connections that stay. The quick form leaves out what other contenders show as well, and pm2.
export const defaults = {
  workers: 4,
  warmUp: 2,
  slice: 1,
  slices: 4,
  requests: 4000,
  connections: 400,
  reloads: 20,
  rounds: 1,
}
export const smoke = {
  workers: 2,
  warmUp: 0,
  slice: 0,
  slices: 1,
  requests: 60,
  connections: 16,
  reloads: 1,
  rounds: 1,
  quick: true,
}

const isOurs = ([label]) => label === ours.name
const summary = (results, figure, digits) => ({ ...summarize(results.map((result) => result[figure])), digits })

async function costTables({ contenders, quick, node, workers, rounds, slices, progress, ...sizes }) {
  const others = quick ? [ours] : [again(plain), ...contenders]
  const tables = []
  const compared = []
  for (const [what, makeLoad] of Object.entries(loads)) {
    const loadGroup = async (group, seconds) => {
      const before = group.cpu
      const { rate, requests } = await loadFor(group.address, makeLoad, seconds, sizes)
      return { cpu: (group.cpu - before) / requests, rate }
    }
    const results = await inPairs({
      contenders: others,
      references: [plain],
      rounds,
      slices,
      start: async ({ start }) => {
        const group = await start({ node, workers })
        if (sizes.warmUp > 0) {
          await loadGroup(group, sizes.warmUp)
          await loadGroup(group, sizes.slice)
        }
        return group
      },
      measure: (group) => loadGroup(group, sizes.slice),
      progress: (text) => progress(`${what}: ${text}`),
    })
    const title = `${what[0].toUpperCase()}${what.slice(1)}`
    tables.push({
      title,
      columns: ['contender', 'CPU per request, us', 'ratio', 'requests/s', 'requests/s, ratio'],
      bars: [
        { columns: ['CPU per request, us'], title: `${title}: CPU per request, us`, ours: isOurs },
        { columns: ['requests/s'], title: `${title}: requests per second`, ours: isOurs },
      ],
      rows: [plain, ...others].map(({ name }) => [
        name,
        { ...results.of(name, 'cpu'), digits: 1 },
        { ...results.ratio(name, plain.name), digits: 2 },
        { ...results.of(name, 'rate'), digits: 0 },
        { ...results.ratio(name, plain.name, 'rate'), digits: 2 },
      ]),
    })
    // By their ratios to the reference, because each contender has its own process of it.
    for (const { name } of others.filter((each) => contenders.includes(each))) {
      const ratio = (figure) =>
        results.ratio(ours.name, plain.name, figure).median / results.ratio(name, plain.name, figure).median
      compared.push({ what: `${what}, CPU per request`, name, ratio: ratio('cpu') })
      compared.push({ what: `${what}, requests per second`, name, ratio: ratio('rate'), moreIsBetter: true })
    }
  }
  return { tables, compared }
}

const figures = ['50 %', '99 %', 'longest']

async function skewedTable({ contenders, node, workers, requests, rounds, progress }) {
  const request = (group, count, seed) => load([node, clients, 'skewed', group.address.port, count, perSecond, seed])
  const results = await inPairs({
    contenders: contenders.filter((each) => each !== roundRobin),
    references: [roundRobin],
    rounds,
    start: async ({ start }, round) => {
      const group = await start({ node, workers })
      await request(group, Math.ceil(requests / 16), 1000 + round)
      return group
    },
    measure: async (group, { name }, round) => {
      const { failures, took } = await request(group, requests, round)
      if (failures > 0) throw new Error(`${name}: ${failures} of ${requests} requests failed`)
      return { '50 %': percentile(took, 50), '99 %': percentile(took, 99), longest: took.at(-1) }
    },
    progress: (text) => progress(`skewed load: ${text}`),
  })
  const table = {
    title: `Skewed load, ${perSecond} requests per second: latency of quick requests, ms`,
    columns: ['contender', ...figures, '99 %, ratio to round robin'],
    bars: { columns: ['99 %'], title: 'Skewed load: 99 % of the quick requests are answered within, ms', ours: isOurs },
    rows: contenders.map(({ name }) => [
      name,
      ...figures.map((figure) => ({ ...results.of(name, figure), digits: 1 })),
      { ...results.ratio(name, roundRobin.name, '99 %'), digits: 2 },
    ]),
  }
  const compared = contenders.flatMap(({ name }) =>
    figures.map((figure) => ({
      what: `skewed load, ${figure}`,
      name,
      ratio: results.of(ours.name, figure).median / results.of(name, figure).median,
    })),
  )
  return { table, compared }
}

/** Returns the connections of the worker with the fewest and with the most. */
async function spread(group, node, { workers, connections }, gap) {
  const counts = await load([node, clients, 'hold', group.address.port, connections, gap])
  const fewest = counts.length < workers ? 0 : Math.min(...counts)
  const most = Math.max(...counts)
  return { fewest, most, ratio: most / fewest }
}

/** Reloads one time after the other while clients send requests, and returns the failures for 100 reloads. */
async function reloadUnderLoad(group, node, reloads) {
  const words = [node, clients, 'post', group.address.port, posting.keepAlive, posting.new].map(String)
  const [program, ...args] = pinned('load', words)
  const load = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const printed = text(load.stdout)
  await once(load.stdout, 'readable')
  const start = performance.now()
  for (let i = 0; i < reloads; i++) await group.reload()
  const seconds = (performance.now() - start) / 1000 / reloads
  load.stdin.end()
  const [started, counts] = (await printed).trim().split('\n')
  if (started !== 'started' || counts === undefined) throw new Error('the clients of the reloads have ended')
  const outcomes = JSON.parse(counts)
  const per100 = (kind, names) => (names.reduce((sum, name) => sum + (outcomes[kind][name] ?? 0), 0) * 100) / reloads
  const both = (names) => per100('keepAlive', names) + per100('new', names)
  return {
    keepAlive: per100('keepAlive', failures),
    new: per100('new', failures),
    ...Object.fromEntries(failures.map((failure) => [failure, both([failure])])),
    requests: both([...failures, 'answered']),
    seconds,
  }
}

/** Measures each contender alone: spread, memory, and reloads. */
async function alone({ contenders, handled, quick, node, progress, rounds, reloads, ...sizes }) {
  const reloaded = [...contenders, ...handled]
  const all = quick ? reloaded : [plain, ...reloaded]
  const results = new Map(all.map(({ name }) => [name, []]))
  for (let round = 1; round <= rounds; round++) {
    for (const contender of all) {
      const say = (what) => progress(`round ${round} of ${rounds}: ${contender.name}: ${what}`)
      const group = await contender.start({ node, workers: sizes.workers })
      const result = {}
      say('spread and memory')
      for (const [when, gap] of Object.entries(gaps)) result[when] = await spread(group, node, sizes, gap)
      result.memory = { ...group.memory(), all: group.memoryOfAll() }
      say('reloads')
      if (contender !== plain) result.reloads = await reloadUnderLoad(group, node, reloads)
      result.after = group.memory()
      await group.stop()
      results.get(contender.name).push(result)
    }
  }
  const of = ({ name }, part) => results.get(name).map((result) => result[part])
  return { contenders, reloaded, all, of, ...sizes, reloads }
}

function spreadTable({ contenders, of, connections }) {
  const whens = Object.keys(gaps)
  return {
    title: `${connections} keep-alive connections`,
    columns: ['contender', ...whens.flatMap((when) => [`${when}: fewest`, 'most', `${when}: most / fewest`])],
    bars: { columns: whens.map((when) => `${when}: most / fewest`), title: 'Connections: most / fewest' },
    rows: contenders.map((each) => [
      each.name,
      ...whens.flatMap((when) => [
        summary(of(each, when), 'fewest', 0),
        summary(of(each, when), 'most', 0),
        summary(of(each, when), 'ratio', 2),
      ]),
    ]),
  }
}

function reloadTable({ reloaded, of, reloads }) {
  const cell = (each, figure, digits = 0) => summary(of(each, 'reloads'), figure, digits)
  return {
    title: `Failed requests for 100 reloads, from ${reloads} reloads`,
    columns: ['contender', 'keep-alive, failed', 'new connections, failed', ...failures, 'requests', 'reload, s'],
    bars: {
      columns: ['keep-alive, failed', 'new connections, failed'],
      title: 'Failed requests for 100 reloads under load',
    },
    rows: reloaded.map((each) => [
      each.name,
      ...['keepAlive', 'new', ...failures, 'requests'].map((figure) => cell(each, figure)),
      cell(each, 'seconds', 1),
    ]),
  }
}

function memoryTable({ contenders, all, of, workers }) {
  const perWorker = (each, count) => of(each, 'memory').map(({ all }) => ({ all: all / count }))
  const references = all.filter((each) => each === plain)
  return {
    title: 'Memory, MiB',
    columns: ['contender', 'supervisor, RSS', 'supervisor, PSS', 'RSS after the reloads', 'all, PSS per worker'],
    bars: {
      columns: ['supervisor, PSS', 'all, PSS per worker'],
      title: 'Memory, MiB',
      of: ([label]) => label !== plain.name,
    },
    rows: [
      ...references.map((each) => [each.name, '-', '-', '-', summary(perWorker(each, 1), 'all', 1)]),
      ...contenders.map((each) => [
        each.name,
        summary(of(each, 'memory'), 'rss', 1),
        summary(of(each, 'memory'), 'pss', 1),
        summary(of(each, 'after'), 'rss', 1),
        summary(perWorker(each, workers), 'all', 1),
      ]),
    ],
  }
}

/** The losses in the tables of `alone`: the columns, of which less is better. */
function comparedIn(table, columns) {
  const rowOf = (name) => table.rows.find(([label]) => label === name)
  return columns.flatMap((column) => {
    const place = table.columns.indexOf(column)
    const mine = rowOf(ours.name)[place].median
    const others = table.rows.filter((row) => !isOurs(row) && typeof row[place] === 'object')
    return others.map((row) => ({ what: column, name: row[0], ratio: mine / row[place].median }))
  })
}

export async function measure(how) {
  if (!has('wrk')) return { tables: [], checks: [], losses: ['not measured: wrk not found'] }
  const { unchanged, handled, missing } = how.quick ? {} : pm2()
  const contenders = [ours, roundRobin, ...(how.quick ? [] : [noPolicy]), ...(unchanged ? [unchanged] : [])]
  const cost = await costTables({ contenders, ...how })
  const skewed = await skewedTable({ contenders, ...how })
  const each = await alone({ contenders, handled: handled ? [handled] : [], ...how })
  const spread = spreadTable(each)
  const reloads = reloadTable(each)
  const memory = memoryTable(each)
  const worst = (part, figure) => summarize(each.of(ours, part).map((result) => result[figure])).most
  const checks = [
    {
      what: `${ours.name}: failed keep-alive requests, at worst`,
      measured: worst('reloads', 'keepAlive'),
      most: 0,
      digits: 0,
    },
    {
      what: `${ours.name}: failed requests on new connections, at worst`,
      measured: worst('reloads', 'new'),
      most: 0,
      digits: 0,
    },
    ...Object.keys(gaps).map((when) => ({
      what: `${ours.name}: most / fewest connections, ${when}, at worst`,
      measured: worst(when, 'ratio'),
      most: 1.5,
    })),
  ]
  const compared = [
    ...cost.compared,
    ...skewed.compared,
    ...comparedIn(
      spread,
      Object.keys(gaps).map((when) => `${when}: most / fewest`),
    ),
    ...comparedIn(reloads, ['reload, s']),
    ...comparedIn(memory, ['supervisor, RSS', 'supervisor, PSS', 'all, PSS per worker']),
  ]
  // Rounded as printed: a third digit is noise.
  const isLost = ({ ratio, moreIsBetter }) => {
    const rounded = Number(ratio.toFixed(2))
    return moreIsBetter ? rounded < 1 : rounded > 1
  }
  return {
    tables: [...cost.tables, skewed.table, spread, reloads, memory],
    checks,
    losses: [
      ...compared.filter(isLost).map(({ what, name, ratio }) => `${what}: ${ratio.toFixed(2)} times that of ${name}`),
      ...(missing ? [`not measured: pm2: ${missing}`] : []),
    ],
  }
}

export const title = 'Workers on shared sockets'
export const about = [
  `The same unchanged server (\`node:http\`, bench/workers-server.cjs) in ${defaults.workers} processes, and in one process as the`,
  'reference. The processes are not pinned: they and the load share all cores. So the figures compare costs, and do not',
  'show how a server scales.',
  '',
  '- async-accept run: `async-accept run -n 4 --settle 0 server.js`, replaced by `async-accept reload`',
  '- cluster: a primary (bench/workers-primary.mjs) with each `schedulingPolicy`. At a reload it forks a worker, waits for',
  '  its `listening`, and calls `disconnect()` of an old one. It kills an old worker that has not ended after 2 s.',
  '- pm2: `pm2 start server.js -i 4`, replaced by `pm2 reload`, with its defaults. It sends SIGINT to an old worker, which',
  '  ends an unchanged program at once. With "SIGINT handled", the program calls `server.close()` and then exits, as the',
  '  documentation of pm2 recommends. pm2 kills it after 1.6 s.',
  '',
  'CPU is that of all processes of a contender, also of its supervisor, primary or daemon. wrk makes requests on 64',
  'connections, as in the question `http`. Each contender is loaded in turn with a process of the reference of its own.',
  'With round robin, which pm2 uses, too, the primary accepts each connection and sends it to a worker. With SCHED_NONE',
  'and in async-accept run, the workers accept. A worker of async-accept run also compares its connections with those of',
  'the others.',
  '',
  'Skewed load: as in [the question `skewed`](#a-skewed-load), over HTTP. 5 % of the requests block their process for',
  '50 ms. The latency is that of the others.',
  '',
  'Keep-alive connections: clients connect, send one request, and stay. The figures are the connections of the process',
  'with the fewest and with the most.',
  '',
  `Reloads: ${posting.keepAlive} clients send POST requests on a keep-alive connection, and ${posting.new} clients on a new connection for each`,
  'request. Each request takes 10 ms, and none is repeated. Meanwhile, one reload follows the other. A request has failed',
  'if it was refused, reset, answered with 5xx, or not answered within 10 s. A keep-alive connection stays with its',
  'process. So an old worker of `cluster` does not end before it is killed, which resets the requests that it has. A',
  'worker of async-accept run answers with `Connection: close` and ends after its last answer.',
  '',
  'Memory: after the keep-alive connections have ended. RSS of the supervisor, primary or daemon counts all pages of the',
  'Node binary. In PSS, each process counts its part of a shared page, so it also depends on the other processes of Node',
  'on the machine. The last column is the PSS of all processes, divided by the number of workers.',
].join('\n')
