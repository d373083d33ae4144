// An HTTP server that can be started in three ways:
// - by systemd, with the units in examples/activated/
// - by a parent process that has opened the socket: node examples/activated.mjs parent [port]
// - from a shell; it then opens the socket itself: node examples/activated.mjs [port]
import http from 'node:http'
import { activatedListeners, Listener, notify, serve, spawnActivated, watchdog } from 'async-accept'

const [first = '3000', second = '3000'] = process.argv.slice(2)
const signals = ['SIGINT', 'SIGTERM']

if (first === 'parent') {
  const web = await Listener.listen({ port: second })
  const child = spawnActivated(process.execPath, [import.meta.filename], { web }, { stdio: 'inherit' })
  for (const signal of signals) process.on(signal, () => child.kill(signal))
  console.log(`parent on port ${web.port}`)
} else {
  const listeners = activatedListeners('web')
  const how = listeners.length > 0 ? 'was activated' : 'opened the socket'
  if (listeners.length === 0) listeners.push(await Listener.listen({ port: first }))

  const answer = (_, response) => response.end(`hello from process ${process.pid}, which ${how}\n`)
  const servings = listeners.map((listener) => serve(listener, http.createServer(answer)))
  for (const signal of signals) {
    process.once(signal, async () => {
      notify({ stopping: true })
      await Promise.all(servings.map((serving) => serving.drain({ timeout: 10_000, closeListener: true })))
    })
  }
  console.log(`${how}: http on port ${listeners[0].address().port}`)
  notify({ ready: true, status: `serving ${listeners.length}` })
  watchdog()
}
