// Runs one contender: node bench/serve.mjs <question file> <contender> <arguments...>. The protocol, which contenders
// in C implement, too: the first line on stdout is the address on which it listens. For each line on stdin it prints
// the CPU used so far, in us, and the number of connections so far. It exits at the end of stdin.
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
