// The unchanged server that bench/workers.mjs runs in several processes. It knows nothing of them.
const http = require('node:http')

const nothing = new Int32Array(new SharedArrayBuffer(4))
const blocking = '/blocked/'

const server = http.createServer((request, response) => {
  const { method, url } = request
  // Like a synchronous call, but without using CPU, so that the load works with more processes than cores.
  if (url.startsWith(blocking)) Atomics.wait(nothing, 0, 0, Number(url.slice(blocking.length)))
  if (method !== 'POST') return response.end(`${process.pid}\n`)
  const body = []
  request.on('data', (data) => body.push(data))
  request.on('end', () => setTimeout(() => response.end(Buffer.concat(body)), 10))
})
// As the documentation of pm2 recommends, for the contender that has such a handler.
if (process.env.HANDLE_SIGINT) process.on('SIGINT', () => server.close(() => process.exit(0)))
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('listening'))
