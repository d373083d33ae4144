// One port for HTTPS, HTTP and SSH: node examples/one-port.mjs [port] [sshServer] [seconds]
// The first bytes of a client select its server: curl -k https://localhost:3000, ssh -p 3000 localhost
// Any other client is closed, and so is one that sends nothing for some seconds.
import http from 'node:http'
import net from 'node:net'
import { pipeline } from 'node:stream/promises'
import { serve } from 'async-accept'
import { hostAndPort, listen, onTermination, portNumber, readArguments, wholeNumber } from './common/command-line.mjs'
import { selfSignedCertificate } from './http2-machines/certificate.mjs'

const kinds = { port: [3000, portNumber], sshServer: ['127.0.0.1:22', hostAndPort], seconds: [5, wholeNumber(1, 60)] }
const { port, sshServer, seconds } = readArguments(kinds)
const certificate = await selfSignedCertificate() // one object for all connections

const server = http.createServer(({ socket }, response) => response.end(socket.encrypted ? 'HTTPS\n' : 'HTTP\n'))
server.emit('listening') // it never listens itself, and enforces its timeouts from this event on
const methods = new Set(http.METHODS.map((method) => `${method} `.slice(0, 4)))

async function route(connection) {
  const start = String(await connection.peek(4, { timeout: seconds * 1000 })) // the bytes stay in the socket
  if (start[0] === '\x16')
    server.emit('connection', await connection.toTLS(certificate)) // a TLS handshake record
  else if (methods.has(start)) server.emit('connection', connection.toSocket())
  else if (start === 'SSH-') await forward(connection.toSocket({ allowHalfOpen: true }))
  else connection.close()
}

async function forward(client) {
  const backend = net.connect({ ...sshServer, allowHalfOpen: true })
  await Promise.all([pipeline(client, backend), pipeline(backend, client)])
}

// Limits the connections of all protocols together. A rejection of route() closes its connection.
const serving = serve(await listen({ port }), route, { maxConnections: 1000 })
serving.on('error', (error) => console.log(`closed a connection: ${error.message}`))
serving.on('drain', () => {
  server.keepAliveTimeout = 1 // ms, for connections that complete a request from now on
  server.closeIdleConnections()
})
onTermination(() => serving.drain({ timeout: 10_000, closeListener: true }))
console.log(`port ${serving.listener.port}`)
