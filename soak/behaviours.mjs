// The behaviours of clients. Each function resolves with 'answered' when the client has received every requested byte,
// or with 'left' when the client disconnected earlier. It throws a CallError when the server ended the connection.
import http2 from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import { Call, CallError, connect, secure } from './call.mjs'
import { tooLate } from './outcomes.mjs'
import { bytesFor, dialects, longest, proxyHeader } from './protocol.mjs'

const shortAnswer = 4_096
const lengthOf = (chance) => chance.between(1, chance.below(10) === 0 ? 64 * 1024 : shortAnswer)
const waitOf = (chance) => (chance.below(4) === 0 ? chance.between(1, 50) : 0)

async function one({ service, id, chance }) {
  const call = await Call.open(service, id, chance)
  await call.request(lengthOf(chance), { wait: waitOf(chance), last: true })
  await call.hangUp()
  return 'answered'
}

async function several({ service, id, chance, record }) {
  const call = await Call.open(service, id, chance)
  for (let left = chance.between(2, 6); left > 0; left--) {
    await call.request(lengthOf(chance), { wait: waitOf(chance) })
    record.answered = call.answered
    await sleep(chance.between(0, 20))
  }
  await call.hangUp()
  return 'answered'
}

async function halfClose({ service, id, chance }) {
  const call = await Call.open(service, id, chance)
  await call.request(lengthOf(chance), { wait: waitOf(chance), end: true })
  await call.over
  return 'answered'
}

async function slowReader({ service, id, chance }) {
  const call = await Call.open(service, id, chance, { rest: 20 })
  await call.request(longest, { last: true })
  await call.hangUp()
  return 'answered'
}

async function resetAtOnce({ service, id }) {
  const socket = await connect(service.port, id)
  socket.resetAndDestroy()
  return 'left'
}

async function leaveAtOnce({ service, id }) {
  const socket = await connect(service.port, id)
  socket.destroy()
  return 'left'
}

async function resetInResponse({ service, id, chance }) {
  const socket = await connect(service.port, id)
  if (service.proxied) socket.write(proxyHeader(1, id, socket.localPort))
  const secured = service.secured ? await secure(socket, 'http/1.1') : socket
  secured.write(dialects[service.dialect].request(longest, { wait: waitOf(chance) }))
  // The server may also end the connection first. The client then has a partial response or none, and disconnects.
  await new Promise((resolve) => secured.once('data', resolve).once('end', resolve).once('close', resolve))
  socket.resetAndDestroy()
  return 'left'
}

/** Sends these bytes and nothing more. The server must end the connection. */
const sending = (bytesOf) =>
  async function send(client) {
    const socket = await connect(client.service.port, client.id)
    const bytes = bytesOf(client, socket)
    if (bytes) socket.write(bytes)
    return waitForEnd(socket)
  }

async function waitForEnd(socket) {
  socket.resume()
  let how = 'ended'
  socket.on('error', (error) => {
    how = error.code
  })
  socket.once('end', () => socket.end())
  await new Promise((resolve) => socket.once('close', resolve))
  throw new CallError('cut', how)
}

const silent = sending(() => undefined)
const introduced = (service, id, socket, text) =>
  service.proxied ? Buffer.concat([proxyHeader(1, id, socket.localPort), Buffer.from(text)]) : text

const stall = sending(({ service, id }, socket) =>
  introduced(service, id, socket, dialects[service.dialect].request(100).slice(0, -2)),
)
const malformed = sending(({ service, id }, socket) =>
  introduced(service, id, socket, dialects[service.dialect].malformed),
)
const badHandshake = sending(() => Buffer.from('16030100050100000101ff', 'hex'))
const partialHello = sending(() => Buffer.from('1603010100010000fc0303', 'hex'))
const plainText = sending(() => 'GET / HTTP/1.1\r\nHost: soak\r\n\r\n')
const noProxyHeader = sending(() => 'get 10 0\n')
const badProxyHeader = sending(() => 'PROXY TCP4 invalid\r\n')
const partialProxyHeader = sending(() => 'PROXY TCP4 127.0')

