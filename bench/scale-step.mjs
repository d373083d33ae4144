// The processes of bench/scale.mjs: the protocol of serve.mjs, but the answer to a line on stdin is the result of work.
import { once } from 'node:events'
import { createInterface } from 'node:readline'

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)

/** Prints the address, does the work once it is asked for, prints its result, and exits at the end of stdin. */
export async function workOnce(address, work) {
  const lines = createInterface({ input: process.stdin })
  const asked = once(lines, 'line')
  lines.on('close', () => process.exit(0))
  say(address)
  await asked
  say(await work())
}

/** Returns the time (ms) and the CPU time (us) of `work`, and its result. */
export async function timed(work) {
  const cpuBefore = process.cpuUsage()
  const start = performance.now()
  const result = await work()
  const ms = performance.now() - start
  const { user, system } = process.cpuUsage(cpuBefore)
  return { ms, cpu: user + system, result }
}

/** Calls `once` in turn, and returns the median and the 99th percentile of the times (ms) that it returns. */
export async function latency(count, once) {
  const took = []
  for (let i = 0; i < count; i++) took.push(await once())
  took.sort((a, b) => a - b)
  return { half: took[count >> 1], most: took[Math.floor(count * 0.99)] }
}
