// SIGKILL under load: a worker takes only the connections along that it had accepted, and a supervisor none.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { table } from '../../bench/report.mjs'
import { Child } from '../child.mjs'
import { random } from '../protocol.mjs'
import { thousands } from '../report.mjs'
import { isAlive, openSockets, Supervisor, waitFor } from './supervisor.mjs'

const workers = 8
const killsPerSecond = 10
// ms after a kill in which the clients of the worker notice
const notice = 5_000

const startClients = () => new Child(process.execPath, fileURLToPath(new URL('clients.mjs', import.meta.url)))

/** The local ports of the clients whose connections a stopped process has accepted, proc(5). */
function clientsOf(pid) {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map((fd) => /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1]),
  )
  const rows = readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1)
  return rows.flatMap((row) => {
    const [, , peer = '', , , , , , , inode] = row.trim().split(/\s+/)
    return inodes.has(inode) ? [Number.parseInt(peer.split(':')[1], 16)] : []
  })
}

const isStopped = (pid) => /\) T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))

/** Kills a process with SIGKILL. Returns the clients that it had accepted. A stopped process accepts no more. */
async function kill(pid) {
  try {
    process.kill(pid, 'SIGSTOP')
    await waitFor('a stop', () => isStopped(pid))
    return clientsOf(pid)
  } catch {
    // It has ended meanwhile.
    return []
  } finally {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {}
  }
}

async function killWorkers(seconds, seed) {
  const chance = random(seed)
  const problems = []
  const supervisor = await Supervisor.start(workers)
  const clients = startClients()
  clients.order('go', { ports: await supervisor.ports() })
  /** The times of the kills, by the port of a client that was accepted. */
  const lost = new Map()
  let killed = 0
  const end = performance.now() + seconds * 1_000
  while (performance.now() < end) {
    const next = sleep(1_000 / killsPerSecond)
    const { workers: all } = await supervisor.status()
    const ready = all.filter(({ state }) => state === 'ready')
    // Some are killed while they start. With too many of these, the supervisor would wait for long.
    const { pid } = chance.of(chance.below(20) === 0 ? all : ready) ?? {}
    if (pid !== undefined) {
      killed++
      for (const port of await kill(pid)) lost.set(port, [...(lost.get(port) ?? []), Date.now()])
    }
    await next
  }
  await waitFor('all workers', async () => (await supervisor.status()).ready === workers)
  const { figures, failures } = await clients.ask('rest', 'resting')
  await clients.end()
  for (const failure of failures) {
    const isLost = lost.get(failure.port)?.some((at) => failure.at >= at - 100 && failure.at <= at + notice)
    if (!isLost) problems.push(`not accepted by a killed worker: ${JSON.stringify(failure)}`)
  }
  const known = (await supervisor.status()).workers.map(({ pid }) => pid)
  const strangers = supervisor.children().filter((pid) => !known.includes(pid))
  if (strangers.length > 0) problems.push(`children that the supervisor does not know: ${strangers}`)
  await supervisor.stop()
  return { what: `${workers} workers`, killed, figures, failures, problems }
}

async function killSupervisors(seconds) {
  const problems = []
  const passed = await openSockets()
  let supervisor = await Supervisor.start(workers / 2, [], { passed })
  const clients = startClients()
  clients.order('go', { ports: await supervisor.ports() })
  let killed = 0
  const end = performance.now() + seconds * 1_000
  while (performance.now() < end) {
    const orphans = supervisor.children()
    supervisor.signal('SIGKILL')
    killed++
    await supervisor.ended
    const { directory } = supervisor
    supervisor = await Supervisor.start(workers / 2, [], { passed, directory })
    await waitFor('the end of the orphans', () => orphans.every((pid) => !isAlive(pid)))
  }
  const { figures, failures } = await clients.ask('rest', 'resting')
  await clients.end()
  problems.push(...failures.map((failure) => JSON.stringify(failure)))
  await supervisor.stop()
  await Promise.all(Object.values(passed).map((listener) => listener.close()))
  return { what: 'supervisors', killed, figures, failures, problems }
}

/** Runs each part for `seconds`. Prints a report, and returns whether all went well. */
export async function kills(seconds, seed) {
  const parts = [await killWorkers(seconds, seed), await killSupervisors(seconds)]
  const rows = parts.map(({ what, killed, figures, failures }) => {
    const answered = Object.values(figures).reduce((sum, each) => sum + each.answered, 0)
    return [what, killed, thousands(answered), thousands(failures.length)]
  })
  console.log(table({ title: 'SIGKILL', columns: ['of', 'killed', 'requests answered', 'lost'], rows }))
  const problems = parts.flatMap((part) => part.problems)
  for (const problem of problems.slice(0, 30)) console.log(`soak: ${problem}`)
  const verdict =
    problems.length === 0
      ? 'passed: only what a killed worker had accepted was lost'
      : `failed: ${problems.length} problems`
  console.log(`soak: ${verdict}`)
  return problems.length === 0
}
