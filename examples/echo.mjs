// An echo server: node examples/echo.mjs [port]. A client for it: nc localhost 3000
import { Listener } from 'async-accept'

const listener = await Listener.listen({ port: process.argv[2] ?? 3000 })

// Closing the listener ends the loop below. Open connections continue; a second signal ends the process.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => listener.close())
console.log(`echo on port ${listener.port}`)

for await (const connection of listener) {
  const socket = connection.toSocket()
  socket.on('error', () => socket.destroy())
  socket.write(`hello ${connection.remoteAddress}\n`)
  socket.pipe(socket)
}
