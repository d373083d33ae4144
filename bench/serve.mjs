// Runs one contender: node bench/serve.mjs <question file> <contender> <arguments...>. What a contender in C does, too:
// the first line on stdout is where it listens; then each line on stdin is answered by what has been used so far, in
// us of CPU, and the number of connections so far. The end of stdin is the end of the process.
import { createInterface } from 'node:readline'

const [file, name, ...args] = process.argv.slice(2)
const { contenders } = await import(new URL(file, import.meta.url).href)
const contender = contenders.find((each) => each.name === name)
const { address, connections } = await contender.serve(...args)

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
createInterface({ input: process.stdin })
  .on('line', () => say({ ...process.cpuUsage(), connections: connections() }))
  .on('close', () => process.exit(0))
say(address)
