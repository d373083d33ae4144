// Ten requests: one is cancelled, one runs out, and eight clients get the others in the order of asking.
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

// The seventh waits for 100 ms, the others for as long as it takes.
const refs = Array.from({ length: 10 }, (_, i) => listener.asyncAccept(i === 6 ? 100 : -1))
console.log(`asked ten times: refs ${refs.join(', ')}; ${listener.pending} outstanding`)

console.log(`ref ${refs[2]} cancelled: ${listener.cancel(refs[2])}`)
results.set(refs[2], 'cancelled, so nobody')

await once(listener, `ref ${refs[6]}`) // it runs out, and no other: nobody has connected yet
console.log(`ref ${refs[6]} ran out; ${listener.pending} outstanding`)

for (let i = 1; i <= 8; i++) {
  const served = once(listener, 'accept')
  const client = connect(listener.address())
  await once(client, 'connect')
  console.log(`client ${i} connects from port ${client.localPort}`)
  client.resume()
  await served
}

for (const ref of refs) console.log(`ref ${ref} got ${results.get(ref)}`)
await listener.close()
