// The closing report of a soak, in plain words.
import { table } from '../bench/report.mjs'
import { classes, unexplained } from './outcomes.mjs'
import { growth } from './state.mjs'

export const thousands = (number) => number.toLocaleString('en')
export const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

// What a process may keep that is no leak, however long it runs: code that V8 has compiled, pieces that allocators have not
// given back. What grows beyond that, with each client and by more than three standard errors, is one.
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
      `${Math.round(perClient)} bytes a client (standard error ${Math.round(error)}); at most ${mib(mayGrow[figure])} in all`,
    ],
    problems: leaks ? [`${figure}: grows by ${Math.round(perClient)} bytes a client, ${mib(least)} at the least`] : [],
  }
}

const rowsOf = (counts) =>
  Object.entries(counts)
    .sort(([, left], [, right]) => right - left)
    .map(([name, number]) => [name, thousands(number)])

/** Prints it, and says whether all is well. */
export function report({ outcomes, looks, closed, problems, elapsed }) {
  // From the end of the warm-up on.
  const [opened, ...warm] = looks
  const last = looks.at(-1)
  const memory = ['heap', 'rss'].map((figure) => memoryRow(warm, figure))
  const all = [...problems, ...memory.flatMap((each) => each.problems)]

  const { sums, policies, started, settled } = outcomes
  console.log(
    `${thousands(started)} clients in ${Math.round(elapsed)} s, ${Math.round(started / elapsed)} a second; ` +
      `${warm.length - 1} rounds behind the warm-up\n`,
  )
  console.log(table({ title: 'What went on', columns: ['disturbance', 'times'], rows: rowsOf(last.disturbed) }))
  const outcomeRows = classes.map((name) => [name, thousands(sums[name])])
  outcomeRows.push(['sum', thousands(settled)], ['started', thousands(started)])
  console.log(table({ title: 'What became of the clients', columns: ['outcome', 'clients'], rows: outcomeRows }))
  console.log(
    table({ title: 'Refused, by what the server said', columns: ['policy', 'clients'], rows: rowsOf(policies) }),
  )
  console.log(
    table({
      title: 'By service',
      columns: ['service', 'clients', 'accepted', 'reset at the fd limit', 'lost unheard, threads ended'],
      rows: last.services.map(({ name, accepted, stats, terminated }) => [
        name,
        thousands(outcomes.came[name] ?? 0),
        thousands(accepted),
        thousands(stats.reset),
        terminated === undefined ? '' : `${outcomes.unheard[name] ?? 0}, ${terminated}`,
      ]),
    }),
  )
  const pair = (what, figure) => [what, thousands(opened[figure]), thousands(last[figure]), '']
  const ends = (what, figure) => [what, thousands(closed.before[figure]), thousands(closed.after[figure]), '']
  console.log(
    table({
      title: 'What the server holds, before and after',
      columns: ['what', 'before', 'after', 'growth since the warm-up'],
      rows: [
        pair('fds, open and at rest', 'fds'),
        pair('handles, open and at rest', 'handles'),
        pair('outstanding requests, at rest', 'outstanding'),
        pair('connections being served, at rest', 'connections'),
        pair('clients in backlogs, at rest', 'queued'),
        ends('fds, when all is closed', 'fds'),
        ends('handles, when all is closed', 'handles'),
        ends('outstanding requests, when all is closed', 'outstanding'),
        ...memory.map(({ row }) => row),
      ],
    }),
  )
  console.log(
    table({
      title: 'Memory at rest, round by round',
      columns: ['clients so far', 'heap', 'resident'],
      rows: looks.map(({ clients, heap, rss }) => [thousands(clients), mib(heap), mib(rss)]),
    }),
  )
  for (const problem of all.slice(0, mostProblems)) console.log(`soak: ${problem}`)
  if (all.length > mostProblems) console.log(`soak: and ${all.length - mostProblems} more`)
  const well = all.length === 0 && sums[unexplained] === 0 && settled === started
  console.log(well ? 'soak: every client is accounted for, and nothing is left' : 'soak: failed')
  return well
}
