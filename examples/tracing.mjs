// An HTTP server with a span of OpenTelemetry for each connection, from its accept until it is closed:
// npm install @opentelemetry/api @opentelemetry/sdk-trace-base; node examples/tracing.mjs [port]
import diagnostics from 'node:diagnostics_channel'
import http from 'node:http'
import { SpanKind, trace } from '@opentelemetry/api'
import { BasicTracerProvider, ConsoleSpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { serve } from 'async-accept'
import { listen, onTermination, portNumber, readArguments } from './common/command-line.mjs'

const { port } = readArguments({ port: [3000, portNumber] })

// In production: an exporter of OTLP and a BatchSpanProcessor.
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(new ConsoleSpanExporter())] })
trace.setGlobalTracerProvider(provider)
const tracer = trace.getTracer('tracing.mjs')

const spans = new Map() // the spans of open connections, by the address and port of the client
const key = ({ remoteAddress, remotePort }) => `${remoteAddress} ${remotePort}`

diagnostics.subscribe('async-accept.connection', ({ connection }) => {
  const { remoteAddress, remotePort } = connection
  const attributes = { 'client.address': remoteAddress, 'client.port': remotePort }
  spans.set(key(connection), tracer.startSpan('connection', { kind: SpanKind.SERVER, attributes }))
})

const server = http.createServer((request, response) => {
  spans.get(key(request.socket))?.addEvent('request', { method: request.method, path: request.url })
  response.end('hello\n')
})
server.on('connection', (socket) => {
  const client = key(socket) // a closed socket has no address
  socket.once('close', () => {
    spans.get(client).end()
    spans.delete(client)
  })
})

const serving = serve(await listen({ port }), server, { maxConnections: 1000 })
onTermination(() => serving.drain({ timeout: 10_000, closeListener: true }))
process.once('beforeExit', () => provider.shutdown()) // all spans have ended now; exports the last ones
console.log(`http on port ${server.address().port}`)
