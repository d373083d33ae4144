// The process that is put to the test: services of every kind, what disturbs them, and what it says of itself.
import { subscribe } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import { generate } from 'selfsigned'
import { Disturbances } from './disturbances.mjs'
import { Journal } from './journal.mjs'
import { random } from './protocol.mjs'
import { Promised, Tagged, Threaded } from './pulled.mjs'
import { kinds, Served } from './served.mjs'
import { differences, held, memory, openWhatStays, total } from './state.mjs'

// ms in which a server without clients must come to rest.
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

/** Waits until nothing is left of `problems()`, and gives those that stay. */
async function rest(problems) {
  const deadline = performance.now() + longestRest
  while (problems().length > 0 && performance.now() < deadline) await sleep(20)
  return problems()
}

/** What is not as it is when nobody is there. */
function unsteady() {
  const left = services.flatMap((service) => service.unsteady)
  for (const { service, id } of journal.live.values()) left.push(`${service}: client ${id} is still there`)
  if (queued() > 0) left.push(`${queued()} clients in backlogs`)
  return left
}

let atFirst

const orders = {
  disturb: () => disturbances.begin(),
  cease: () => disturbances.end(),

  /** Comes to rest, and says how it is: as it was the first time. */
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

  /** Closes everything: then nothing may be left that was not there before anything was opened. */
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
