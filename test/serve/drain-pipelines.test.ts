import assert from 'node:assert/strict'
import http from 'node:http'
import https from 'node:https'
import { setImmediate as nextTurn } from 'node:timers/promises'
import fc from 'fast-check'
import { type DrainReport, type Listener, serve } from '../../src/index.js'
import { certificates } from '../certificates.js'
import { listen, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { get, rawClient, responsesIn } from './pipelining.js'

// PIPELINE_RUNS is the number of pipelines. A failure prints the seed and the path that repeat it.
const { PIPELINE_RUNS = '400', PIPELINE_SEED, PIPELINE_PATH } = process.env

/** A request, and how its handler answers. */
interface Planned {
  kind: 'get' | 'head' | 'post' | 'chunked' | 'continue'
  /** `held`: when the test releases it. `begun`: the same, but the handler sends the response head at once. */
  answer: 'at once' | 'next turn' | 'held' | 'begun'
  readsBody: boolean
  /** The size of the response body in bytes. */
  size: number
}

interface Step {
  do: 'send' | 'release' | 'turn'
  /** The index among the held responses. */
  which: number
}

interface Plan {
  requests: Planned[]
  /** Positions, as fractions, at which the bytes of all requests are cut into segments. */
  cuts: number[]
  /** The steps before the drain and after it has begun. */
  before: Step[]
  after: Step[]
  graces: { idleGrace: number; unusedGrace: number }
}

const oneOf = fc.constantFrom
const record = <T>(model: { [Key in keyof T]: fc.Arbitrary<T[Key]> }) => fc.record(model, { noNullPrototype: true })

const planned = record<Planned>({
  kind: oneOf('get', 'get', 'get', 'head', 'post', 'chunked', 'continue'),
  answer: oneOf('at once', 'next turn', 'held', 'held', 'begun'),
  readsBody: fc.boolean(),
  size: oneOf(10, 10, 1_000, 200_000),
})
const step = record<Step>({
  do: oneOf('send', 'send', 'send', 'release', 'release', 'turn', 'turn', 'turn'),
  which: fc.nat(10),
})
const grace = oneOf(0, 1, 20)
const plan = record<Plan>({
  requests: fc.array(planned, { minLength: 1, maxLength: 8 }),
  cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 8 }),
  before: fc.array(step, { maxLength: 12 }),
  after: fc.array(step, { maxLength: 12 }),
  graces: record({ idleGrace: grace, unusedGrace: grace }),
})

function bytesOf({ kind }: Planned, url: string): string {
  if (kind === 'get') return get(url)
  if (kind === 'head') return get(url).replace('GET', 'HEAD')
  if (kind === 'chunked') {
    return `POST ${url} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n3\r\n...\r\n0\r\n\r\n`
  }
  const expect = kind === 'continue' ? 'Expect: 100-continue\r\n' : ''
  return `POST ${url} HTTP/1.1\r\nHost: a\r\n${expect}Content-Length: 11\r\n\r\nthe\r\n\r\nbody`
}

/** The requests as segments, with the number of complete request heads at the end of each segment. */
function segmentsOf({ requests, cuts }: Plan): { bytes: string; heads: number }[] {
  const texts = requests.map((request, index) => bytesOf(request, `/${index}`))
  const all = texts.join('')
  let at = 0
  const headEnds = texts.map((text) => {
    const end = at + text.indexOf('\r\n\r\n') + 4
    at += text.length
    return end
  })
  const ends = [...cuts.map((cut) => Math.ceil(cut * all.length)), all.length].sort((a, b) => a - b)
  return ends.flatMap((end, index) => {
    const bytes = all.slice(ends[index - 1] ?? 0, end)
    return bytes === '' ? [] : [{ bytes, heads: headEnds.filter((headEnd) => headEnd <= end).length }]
  })
}

