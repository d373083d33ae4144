// Routes TLS clients to child processes by server name: node examples/sni-router.mjs [port]
// A child gets the unread connection and does TLS itself. A client: openssl s_client -connect :3000 -servername a.test
import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { FdChannel, serve } from 'async-accept'
import { listen, onTermination, portNumber, readArguments } from './common/command-line.mjs'

const { port } = readArguments({ port: [3000, portNumber] })
const program = new URL('sni-router/child.mjs', import.meta.url).pathname
const routes = new Map(['a.test', 'b.test'].map((name) => [name, { name, offered: [] }]))
let ending = false

// If the child has ended, its successor gets the connection.
const offer = ({ channel }, { fd }) => channel.send('serve', [fd]).catch(() => {})

async function keepChild(route) {
  while (!ending) {
    const { channel, fd } = FdChannel.pair()
    spawn(process.execPath, [program, route.name], { stdio: ['ignore', 'inherit', 'inherit', fd] })
    closeSync(fd)
    route.channel = channel
    for (const connection of route.offered) offer(route, connection)
    // The child acknowledges connections in their order, before it reads from them. The loop ends with the child.
    for await (const _ of channel) route.offered.shift().close()
    channel.close()
    if (ending) return
    console.log(`the process of ${route.name} ended; ${route.offered.length} clients wait`)
    await sleep(500) // a child that fails at once must not occupy the CPU
  }
}

async function dispatch(connection) {
  const name = (await connection.clientHello({ timeout: 5_000 }))?.serverName
  const route = routes.get(name)
  if (route === undefined) throw new Error(`unknown server name ${name}`) // closes the connection
  if (route.offered.length >= 100) throw new Error(`too many clients wait for ${name}`)
  route.offered.push(connection) // stays open here until the child has acknowledged it
  offer(route, connection)
}

const serving = serve(await listen({ port }), dispatch, { maxConnections: 1000 })
serving.on('error', (error) => console.log(`closed a connection: ${error.message}`))
for (const route of routes.values()) keepChild(route)

onTermination(async () => {
  await serving.drain({ timeout: 10_000, closeListener: true })
  ending = true
  for (const { channel } of routes.values()) channel.close() // the children end their connections
})
console.log(`port ${serving.listener.port}`)
