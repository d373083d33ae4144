// An ordinary server. `async-accept run -n 4 -l 3000 examples/run/server.mjs` runs it in four processes.
import http from 'node:http'

const server = http.createServer((_request, response) => {
  response.end(`hello from process ${process.pid}\n`)
})
const port = Number(process.argv[2] ?? 3000)
server.listen(port, () => console.log(`process ${process.pid} listens on port ${port}`))
