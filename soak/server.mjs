// The process under test: services of every kind, the disturbances, and reports about its own state.
import { subscribe } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import { generate } from 'selfsigned'
import { Disturbances } from './disturbances.mjs'
import { Journal } from './journal.mjs'
import { random } from './protocol.mjs'
import { Promised, Tagged, Threaded } from './pulled.mjs'
import { kinds, Served } from './served.mjs'
import { differences, held, memory, openWhatStays, total } from './state.mjs'

// The time, in ms, within which a server without clients must become idle.
const longestRest = 20_000

process.on('message', ({ order }) => orders[order]())
process.on('disconnect', () => process.exit())

const { private: key, cert } = await generate([{ name: 'commonName', value: 'soak' }], {
  keyType: 'ec',
  curve: 'P-256',
})
await openWhatStays()
const beforeAnything = held()

const chance = random(Number(process.argv[2]))
const journal = new Journal()
const byListener = new Map()
subscribe('async-accept.connection', ({ listener, connection }) =>
  journal.accept(byListener.get(listener).name, connection.remoteAddress),
)
const services = []
const disturbances = new Disturbances(services, chance)
services.push(
  await Promised.open(journal, chance),
  await Tagged.open(journal, chance),
  await Threaded.open(journal, () => disturbances.fdsAreFree()),
  ...(await Promise.all(kinds.map((kind) => Served.open(kind, journal, { key, cert })))),
)
for (const service of services) byListener.set(service.listener, service)

const sum = (figure) => services.reduce((soFar, service) => soFar + figure(service), 0)
const queued = () => sum(({ listener }) => listener.backlog().queued)
const outstanding = () => sum(({ listener }) => listener.pending)
const connections = () => sum(({ serving }) => serving?.connections ?? 0)

const report = () => process.send({ journal: journal.take() })
const tick = setInterval(() => {
  report()
  process.send({ tick: { open: journal.live.size, queued: queued(), now: disturbances.now } })
}, 500)

/** Waits until `problems()` returns none. Returns those that remain at the deadline. */
async function rest(problems) {
  const deadline = performance.now() + longestRest
  while (problems().length > 0 && performance.now() < deadline) await sleep(20)
  return problems()
}

/** Describes what differs from an idle server. */
function unsteady() {
  const left = services.flatMap((service) => service.unsteady)
  for (const { service, id } of journal.live.values()) left.push(`${service}: client ${id} is still connected`)
  if (queued() > 0) left.push(`${queued()} clients in backlogs`)
  return left
}

let atFirst

const orders = {
  disturb: () => disturbances.begin(),
  cease: () => disturbances.end(),

  /** Waits until the server is idle, and reports its state, which must equal the first one. */
  async calm() {
    await disturbances.end()
    const problems = await rest(() => [...unsteady(), ...(atFirst ? differences(held(), atFirst) : [])])
    atFirst ??= held()
    const { fds, handles } = held()
    report()
    process.send({
      calm: {
        problems: [...problems, ...services.flatMap((service) => service.problems)],
        fds: total(fds),
        handles: total(handles),
        outstanding: outstanding(),
        connections: connections(),
        queued: queued(),
        ...(await memory()),
        disturbed: disturbances.counts,
        services: services.map(({ name, listener, terminated }) => ({
          name,
          accepted: journal.accepted[name] ?? 0,
          stats: listener.stats,
          terminated,
        })),
      },
    })
  },

  /** Closes everything. The remaining resources must be those from before anything was opened. */
  async close() {
    clearInterval(tick)
    await Promise.all(services.map((service) => service.close()))
    const problems = await rest(() => [
      ...differences(held(), beforeAnything),
      ...(outstanding() > 0 ? [`${outstanding()} requests outstanding`] : []),
    ])
    report()
    const { fds, handles } = held()
    process.send({
      closed: {
        problems,
        before: { fds: total(beforeAnything.fds), handles: total(beforeAnything.handles), outstanding: 0 },
        after: { fds: total(fds), handles: total(handles), outstanding: outstanding() },
      },
    })
    process.disconnect()
  },
}

process.send({
  services: services.map(({ name, dialect, secure: secured, proxied, http2, listener }) => ({
    name,
    dialect,
    secured,
    proxied,
    http2,
    port: listener.address().port,
  })),
})
