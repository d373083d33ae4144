// What do outstanding requests cost, in time and memory, however many there are?
import { Listener } from 'async-accept'
import { fileOf, load, summarize } from './measure.mjs'

const counts = [1, 1_000, 100_000]

// Longer than any run: nothing times out that is not meant to.
const longTimeout = 2 ** 31

const cancelEach = (listener, refs) => {
  for (const ref of refs) listener.cancel(ref)
}

const abort = new AbortController()

const ways = {
  'asyncAccept()': { ask: (listener) => listener.asyncAccept(), cancelAll: cancelEach },
  'asyncAccept(timeout)': { ask: (listener) => listener.asyncAccept(longTimeout), cancelAll: cancelEach },
  // A promise is not cancelled: the end of the listener ends it.
  'accept()': {
    ask: (listener) => {
      listener.accept().catch(() => {})
    },
    cancelAll: (listener) => listener.close(),
  },
  'accept({ signal })': {
    ask: (listener) => {
      listener.accept({ signal: abort.signal }).catch(() => {})
    },
    cancelAll: () => abort.abort(),
  },
}

const memory = () => {
  for (let i = 0; i < 3; i++) globalThis.gc()
  const { heapUsed, rss } = process.memoryUsage()
  return { heapUsed, rss }
}

/** Run as a program, in a process of its own, because memory once used does not come back. */
async function once(way, count) {
  const listener = await Listener.listen({ host: '127.0.0.1' })
  const timed = (run) => {
    const start = process.hrtime.bigint()
    run()
    return Number(process.hrtime.bigint() - start) / count
  }
  // Warm: what is measured is the work, and not its compilation.
  for (let i = 0; i < 20_000; i++) listener.cancel(listener.asyncAccept(longTimeout))
  const refs = new Float64Array(count)
  const before = memory()
  const ask = timed(() => {
    for (let i = 0; i < count; i++) refs[i] = ways[way].ask(listener)
  })
  const after = memory()
  const cancel = timed(() => ways[way].cancelAll(listener, refs))
  if (listener.pending !== 0) throw new Error(`${listener.pending} requests are left`)
  const bytes = (name) => (after[name] - before[name]) / count
  console.log(
    JSON.stringify({ ask, cancel, timeOut: await timeAllOut(count), heap: bytes('heapUsed'), rss: bytes('rss') }),
  )
  await listener.close()
}

// ns for each of so many requests that run out together.
async function timeAllOut(count) {
  const listener = await Listener.listen({ host: '127.0.0.1' })
  // All of one timeout, and the loop is not back before it has passed; so all that is measured is the timing out.
  let ended = 0
  const all = new Promise((resolve) => {
    listener.on('accept', () => {
      if (++ended === count) resolve()
    })
  })
  for (let i = 0; i < count; i++) listener.asyncAccept(1)
  const asked = performance.now()
  while (performance.now() < asked + 2);
  const start = process.hrtime.bigint()
  await all
  const elapsed = Number(process.hrtime.bigint() - start)
  await listener.close()
  return elapsed / count
}

export const defaults = { rounds: 7 }
export const smoke = { rounds: 1 }

export async function measure({ node, rounds, progress }) {
  const rows = []
  const checks = []
  for (const way of Object.keys(ways)) {
    for (const count of counts) {
      const results = []
      for (let round = 1; round <= rounds; round++) {
        progress(`${way}, ${count}: round ${round} of ${rounds}`)
        results.push(await load([node, '--expose-gc', fileOf('outstanding.mjs'), 'once', way, count]))
      }
      const of = (figure) => summarize(results.map((result) => result[figure]))
      // A page is the least by which memory grows: of one request it says nothing.
      const memory = (figure) => (count === 1 ? '-' : { ...of(figure), digits: 0 })
      const time = (figure) => ({ ...of(figure), digits: 0 })
      rows.push([
        way,
        count.toLocaleString('en'),
        time('ask'),
        time('cancel'),
        time('timeOut'),
        memory('rss'),
        memory('heap'),
      ])
      if (count !== counts.at(-1)) continue
      const check = (what, figure, most) =>
        checks.push({
          what: `${way}, ${count.toLocaleString('en')}: ${what}`,
          measured: of(figure).median,
          most,
          digits: 0,
        })
      if (way.startsWith('asyncAccept')) {
        check('cancel, ns each', 'cancel', 1000)
        check('time out, ns each', 'timeOut', 1000)
      }
      check('memory, bytes each', 'rss', 300)
    }
  }
  const columns = [
    'asked by',
    'outstanding',
    'ask, ns',
    'cancel, ns',
    'time out, ns',
    'memory, bytes',
    'heap share, bytes',
  ]
  const missed = checks.filter(({ measured, most }) => measured > most)
  return {
    tables: [{ title: 'Each request', columns, rows }],
    checks,
    losses: missed.map(({ what, most, measured }) => `${what}: ${Math.round(measured)}, target ${most}`),
  }
}

export const title = 'Outstanding requests'
export const about = [
  'The benchmark makes the given number of requests and cancels all of them. (It cancels promises by closing the listener,',
  'or by one signal that all of them share.) Then it makes as many requests with asyncAccept, and all of them time out at',
  'once. The table shows wall time and resident memory per request. The time of a timeout includes the error that each',
  'request gets and the event that delivers the error.',
].join('\n')

if (process.argv[2] === 'once') await once(process.argv[3], Number(process.argv[4]))
