// The app of the soak of the runner: Express with HTTP and TLS, and HTTP/2 with and without TLS. It knows nothing of the
// runner. Each answer repeats the request, and says when it was sent.

import http2 from 'node:http2'
import https from 'node:https'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import express from 'express'

const { KEY: key, CERT: cert } = process.env
// ms
const longestAnswer = 10

/** The time, on the clock of all processes. */
const date = (response) => response.setHeader('x-at', String(process.hrtime.bigint()))

const app = express()
app.use(express.text())
app.post('/', async (request, response) => {
  await sleep(Math.random() * longestAnswer)
  date(response)
  response.send(request.body)
})
app.listen(3000)
https.createServer({ key, cert }, app).listen(3001)

async function answer(request, response) {
  const body = await text(request)
  await sleep(Math.random() * longestAnswer)
  date(response)
  response.end(body)
}

http2.createServer(answer).listen(3002)
http2.createSecureServer({ key, cert }, answer).listen(3003)
