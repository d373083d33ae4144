import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { reservedPort } from '../activated.js'
import { listen } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { startPlain, startPreloaded } from './preloaded.js'

type Step = [what: string, server: number, place: number]

const program = fileURLToPath(new URL('../fixtures/listening-steps.cjs', import.meta.url))

const step: fc.Arbitrary<Step> = fc.tuple(
  fc.constantFrom(
    ...'listen listen listen close close close connect connect leave turn tick unref ref count'.split(' '),
  ),
  fc.nat({ max: 2 }),
  fc.constantFrom(0, 0, 1, 1, 2, 3, 4),
)
const sequences = fc.array(fc.array(step, { minLength: 6, maxLength: 24 }), {
  minLength: 30,
  maxLength: 30,
  size: 'max',
})

const runs = Number(process.env.LISTENING_RUNS ?? 10)

describe('With the preload, random steps of several servers have the effects that they have without it', () => {
  leaveNoFds()

  it(`${runs} times 30 sequences`, async function () {
    this.timeout(60_000 + runs * 10_000)
    for (let run = 0; run < runs; run++) {
      const seed = Math.floor(Math.random() * 2 ** 31)
      const [steps = []] = fc.sample(sequences, { numRuns: 1, seed })
      const ports = [reservedPort(), reservedPort()]
      const env = { PORTS: ports.join(), STEPS: JSON.stringify(steps) }
      const plain = startPlain(program, { env })
      assert.equal(await plain.ended, 0, plain.stderr)
      const [web, admin] = [await listen({ port: ports[0] }), await listen({ host: '127.0.0.1', port: ports[1] })]
      const preloaded = startPreloaded(program, { web, admin }, { env })
      await preloaded.ended
      await Promise.all([web.close(), admin.close()])
      const [expected, actual] = [plain, preloaded].map(({ stdout }) =>
        stdout
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line)),
      )
      for (const [index, sequence] of steps.entries()) {
        assert.deepEqual(
          actual?.[index],
          expected?.[index],
          `${JSON.stringify(sequence)}, seed ${seed}\n${preloaded.stderr}`,
        )
      }
    }
  })
})
