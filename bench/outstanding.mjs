// What do outstanding requests cost in time and memory, depending on their number?
import { Listener } from 'async-accept'
import { fileOf, load, summarize } from './measure.mjs'

const counts = [1, 1_000, 100_000]

// In ms. Longer than any run, so that no request times out unintentionally.
const longTimeout = 2 ** 31

const cancelEach = (listener, refs) => {
  for (const ref of refs) listener.cancel(ref)
}

const abort = new AbortController()

const ways = {
  'asyncAccept()': { ask: (listener) => listener.asyncAccept(), cancelAll: cancelEach },
  'asyncAccept(timeout)': { ask: (listener) => listener.asyncAccept(longTimeout), cancelAll: cancelEach },
  // A promise cannot be cancelled. Closing the listener rejects it.
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

/** Runs in a separate process, because memory that was used once is not returned to the system. */
async function once(way, count) {
  const listener = await Listener.listen({ host: '127.0.0.1' })
  const timed = (run) => {
    const start = process.hrtime.bigint()
    run()
    return Number(process.hrtime.bigint() - start) / count
  }
  // Warms up, so that the measurement does not include compilation.
  for (let i = 0; i < 20_000; i++) listener.cancel(listener.asyncAccept(longTimeout))
  const refs = new Float64Array(count)
  const before = memory()
  const ask = timed(() => {
    for (let i = 0; i < count; i++) refs[i] = ways[way].ask(listener)
  })
  const after = memory()
  const cancel = timed(() => ways[way].cancelAll(listener, refs))
  if (listener.pending !== 0) throw new Error(`${listener.pending} requests are still pending`)
  const bytes = (name) => (after[name] - before[name]) / count
  console.log(
    JSON.stringify({ ask, cancel, timeOut: await timeAllOut(count), heap: bytes('heapUsed'), rss: bytes('rss') }),
  )
  await listener.close()
}

// Returns the time, in ns per request, that `count` requests need to time out together.
async function timeAllOut(count) {
  const listener = await Listener.listen({ host: '127.0.0.1' })
  // All requests have the same timeout, and the event loop is blocked until it has elapsed. Only the timing out is
  // measured.
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
      // Resident memory grows by pages, so it is meaningless for one request.
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
    'requested with',
    'outstanding',
    'request, ns',
    'cancel, ns',
    'time out, ns',
    'memory, bytes',
    'heap part, bytes',
  ]
  const missed = checks.filter(({ measured, most }) => measured > most)
  return {
    tables: [
      {
        title: 'Per request',
        columns,
        rows,
        bars: {
          title: 'ns per request',
          columns: ['request, ns', 'cancel, ns', 'time out, ns'],
          of: ([, count]) => count === counts.at(-1).toLocaleString('en'),
          label: ([way, count]) => `${way}, ${count}`,
        },
      },
    ],
    checks,
    losses: missed.map(({ what, most, measured }) => `${what}: ${Math.round(measured)}, target ${most}`),
  }
}

export const title = 'Outstanding requests'
export const about = [
  'Makes the given number of requests, and cancels all of them (promises: closes the listener, or aborts one signal',
  'that all requests share). Then makes as many requests with asyncAccept, which all time out at once. Wall time and',
  'resident memory are per request. Timing out includes creating the error of each request and emitting its event.',
].join('\n')

if (process.argv[2] === 'once') await once(process.argv[3], Number(process.argv[4]))
