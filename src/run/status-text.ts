import type { Status } from './control-protocol.js'

/** Describes a status for a terminal. */
export function statusText(status: Status): string {
  const { name, pid, phase, target, ready, generation, sockets, workers } = status
  const listening = sockets.map((each) => `${each.name} (${each.address})`).join(', ') || 'nothing'
  const lines = workers.map(({ pid, state, stale, age, status }) => {
    const note = stale ? ', to be replaced' : ''
    return `  ${String(pid).padStart(7)}  ${`${state}${note}`.padEnd(22)}  ${formatAge(age)}  ${status ?? ''}`.trimEnd()
  })
  return [
    `${name} (pid ${pid}): ${phase}, ${ready} of ${target} workers are ready, generation ${generation}`,
    `listens on ${listening}`,
    ...lines,
    '',
  ].join('\n')
}

function formatAge(seconds: number): string {
  const [days, hours, minutes] = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ]
  if (days > 0) return `${days} d ${hours} h`
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`
}

/** Describes a status in the text format of Prometheus. */
export function metricsText({ name, target, ready, generation, failures, workers }: Status): string {
  const states = ['starting', 'ready', 'ending', 'killed']
  const counts = states.map(
    (state) => [`state="${state}"`, workers.filter((each) => each.state === state).length] as const,
  )
  const connections = workers.map((each) => [`worker="${each.pid}"`, each.connections] as const)
  const single = (value: number) => [['', value]] as const
  return [
    metric('target_workers', 'gauge', 'The number of workers that shall be ready.', single(target)),
    metric('ready_workers', 'gauge', 'The number of workers that are ready.', single(ready)),
    metric('workers', 'gauge', 'The workers by state.', counts),
    metric('connections', 'gauge', 'The open connections of each worker.', connections),
    metric('generation', 'counter', 'The number of reloads that have begun, plus 1.', single(generation)),
    metric('failures_total', 'counter', 'The number of workers that have failed.', single(failures)),
  ].join('')

  function metric(suffix: string, type: string, help: string, values: readonly (readonly [string, number])[]): string {
    const full = `async_accept_${suffix}`
    const lines = values.map(([label, value]) => `${full}{name="${name}"${label && `,${label}`}} ${value}\n`)
    return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join('')}`
  }
}
