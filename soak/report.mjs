// The final report of a soak.
import { table } from '../bench/report.mjs'
import { classes, unexplained } from './outcomes.mjs'
import { growth } from './state.mjs'

export const thousands = (number) => number.toLocaleString('en')
export const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

// In bytes. Growth within these limits is not a leak: V8 keeps compiled code, and allocators keep free memory. Growth
// beyond them, per client and by more than three standard errors, is a leak.
const mayGrow = { heap: 2 * 2 ** 20, rss: 32 * 2 ** 20 }

const mostProblems = 30

function memoryRow(looks, figure) {
  const { perClient, error, clients } = growth(looks, figure)
  const least = Math.max(0, perClient - 3 * error) * clients
  const leaks = least > mayGrow[figure]
  return {
    row: [
      figure === 'heap' ? 'JavaScript heap, external memory' : 'resident memory',
      mib(looks[0][figure]),
      mib(looks.at(-1)[figure]),
      `${Math.round(perClient)} bytes per client (standard error ${Math.round(error)}); at most ${mib(mayGrow[figure])} in total`,
    ],
    problems: leaks ? [`${figure}: grows by ${Math.round(perClient)} bytes per client, at least ${mib(least)}`] : [],
  }
}

const rowsOf = (counts) =>
  Object.entries(counts)
    .sort(([, left], [, right]) => right - left)
    .map(([name, number]) => [name, thousands(number)])

/** Prints the report. Returns whether the soak has passed. */
export function report({ outcomes, looks, closed, problems, elapsed }) {
  // `warm` begins at the end of the warm-up.
  const [opened, ...warm] = looks
  const last = looks.at(-1)
  const memory = ['heap', 'rss'].map((figure) => memoryRow(warm, figure))
  const all = [...problems, ...memory.flatMap((each) => each.problems)]

  const { sums, policies, started, settled } = outcomes
  console.log(
    `${thousands(started)} clients in ${Math.round(elapsed)} s, ${Math.round(started / elapsed)} per second; ` +
      `${warm.length - 1} rounds after the warm-up\n`,
  )
  console.log(table({ title: 'Disturbances', columns: ['disturbance', 'count'], rows: rowsOf(last.disturbed) }))
  const outcomeRows = classes.map((name) => [name, thousands(sums[name])])
  outcomeRows.push(['sum', thousands(settled)], ['started', thousands(started)])
  console.log(table({ title: 'Outcomes of the clients', columns: ['outcome', 'clients'], rows: outcomeRows }))
  console.log(table({ title: 'Refused clients by policy', columns: ['policy', 'clients'], rows: rowsOf(policies) }))
  console.log(
    table({
      title: 'Services',
      columns: ['service', 'clients', 'accepted', 'reset at the fd limit', 'unreported, threads terminated'],
      rows: last.services.map(({ name, accepted, stats, terminated }) => [
        name,
        thousands(outcomes.arrived[name] ?? 0),
        thousands(accepted),
        thousands(stats.reset),
        terminated === undefined ? '' : `${outcomes.unreported[name] ?? 0}, ${terminated}`,
      ]),
    }),
  )
  const pair = (what, figure) => [what, thousands(opened[figure]), thousands(last[figure]), '']
  const ends = (what, figure) => [what, thousands(closed.before[figure]), thousands(closed.after[figure]), '']
  console.log(
    table({
      title: 'Resources of the server, before and after',
      columns: ['resource', 'before', 'after', 'growth since the warm-up'],
      rows: [
        pair('fds, while open and idle', 'fds'),
        pair('handles, while open and idle', 'handles'),
        pair('outstanding requests, while idle', 'outstanding'),
        pair('served connections, while idle', 'connections'),
        pair('clients in backlogs, while idle', 'queued'),
        ends('fds, after closing everything', 'fds'),
        ends('handles, after closing everything', 'handles'),
        ends('outstanding requests, after closing everything', 'outstanding'),
        ...memory.map(({ row }) => row),
      ],
    }),
  )
  console.log(
    table({
      title: 'Memory while idle, by round',
      columns: ['clients so far', 'heap', 'resident'],
      rows: looks.map(({ clients, heap, rss }) => [thousands(clients), mib(heap), mib(rss)]),
    }),
  )
  for (const problem of all.slice(0, mostProblems)) console.log(`soak: ${problem}`)
  if (all.length > mostProblems) console.log(`soak: and ${all.length - mostProblems} more`)
  const well = all.length === 0 && sums[unexplained] === 0 && settled === started
  console.log(well ? 'soak: passed: every client is accounted for, and no resource has leaked' : 'soak: failed')
  return well
}