/** Executes the plan, and compares the received responses with the handlers that ran. */
async function run(listener: Listener, server: http.Server, plan: Plan, ca?: string): Promise<void> {
  const ran: string[] = []
  const held: (() => void)[] = []
  server.on('request', (request, response) => {
    const url = request.url as string
    const { answer, readsBody, size } = plan.requests[Number(url.slice(1))] as Planned
    ran.push(url)
    if (readsBody) request.resume()
    response.setHeader('x-request', url)
    const end = () => response.end('a'.repeat(size))
    if (answer === 'at once') return end()
    if (answer === 'next turn') return setImmediate(end)
    if (answer === 'begun') response.write('b')
    held.push(end)
  })
  const serving = serve(listener, server)
  const client = await rawClient(listener, ca)
  await until(() => serving.connections === 1)
  const segments = segmentsOf(plan)
  const sent = [...segments]
  const take = async (step: Step) => {
    if (step.do === 'turn') await nextTurn()
    else if (step.do === 'release') held.splice(step.which % (held.length || 1), 1)[0]?.()
    else if (!client.ended) client.socket.write(sent.shift()?.bytes ?? '')
  }
  for (const step of plan.before) await take(step)
  let report: DrainReport | undefined
  serving.drain({ timeout: -1, ...plan.graces }).then((result) => (report = result))
  for (const step of plan.after) await take(step)
  await until(async () => {
    await take({ do: 'send', which: 0 })
    await take({ do: 'release', which: 0 })
    return report !== undefined && client.socket.destroyed
  })

  assert.equal(client.error, undefined)
  assert.equal(client.ended, true)
  const isHead = (url = '') => plan.requests[Number(url.slice(1))]?.kind === 'head'
  const responses = responsesIn(client, isHead)
  assert.deepEqual(
    responses.map(({ request }) => request),
    ran,
  )
  for (const { request, body } of responses) {
    const { answer, size } = plan.requests[Number(request?.slice(1))] as Planned
    if (!isHead(request)) assert.equal(body.length, answer === 'begun' ? size + 1 : size)
  }
  assert.equal(
    responses.slice(0, -1).some(({ closes }) => closes),
    false,
  )
  // Of the requests in one read, the server handles either all or none.
  assert.ok([0, ...segments.map(({ heads }) => heads)].includes(ran.length), `${ran.length} handlers ran`)
  const { destroyed, unused } = report as unknown as DrainReport
  assert.deepEqual({ destroyed, unused }, { destroyed: 0, unused: ran.length === 0 ? 1 : 0 })
}

describe('Serving.drain with pipelined requests', () => {
  leaveNoFds()

  async function check(context: Mocha.Context, share: number, property: (plan: Plan) => Promise<void>): Promise<void> {
    context.timeout(0)
    const details = await fc.check(fc.asyncProperty(plan, property), {
      numRuns: Math.ceil(Number(PIPELINE_RUNS) * share),
      seed: PIPELINE_SEED === undefined ? undefined : Number(PIPELINE_SEED),
      path: PIPELINE_PATH,
    })
    if (!details.failed) return
    throw new Error(
      `run ${details.numRuns}: ${JSON.stringify(details.counterexample?.[0])}\n` +
        `${(details.errorInstance as Error)?.stack}\n` +
        `Again: PIPELINE_SEED=${details.seed} PIPELINE_PATH=${details.counterexamplePath} ` +
        `npx mocha test/serve/drain-pipelines.test.ts --grep '${context.test?.title}'`,
    )
  }

  it('answers every request whose handler ran, in order, and then ends the connection', async function () {
    const listener = await listen({ host: '127.0.0.1' })
    await check(this, 1, (plan) => run(listener, http.createServer(), plan))
  })

  it('answers every request whose handler ran, in order, over TLS', async function () {
    const { localhost, ca } = await certificates()
    const listener = await listen({ host: '127.0.0.1' })
    await check(this, 0.4, (plan) => run(listener, https.createServer(localhost), plan, ca.cert))
  })
})
