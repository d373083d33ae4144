// Maintenance mode: on SIGUSR2 the server accepts no connections for some seconds, or until the next SIGUSR2.
// node examples/maintenance.mjs [port] [seconds], then: kill -USR2 <pid>. New clients wait in the accept queue and lose
// nothing. Clients that were connected before get the status 503.
import http from 'node:http'
import { serve } from 'async-accept'
import { listen, onTermination, portNumber, readArguments, wholeNumber } from './common/command-line.mjs'

const { port, seconds } = readArguments({ port: [3000, portNumber], seconds: [30, wholeNumber(1, 86_400)] })
let timer // defined during maintenance

const server = http.createServer((_request, response) => {
  if (timer === undefined) response.end('hello\n')
  else response.writeHead(503, { 'retry-after': seconds }).end('maintenance\n')
})
const listener = await listen({ port })
const serving = serve(listener, server, { maxConnections: 1000 })

function begin() {
  serving.pause() // closes no connection
  timer = setTimeout(end, seconds * 1000)
  console.log('maintenance begins')
}

function end() {
  console.log(`maintenance ends; ${listener.backlog().queued} clients have waited`)
  clearTimeout(timer)
  timer = undefined
  serving.resume()
}

process.on('SIGUSR2', () => {
  if (serving.state !== 'serving') return // it is ending
  if (timer === undefined) begin()
  else end()
})
onTermination(() => {
  clearTimeout(timer)
  serving.drain({ timeout: 10_000, closeListener: true })
})
console.log(`process ${process.pid}, http on port ${server.address().port}`)
