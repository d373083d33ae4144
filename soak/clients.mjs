// The process that runs the clients, a fixed number at a time. Each client has one behaviour, and produces one record.
import { setTimeout as sleep } from 'node:timers/promises'
import { behaviours } from './behaviours.mjs'
import { CallError } from './call.mjs'
import { idFor, random } from './protocol.mjs'
import { starved } from './starved.mjs'

// In ms. Longer than any delay that a server may cause on purpose.
const longestWait = 60_000

let records = []
let started = 0
let resting = true
const lanes = []

function report() {
  process.send({ records, started })
  records = []
}
setInterval(report, 200)

async function client(service, behaviour, chance) {
  const id = idFor(started++)
  const began = performance.now()
  const starvedBefore = starved()
  const record = { id, service: service.name, behaviour: behaviour.name, saw: 'stuck', detail: '', answered: 0 }
  const end = (saw, detail = '') => Object.assign(record, { saw, detail })
  const run = behaviour.run({ service, id, chance, record }).then(
    (saw) => end(saw),
    (error) => end(error instanceof CallError ? error.saw : 'failed', error.message),
  )
  const waiting = new AbortController()
  await Promise.race([run, sleep(longestWait, undefined, { signal: waiting.signal }).catch(() => {})])
  waiting.abort()
  // A copy of the current state: later changes come too late.
  records.push({ ...record, lasted: Math.round(performance.now() - began), starved: starved() - starvedBefore })
}

async function lane(services, chance) {
  // Spreads the handshakes of the first clients.
  await sleep(chance.below(1_000))
  while (!resting) {
    const service = chance.of(services)
    const fitting = behaviours.filter(({ on }) => on === undefined || on(service))
    await client(service, chance.weighed(fitting.map((behaviour) => [behaviour, behaviour.weight])), chance)
  }
}

const orders = {
  go({ services, count, seed }) {
    resting = false
    for (let i = 0; i < count; i++) lanes.push(lane(services, random(seed + i)))
  },
  async rest() {
    resting = true
    await Promise.all(lanes.splice(0))
    report()
    process.send({ resting: true })
  },
}

process.on('message', (message) => orders[message.order](message))
process.on('disconnect', () => process.exit())
