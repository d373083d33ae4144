// Ten accept requests: one is cancelled, one times out, and the other eight get clients in the order of the requests.
import { once } from 'node:events'
import { connect } from 'node:net'
import { Listener } from 'async-accept'

const listener = await Listener.listen({ host: '127.0.0.1' })
const results = new Map()

listener.on('accept', ({ ref, connection, error }) => {
  results.set(ref, error ? error.code : `the client from port ${connection.remotePort}`)
  connection?.close()
  listener.emit(`ref ${ref}`)
})

// The seventh request has a timeout of 100 ms; the others have none.
const refs = Array.from({ length: 10 }, (_, i) => listener.asyncAccept(i === 6 ? 100 : -1))
console.log(`ten requests: refs ${refs.join(', ')}; ${listener.pending} outstanding`)

console.log(`ref ${refs[2]} cancelled: ${listener.cancel(refs[2])}`)
results.set(refs[2], 'no client, because it was cancelled')

await once(listener, `ref ${refs[6]}`) // times out, because no client has connected yet
console.log(`ref ${refs[6]} timed out; ${listener.pending} outstanding`)

for (let i = 1; i <= 8; i++) {
  const served = once(listener, 'accept')
  const client = connect(listener.address())
  await once(client, 'connect')
  console.log(`client ${i} connects from port ${client.localPort}`)
  client.resume()
  await served
}

for (const ref of refs) console.log(`ref ${ref}: ${results.get(ref)}`)
await listener.close()
