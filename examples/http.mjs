// An HTTP server with room for so many connections, that ends without cutting anybody off: node examples/http.mjs [port] [room]
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Listener, serve } from 'async-accept'

const server = http.createServer(async (request, response) => {
  await sleep(100) // as if there were much to do
  response.end(`hello ${request.socket.remoteAddress}\n`)
})

const listener = await Listener.listen({ port: process.argv[2] ?? 3000 })
const room = Number(process.argv[3] ?? 100)
// Clients beyond the limit wait in the kernel's accept queue.
const serving = serve(listener, server, { maxConnections: room, alarm: { threshold: room } })
serving.on('alarm', () => console.log(`full; ${listener.backlog().queued} wait`))
console.log(`http on port ${server.address().port}`)

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    const { idle, unused, finished, destroyed } = await serving.drain({ timeout: 10_000, closeListener: true })
    console.log(`ended: ${idle} idle, ${unused} unused, ${finished} finished, ${destroyed} cut off`)
  })
}
