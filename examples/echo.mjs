// Sends back what it gets: node examples/echo.mjs [port], and then, for instance, nc localhost 3000
import { Listener } from 'async-accept'

const listener = await Listener.listen({ port: process.argv[2] ?? 3000 })
console.log(`echo on port ${listener.address().port}`)

// Ends the loop below. Connections that are open go on; a second signal ends them too.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => listener.close())

for await (const connection of listener) {
  const socket = connection.toSocket()
  socket.on('error', () => socket.destroy())
  socket.write(`hello ${connection.remoteAddress}\n`)
  socket.pipe(socket)
}
