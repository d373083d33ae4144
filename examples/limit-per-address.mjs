// An HTTP server with a limit of open connections for each client address, and one for all together:
// node examples/limit-per-address.mjs [port] [limitPerAddress] [limit]
// A client beyond the limit of its address is reset. Clients beyond the other limit wait in the accept queue.
import http from 'node:http'
import { serve } from 'async-accept'
import { listen, onTermination, portNumber, readArguments, wholeNumber } from './common/command-line.mjs'

const number = wholeNumber(1, 100_000)
const kinds = { port: [3000, portNumber], limitPerAddress: [10, number], limit: [1000, number] }
const { port, limitPerAddress, limit } = readArguments(kinds)

// The number of open connections of each address. An IPv6 client usually has a whole network of addresses: for a
// server on the internet, count the first four groups of an IPv6 address.
const open = new Map()
const count = (address) => open.get(address) ?? 0

const server = http.createServer((_request, response) => response.end('hello\n'))
server.on('connection', (socket) => {
  const { remoteAddress } = socket // undefined once the socket is closed
  open.set(remoteAddress, count(remoteAddress) + 1)
  socket.once('close', () => {
    open.set(remoteAddress, count(remoteAddress) - 1)
    if (count(remoteAddress) === 0) open.delete(remoteAddress)
  })
})

const serving = serve(await listen({ port }), server, {
  maxConnections: limit,
  // Runs before the server gets the connection. It returns no promise, so the count is right in the next call.
  filter: ({ remoteAddress }) => count(remoteAddress) < limitPerAddress,
})
serving.on('refused', ({ error, remoteAddress }) => console.log(`refused ${remoteAddress}: ${error.code}`))
onTermination(() => serving.drain({ timeout: 10_000, closeListener: true }))
console.log(`http on port ${server.address().port}`)
