// Resets clients by their address, which accept(2) returns: no data is read from them, and no net.Socket is created for
// them.
import { BlockList, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { Listener } from 'async-accept'

const unwanted = new BlockList()
unwanted.addAddress('127.0.0.2')

const listener = await Listener.listen({ host: '127.0.0.1' })

async function serve() {
  for await (const connection of listener) {
    const { remoteAddress, remoteFamily } = connection
    if (unwanted.check(remoteAddress, remoteFamily.toLowerCase())) connection.reset()
    else connection.toSocket().end(`welcome, ${remoteAddress}\n`)
  }
}

async function tryFrom(localAddress) {
  const client = connect({ ...listener.address(), host: '127.0.0.1', localAddress })
  const answer = await text(client).catch((error) => `${error.code}\n`)
  process.stdout.write(`${localAddress}: ${answer}`)
}

const serving = serve()
await tryFrom('127.0.0.1')
await tryFrom('127.0.0.2')
await listener.close() // ends the loop in serve()
await serving
