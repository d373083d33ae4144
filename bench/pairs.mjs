// Measures contenders next to their references, so that a change of the machine's speed affects both.
import { Server, summarize, underLoad } from './measure.mjs'

/**
 * Returns the contender under another name. Both run the same program, so their ratio would be 1 without noise. It
 * shows how exact the other ratios of a table are.
 */
export const again = (contender) => ({ ...contender, name: `${contender.name}, again`, program: contender.name })

/** Returns the contenders of `--self`: only the reference against itself. */
export const ofSelf = (self, contenders) => (self ? contenders.filter(({ program }) => program) : contenders)

/** The largest distance from 1 that the ratio of a contender to itself may have. */
export const exactness = 0.03

/** A target of a table that contains `again(reference)`. */
export const exactnessCheck = (what, results, { name, program }) => ({
  what: `${what}: ratio of ${program} to itself, distance from 1`,
  measured: Math.abs(results.ratio(name, program).median - 1),
  most: exactness,
  digits: 3,
})

/** The order of measurements in which each contender is next to each of its one or two references. */
function orderOf(contenders, references) {
  const order = [...references]
  for (const [i, contender] of contenders.entries()) order.push(contender, references[i % references.length])
  return order
}

/**
 * In each round, `start(contender)` starts a new process of every contender and reference, and `measure(process,
 * contender, round)` measures each of them in `slices` turns. Every second turn has the opposite order. A ratio is the
 * median over all pairs of consecutive measurements of a contender and its reference.
 *
 * New processes are needed because the layout of code and memory differs between processes. Turns are needed because
 * the speed of the machine drifts.
 */
export async function inPairs({ contenders, references, rounds, slices = 1, start, measure, progress }) {
  const order = orderOf(contenders, references)
  const results = new Map(order.map(({ name }) => [name, []]))
  const pairs = []
  for (let round = 0; round < rounds; round++) {
    const running = new Map()
    for (const contender of new Set(order)) {
      progress(`round ${round + 1} of ${rounds}, ${contender.name}`)
      running.set(contender.name, await start(contender, round))
    }
    for (let slice = 0; slice < slices; slice++) {
      let last
      for (const contender of (round * slices + slice) % 2 === 0 ? order : order.toReversed()) {
        const { name } = contender
        progress(`round ${round + 1} of ${rounds}, turn ${slice + 1} of ${slices}, ${name}`)
        const result = await measure(running.get(name), contender, round)
        results.get(name).push(result)
        if (last) pairs.push({ [last.name]: last.result, [name]: result })
        last = { name, result }
      }
    }
    for (const process of running.values()) await process.stop()
  }
  const compared = (name, to) => pairs.filter((pair) => pair[name] && pair[to])
  return {
    of: (name, figure) => summarize(results.get(name).map((result) => result[figure])),
    ratio: (name, to, figure = 'cpu') => {
      if (name === to) return { median: 1 }
      return summarize(compared(name, to).map((pair) => pair[name][figure] / pair[to][figure]))
    },
  }
}

/** `inPairs` with servers: `commandOf(contender)` starts one, and `makeLoad(server, connections)` loads it. */
export const serversInPairs = ({ commandOf, makeLoad, warmUp, connections, ...how }) =>
  inPairs({
    ...how,
    start: async (contender) => {
      const server = await Server.start(commandOf(contender))
      await underLoad(server, makeLoad, warmUp)
      // The first measured load of a process costs more than all later ones, after any warm-up.
      await underLoad(server, makeLoad, connections)
      return server
    },
    measure: (server) => underLoad(server, makeLoad, connections),
  })

/** The columns of CPU, and the cells of a contender below them. */
export const cpuColumns = ['CPU, us', 'user', 'system']
export const cpuCells = (results, name, digits) => [
  { ...results.of(name, 'cpu'), digits },
  { median: results.of(name, 'user').median, digits },
  { median: results.of(name, 'system').median, digits },
]
