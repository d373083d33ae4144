// A server that each new process replaces without losing a client. Start it repeatedly:
// node examples/restart.mjs [port] [path]
import http from 'node:http'
import { FdChannel, Listener, serve } from 'async-accept'

const [port = 3000, path = '/tmp/restart.sock'] = process.argv.slice(2)
let clients // the listener for HTTP clients
let successors // the listener on which the next process asks for both
let old // the channel to the process that this one replaces
try {
  old = FdChannel.connect(path)
  const { value } = await old[Symbol.asyncIterator]().next()
  ;[clients, successors] = value.fds.map((fd) => Listener.fromFd(fd.detach()))
} catch (error) {
  if (error.code !== 'ENOENT' && error.code !== 'ECONNREFUSED') throw error
  clients = await Listener.listen({ port })
  successors = await Listener.listen({ path, mode: 0o600, unlinkStale: true })
}

const server = http.createServer((_request, response) => response.end(`hello from process ${process.pid}\n`))
const serving = serve(clients, server)
await old?.send('ready')
console.log(`process ${process.pid} serves port ${server.address().port}`)

for await (const connection of successors) {
  const successor = FdChannel.fromConnection(connection)
  await successor.send('take these', [clients.fd, successors.fd])
  // The channel ends without a message if the successor fails to start. Then this process continues.
  const { done } = await successor[Symbol.asyncIterator]().next()
  if (!done) break
}

await successors.close() // the path stays, because the successor has the socket too
// The grace is for clients that keep a connection open: one may send a request while its connection is being ended.
const { finished, destroyed } = await serving.drain({ timeout: 10_000, idleGrace: 5_000, closeListener: true })
console.log(`drained: ${finished} finished, ${destroyed} destroyed`)
process.exit()
