// A Unix socket that serves one user only. The kernel reports the process, user and group of each client.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { Listener } from 'async-accept'

const path = `/tmp/peer-credentials-${process.pid}.sock`
const listener = await Listener.listen({ path, mode: 0o600 })

async function serve() {
  for await (const connection of listener) {
    const { pid, uid, gid } = connection.peerCredentials()
    console.log(`connected: process ${pid} of user ${uid} and group ${gid}`)
    if (uid === process.getuid()) connection.toSocket().end(`welcome, process ${pid}\n`)
    else connection.reset()
  }
}

const serving = serve()

const client = connect(path)
client.pipe(process.stdout)
await once(client, 'close')

// A client in another process.
const code = `require('node:net').connect(${JSON.stringify(path)}).pipe(process.stdout)`
const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'inherit', 'inherit'] })
console.log(`started process ${child.pid}`)
await once(child, 'close')

await listener.close() // removes the path and ends the loop in serve()
await serving
