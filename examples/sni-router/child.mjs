// The child process of one server name: see ../sni-router.mjs
import https from 'node:https'
import { Connection, FdChannel } from 'async-accept'
import { selfSignedCertificate } from '../http2-machines/certificate.mjs'

const name = process.argv[2]
// Ctrl-C sends SIGINT to the children too. They end when the parent has closed the channel.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => {})

const server = https.createServer(await selfSignedCertificate(name), (_request, response) => {
  response.end(`hello from ${name}, process ${process.pid}\n`)
})
server.emit('listening') // it never listens itself, and enforces its timeouts from this event on

const channel = FdChannel.fromFd(3)
for await (const { fds } of channel) {
  const connection = Connection.fromFd(fds[0].detach())
  await channel.send('taken') // before the first byte is read: an unacknowledged connection goes to another process
  connection.toTLS(server).then(
    (socket) => server.emit('secureConnection', socket),
    (error) => console.log(`${name}: handshake failed: ${error.message}`),
  )
}

// The parent is ending. This process exits after its last connection.
server.keepAliveTimeout = 1 // ms, for connections that complete a request from now on
server.closeIdleConnections()
