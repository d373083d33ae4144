// An HTTP server with metrics for Prometheus on a port of their own: npm install prom-client
// node examples/metrics.mjs [port] [metricsPort] [limit], then: curl localhost:9100/metrics
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { serve } from 'async-accept'
import { Counter, Gauge, register } from 'prom-client'
import { listen, onTermination, portNumber, readArguments, wholeNumber } from './common/command-line.mjs'

const kinds = { port: [3000, portNumber], metricsPort: [9100, portNumber], limit: [100, wholeNumber(1, 100_000)] }
const { port, metricsPort, limit } = readArguments(kinds)

const server = http.createServer(async (_request, response) => {
  await sleep(100) // simulates work
  response.end('hello\n')
})
const listener = await listen({ port })
const serving = serve(listener, server, { maxConnections: limit })

// Each collect() runs when Prometheus asks for the metrics. A closed listener has no backlog.
const backlog = () => (listener.fd >= 0 ? listener.backlog() : { queued: 0, limit: 0 })
const gauge = (name, help, read) => new Gauge({ name, help, collect: () => register.getSingleMetric(name).set(read()) })
gauge('http_connections', 'Open connections', () => serving.connections)
gauge('http_connections_limit', 'Maximum number of open connections', () => serving.maxConnections)
gauge('listener_backlog', 'Clients in the accept queue', () => backlog().queued)
gauge('listener_backlog_limit', 'Maximum number of clients in the accept queue', () => backlog().limit)
new Counter({
  name: 'listener_events_total',
  help: 'The counters of listener.stats: accepted, capacityPauses and others',
  labelNames: ['event'],
  collect() {
    this.reset()
    for (const [event, count] of Object.entries(listener.stats)) this.inc({ event }, count)
  },
})

const metricsServer = http.createServer(async (_request, response) => {
  response.setHeader('content-type', register.contentType).end(await register.metrics())
})
const metricsServing = serve(await listen({ port: metricsPort }), metricsServer, { maxConnections: 10 })

onTermination(async () => {
  await serving.drain({ timeout: 10_000, closeListener: true }) // the metrics show the drain
  await metricsServing.drain({ timeout: 1_000, closeListener: true })
})
console.log(`http on port ${server.address().port}, metrics on port ${metricsServer.address().port}`)
