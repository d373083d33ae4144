// Reloads under load: no client may notice.
import { fileURLToPath } from 'node:url'
import { table } from '../../bench/report.mjs'
import { Child } from '../child.mjs'
import { mib, thousands } from '../report.mjs'
import { Supervisor, waitFor } from './supervisor.mjs'

const workers = 4
// In bytes. V8 keeps compiled code, and allocators keep free memory.
const mayGrow = 32 * 2 ** 20
// Reloads until the memory of the supervisor has its size.
const warmUp = 20

/** Reloads `count` times while clients of each kind send requests. Prints a report, and returns whether all went well. */
export async function reloads(count) {
  const began = performance.now()
  const problems = []
  const supervisor = await Supervisor.start(workers, ['--settle', '0'])
  const clients = new Child(process.execPath, fileURLToPath(new URL('clients.mjs', import.meta.url)))
  const fds = supervisor.fds()
  clients.order('go', { ports: await supervisor.ports() })
  const sizes = []
  const durations = []
  for (let i = 1; i <= count; i++) {
    const since = performance.now()
    const verdict = await supervisor.ask({ command: 'reload' })
    if (!verdict.ok) problems.push(`reload ${i}: ${verdict.reason}`)
    durations.push(performance.now() - since)
    if (i === warmUp || i % Math.ceil(count / 10) === 0) sizes.push([i, supervisor.rss()])
    if (i % 20 === 0) {
      const { failures } = await clients.ask('look', 'seen')
      const seconds = Math.round((performance.now() - began) / 1_000)
      process.stderr.write(`${seconds} s  reload ${i} of ${count}  ${failures.length + problems.length} problems\n`)
    }
  }
  const { figures, failures } = await clients.ask('rest', 'resting')
  await clients.end()
  problems.push(...failures.map((failure) => JSON.stringify(failure)))
  await waitFor('the last workers', () => supervisor.children().length === workers)
  const zombies = supervisor.zombies()
  if (zombies.length > 0) problems.push(`zombies: ${zombies}`)
  await waitFor(`${fds} fds`, () => supervisor.fds() === fds).catch(() => problems.push(`${supervisor.fds()} fds`))
  const [[, before]] = sizes
  const [, after] = sizes.at(-1)
  if (after - before > mayGrow) problems.push(`the supervisor has grown by ${mib(after - before)}`)
  const { failures: failed } = await supervisor.status()
  if (failed > 0) problems.push(`${failed} workers have failed`)
  const { ok, reason } = await supervisor.stop()
  if (!ok) problems.push(`stop: ${reason}`)

  const rows = Object.entries(figures).map(([kind, { answered, again, idle }]) => [
    kind,
    thousands(answered),
    thousands(again),
    thousands(idle),
  ])
  console.log(
    table({
      title: 'Requests',
      columns: ['client', 'answered', 'refused by HTTP/2, sent again', 'on an idle connection'],
      rows,
    }),
  )
  const average = durations.reduce((sum, each) => sum + each, 0) / durations.length
  console.log(
    `${count} reloads, ${(average / 1_000).toFixed(2)} s each; fds of the supervisor: ${fds} before and after`,
  )
  console.log(`memory of the supervisor: ${sizes.map(([i, rss]) => `${mib(rss)} after ${i}`).join(', ')}\n`)
  for (const problem of problems.slice(0, 30)) console.log(`soak: ${problem}`)
  console.log(
    `soak: ${problems.length === 0 ? 'passed: every request was answered' : `failed: ${problems.length} problems`}`,
  )
  return problems.length === 0
}