async function stallAfterHandshake({ service, id }) {
  const socket = await secure(await connect(service.port, id), 'http/1.1')
  socket.write(dialects[service.dialect].request(100).slice(0, -2))
  return waitForEnd(socket)
}

async function leaveInHandshake({ service, id }) {
  const socket = await connect(service.port, id)
  socket.write(Buffer.from('1603010100010000fc0303', 'hex'), () => socket.resetAndDestroy())
  await new Promise((resolve) => socket.once('close', resolve))
  return 'left'
}

async function streams({ service, id, chance, record }) {
  const socket = await secure(await connect(service.port, id, { allowHalfOpen: false }), 'h2')
  const session = http2.connect('https://soak', { createConnection: () => socket })
  session.on('error', () => {})
  const closed = new Promise((resolve) => session.once('close', resolve))
  try {
    const answers = await Promise.allSettled(
      Array.from({ length: chance.between(1, 4) }, () => stream(session, id, chance)),
    )
    record.answered = answers.filter(({ status }) => status === 'fulfilled').length
    const failed = answers.find(({ status }) => status === 'rejected')
    if (failed) throw failed.reason
    return 'answered'
  } finally {
    session.close()
    await closed
  }
}

async function stream(session, id, chance) {
  const length = lengthOf(chance)
  if (session.closed || session.destroyed) throw new CallError('cut', 'session closed')
  const request = session.request({ ':path': `/${length}/${waitOf(chance)}` })
  const chunks = []
  request.on('data', (chunk) => chunks.push(chunk))
  let failure = 'stream closed'
  request.on('error', (error) => {
    failure = error.message
  })
  let ended = false
  request.on('end', () => {
    ended = true
  })
  await new Promise((resolve) => request.once('close', resolve))
  const body = Buffer.concat(chunks)
  if (body.equals(bytesFor(id, length))) return
  if (ended && request.rstCode === 0 && body.length === length) throw new CallError('wrong', `wrong bytes in ${length}`)
  throw new CallError('cut', `${failure}, ${body.length} of ${length} bytes`)
}

const badHandshakes = ['no ClientHello', /^ERR_SSL_/]

/** `weight`: the relative frequency. `on`: selects services. `by`: the policies by which the server may refuse it. */
export const behaviours = [
  { name: 'one request', run: one, weight: 50 },
  { name: 'several requests', run: several, weight: 30 },
  { name: 'half-close', run: halfClose, weight: 10, on: ({ secured }) => !secured },
  { name: 'slow reader', run: slowReader, weight: 1 },
  { name: 'streams', run: streams, weight: 20, on: ({ http2: served }) => served },
  { name: 'reset at once', run: resetAtOnce, weight: 8 },
  { name: 'leave at once', run: leaveAtOnce, weight: 8 },
  { name: 'reset in the response', run: resetInResponse, weight: 5 },
  { name: 'silent', run: silent, weight: 1, by: tooLate },
  { name: 'stall in a request', run: stall, weight: 1, by: tooLate, on: ({ secured }) => !secured },
  { name: 'malformed request', run: malformed, weight: 3, by: ['bad request', /^HPE_/], on: ({ secured }) => !secured },
  { name: 'bad handshake', run: badHandshake, weight: 5, by: badHandshakes, on: ({ secured }) => secured },
  { name: 'partial ClientHello', run: partialHello, weight: 1, by: tooLate, on: ({ secured }) => secured },
  { name: 'plain text', run: plainText, weight: 5, by: badHandshakes, on: ({ secured }) => secured },
  { name: 'leave during the handshake', run: leaveInHandshake, weight: 5, on: ({ secured }) => secured },
  {
    name: 'stall after the handshake',
    run: stallAfterHandshake,
    weight: 1,
    by: tooLate,
    on: ({ secured }) => secured,
  },
  { name: 'no PROXY header', run: noProxyHeader, weight: 5, by: ['ERR_PROXY_HEADER'], on: ({ proxied }) => proxied },
  { name: 'bad PROXY header', run: badProxyHeader, weight: 5, by: ['ERR_PROXY_HEADER'], on: ({ proxied }) => proxied },
  { name: 'partial PROXY header', run: partialProxyHeader, weight: 1, by: tooLate, on: ({ proxied }) => proxied },
]
