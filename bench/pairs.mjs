// Measures contenders beside their references, so that a change of the machine's speed affects both.
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

/**
 * Compares each contender with its references. In each round, `start(contender)` starts new processes of a contender
 * and of its references, and `measure(process, contender, round)` measures each of them in `slices` turns. Every second
 * turn has the opposite order. A ratio is the median over all turns.
 *
 * New processes are needed because the layout of code and memory differs between processes. Turns are needed because
 * the speed of the machine drifts. Each contender has its own processes of the references, because a process that is
 * measured more often than another is faster: its code is compiled further, and more of it is in the caches.
 */
export async function inPairs({ contenders, references, rounds, slices = 1, start, measure, progress }) {
  const results = new Map([...references, ...contenders].map(({ name }) => [name, []]))
  const turns = new Map(contenders.map(({ name }) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const contender of contenders) {
      const group = [...references, contender]
      const say = (text) => progress(`round ${round + 1} of ${rounds}, ${contender.name}${text}`)
      say('')
      const running = new Map()
      for (const each of group) running.set(each, await start(each, round))
      for (let slice = 0; slice < slices; slice++) {
        const turn = {}
        for (const each of (round + slice) % 2 === 0 ? group : group.toReversed()) {
          say(`, turn ${slice + 1} of ${slices}: ${each.name}`)
          turn[each.name] = await measure(running.get(each), each, round)
          results.get(each.name).push(turn[each.name])
        }
        turns.get(contender.name).push(turn)
      }
      for (const process of running.values()) await process.stop()
    }
  }
  // Two references are compared in the turns of all contenders.
  const compared = (name) => turns.get(name) ?? [...turns.values()].flat()
  return {
    of: (name, figure) => summarize(results.get(name).map((result) => result[figure])),
    ratio: (name, to, figure = 'cpu') => {
      if (name === to) return { median: 1 }
      return summarize(compared(name).map((turn) => turn[name][figure] / turn[to][figure]))
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
