// An HTTP server with a connection limit and a graceful shutdown: node examples/http.mjs [port] [limit]
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Listener, serve } from 'async-accept'

const server = http.createServer(async (request, response) => {
  await sleep(100) // simulates work
  response.end(`hello ${request.socket.remoteAddress}\n`)
})

const listener = await Listener.listen({ port: process.argv[2] ?? 3000 })
const limit = Number(process.argv[3] ?? 100)
// Clients beyond the limit wait in the accept queue of the kernel.
const serving = serve(listener, server, { maxConnections: limit, alarm: { threshold: limit } })
serving.on('alarm', () => console.log(`limit reached; ${listener.backlog().queued} clients wait`))

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    const { idle, unused, finished, destroyed } = await serving.drain({ timeout: 10_000, closeListener: true })
    console.log(`drained: ${idle} idle, ${unused} unused, ${finished} finished, ${destroyed} destroyed`)
  })
}
console.log(`http on port ${server.address().port}`)
