import type { Status } from './control-protocol.js'

/** Describes a status for a terminal. */
export function statusText(status: Status): string {
  const { name, pid, phase, target, ready, generation, sockets, workers } = status
  const listening = sockets.map(({ name, address, queued }) => `${name} (${address}, ${queued ?? '?'} waiting)`)
  const rows = workers.map((each) => [
    String(each.pid ?? '-'),
    String(each.generation),
    `${each.state}${each.stale ? ', to be replaced' : ''}`,
    formatAge(each.uptime),
    String(each.connections ?? '-'),
    each.rss === undefined ? '-' : `${Math.round(each.rss / 2 ** 20)} MiB`,
    each.delay === undefined ? '-' : `${Math.round(each.delay * 1000)} ms`,
    // It comes from a program, and must not control the terminal.
    [each.probe && `probe: ${each.probe}`, each.status]
      .filter(Boolean)
      .join('; ')
      .replace(/\p{Cc}/gu, ' '),
  ])
  return [
    `${name} (pid ${pid}): ${phase}, ${ready} of ${target} workers are ready, generation ${generation}`,
    `listens on ${listening.join(', ') || 'nothing'}`,
    ...table([['pid', 'generation', 'state', 'uptime', 'connections', 'memory', 'delay', ''], ...rows]),
    '',
  ].join('\n')
}

function table(rows: readonly string[][]): string[] {
  const width = (column: number) => Math.max(...rows.map((row) => row[column]?.length ?? 0))
  const line = (row: readonly string[]) => row.map((cell, column) => cell.padEnd(width(column))).join('  ')
  return rows.map((row) => `  ${line(row)}`.trimEnd())
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

type Labels = Readonly<Record<string, string | number>>

/** Describes a status in the text format of Prometheus. */
export function metricsText({ name, target, ready, generation, failures, sockets, workers }: Status): string {
  const states = ['starting', 'ready', 'ending', 'killed']
  const counts = states.map((state): Sample => [{ state }, workers.filter((each) => each.state === state).length])
  const queues = sockets.map((each): Sample => [{ socket: each.name, address: each.address }, each.queued])
  const ofWorkers = (value: (worker: Status['workers'][number]) => number | undefined) =>
    workers.flatMap((each): Sample[] =>
      each.pid === undefined ? [] : [[{ worker: each.pid, generation: each.generation }, value(each)]],
    )
  return [
    metric('target_workers', 'gauge', 'The number of workers that shall be ready.', [[{}, target]]),
    metric('ready_workers', 'gauge', 'The number of workers that are ready.', [[{}, ready]]),
    metric('workers', 'gauge', 'The workers by state.', counts),
    metric('generation', 'gauge', 'The number of reloads that have begun, plus 1.', [[{}, generation]]),
    metric('failures_total', 'counter', 'The number of workers that have failed.', [[{}, failures]]),
    metric('queued_connections', 'gauge', 'The clients in the accept queue of each socket.', queues),
    metric(
      'worker_connections',
      'gauge',
      'The open connections of each worker.',
      ofWorkers((each) => each.connections),
    ),
    metric(
      'worker_uptime_seconds',
      'gauge',
      'The time since the start of each worker.',
      ofWorkers((each) => each.uptime),
    ),
    metric(
      'worker_resident_memory_bytes',
      'gauge',
      'The memory of each worker.',
      ofWorkers((each) => each.rss),
    ),
    metric(
      'worker_event_loop_delay_seconds',
      'gauge',
      'The largest delay of the event loop of each worker in the last second.',
      ofWorkers((each) => each.delay),
    ),
  ].join('')

  function metric(suffix: string, type: string, help: string, samples: readonly Sample[]): string {
    const full = `async_accept_${suffix}`
    const lines = samples.flatMap(([labels, value]) =>
      value === undefined ? [] : [`${full}{${labelsText({ name, ...labels })}} ${value}\n`],
    )
    return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join('')}`
  }
}

/** Labels and a value; undefined if it is unknown. */
type Sample = readonly [Labels, number | undefined]

function labelsText(labels: Labels): string {
  const escaped = (value: string | number) => String(value).replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n')
  return Object.entries(labels)
    .map(([label, value]) => `${label}="${escaped(value)}"`)
    .join(',')
}
