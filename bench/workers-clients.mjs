// The clients of bench/workers.mjs, in a process of their own:
//   post <port> <keep-alive> <new>      POST requests without retry until the end of stdin
//   hold <port> <connections> <gap>     keep-alive connections, one every `gap` ms; prints the number of each process
//   skewed <port> <count> <per second> <seed>  as the question `skewed`, over HTTP
import { once } from 'node:events'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { blockedFor, makeRequests } from './skewed.mjs'

// In ms. A request without an answer after this time counts as unanswered.
const patience = 10_000

const ends = { ECONNREFUSED: 'refused', ECONNRESET: 'reset', EPIPE: 'reset', ETIMEDOUT: 'unanswered' }

const host = '127.0.0.1'

/** Makes one request. Returns how it ended. */
async function post(port, agent, body) {
  const request = http.request({ host, port, agent, method: 'POST', timeout: patience })
  request.on('timeout', () => request.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })))
  request.end(body)
  try {
    const [response] = await once(request, 'response')
    const answer = await text(response)
    if (response.statusCode >= 500) return '5xx'
    return response.statusCode === 200 && answer === body ? 'answered' : 'other'
  } catch ({ code }) {
    return ends[code] ?? 'other'
  }
}

/** Prints { keepAlive, new }: the numbers of requests by outcome. Each client sends one request after the other. */
async function postUntilEnd(port, keepAlive, others) {
  let isDone = false
  const client = async (counts, options) => {
    const agent = new http.Agent(options)
    for (let i = 0; !isDone; i++) {
      const outcome = await post(port, agent, `request ${i}`)
      counts[outcome] = (counts[outcome] ?? 0) + 1
    }
    agent.destroy()
  }
  const results = { keepAlive: {}, new: {} }
  const clients = [
    ...Array.from({ length: keepAlive }, () => client(results.keepAlive, { keepAlive: true, maxSockets: 1 })),
    ...Array.from({ length: others }, () => client(results.new, { keepAlive: false })),
  ]
  process.stdin.resume().once('end', () => {
    isDone = true
  })
  console.log('started')
  await Promise.all(clients)
  console.log(JSON.stringify(results))
}

/** Opens connections with one request each, and prints how many each process has. */
async function hold(port, connections, gap) {
  const answers = []
  for (let i = 0; i < connections; i++) {
    // An agent of its own, which opens a new connection.
    const request = http.get({ host, port, agent: new http.Agent({ keepAlive: true }) })
    answers.push(once(request, 'response').then(([response]) => text(response)))
    if (gap > 0) await sleep(gap)
  }
  const counts = {}
  for (const pid of await Promise.all(answers)) counts[pid] = (counts[pid] ?? 0) + 1
  console.log(JSON.stringify(Object.values(counts)))
  process.exit(0)
}

const httpOf = (kind) =>
  `GET /${kind === 'slow' ? `blocked/${blockedFor}` : ''} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`

const modes = {
  post: postUntilEnd,
  hold,
  skewed: (...numbers) => makeRequests(...numbers, httpOf),
}
await modes[process.argv[2]](...process.argv.slice(3).map(Number))
