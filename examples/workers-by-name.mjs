// One thread accepts TLS clients and peeks at their server names. The worker of that name gets the unread
// connection: node examples/workers-by-name.mjs [port]. A client: openssl s_client -connect :3000 -servername a.test
import { Worker } from 'node:worker_threads'
import { Listener } from 'async-accept'

function startThread(name) {
  const offered = new Map() // connections by fd: each stays open here until the worker has a copy of it
  let worker
  const start = () => {
    worker = new Worker(new URL('workers/named.mjs', import.meta.url), { workerData: name })
    worker.on('error', console.error)
    worker.on('message', (fd) => {
      offered.get(fd).close()
      offered.delete(fd)
    })
    worker.on('exit', start) // comes after its messages; the next worker is offered the remaining connections
    for (const fd of offered.keys()) worker.postMessage(fd)
  }
  start()
  return (connection) => {
    offered.set(connection.fd, connection)
    worker.postMessage(connection.fd)
  }
}

const listener = await Listener.listen({ port: process.argv[2] ?? 3000 })
const offerTo = { __proto__: null, 'a.test': startThread('a.test'), 'b.test': startThread('b.test') }
console.log(`port ${listener.port}`)

for await (const connection of listener) {
  const close = () => connection.close()
  connection.clientHello().then((hello) => (offerTo[hello?.serverName] ?? close)(connection), close)
}
