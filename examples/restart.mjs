// A server whose new version takes its place, and nobody notices: node examples/restart.mjs [port] [path], again and again
import http from 'node:http'
import { FdChannel, Listener, serve } from 'async-accept'

const [port = 3000, path = '/tmp/restart.sock'] = process.argv.slice(2)
let clients // the socket that they connect to
let heirs // the one where a new version asks for both
let old
try {
  old = FdChannel.connect(path)
  const { value } = await old[Symbol.asyncIterator]().next()
  ;[clients, heirs] = value.fds.map((fd) => Listener.fromFd(fd.detach()))
} catch (error) {
  if (error.code !== 'ENOENT' && error.code !== 'ECONNREFUSED') throw error
  clients = await Listener.listen({ port })
  heirs = await Listener.listen({ path, mode: 0o600, unlinkStale: true })
}

const server = http.createServer((_request, response) => response.end(`hello from process ${process.pid}\n`))
const serving = serve(clients, server)
await old?.send('ready')
console.log(`process ${process.pid} serves port ${server.address().port}`)

for await (const connection of heirs) {
  const heir = FdChannel.fromConnection(connection)
  await heir.send('take these', [clients.fd, heirs.fd])
  // It ends without a word if it fails to start; then we go on.
  const { done } = await heir[Symbol.asyncIterator]().next()
  if (!done) break
}

await heirs.close() // the path stays: the new process has the socket, too
// The grace is for clients that keep their connection, and are slow to use it: ended too early, it may cross their request.
const { finished, destroyed } = await serving.drain({ timeout: 10_000, idleGrace: 5_000, closeListener: true })
console.log(`ended: ${finished} finished, ${destroyed} cut off`)
process.exit()
