// A server that knows nothing of socket activation. The units beside it pass its sockets, and the preload gives them to
// listen(): node --import async-accept/inherit server.mjs
import http from 'node:http'

const port = Number(process.argv[2] ?? 3000)
const path = process.argv[3]

const server = http.createServer((request, response) => response.end(`hello ${request.url}\n`))
server.listen(port, () => console.log(`listening on port ${server.address().port}`))

if (path !== undefined) {
  const admin = http.createServer((_request, response) => {
    server.getConnections((_error, count) => response.end(`${count} connections\n`))
  })
  admin.listen(path, () => console.log(`listening on ${path}`))
}
