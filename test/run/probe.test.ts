import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { certificates } from '../certificates.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'
import { answering, Supervised } from './supervised.js'

/** Answers `GET /health` with 503 while a file exists. Every other answer is its pid. */
const answer = `
  import http from 'node:http'
  import http2 from 'node:http2'
  import https from 'node:https'
  import { existsSync } from 'node:fs'
  const { SICK, KEY: key, CERT: cert } = process.env
  const answer = (request, response) => {
    if (request.url === '/health' && existsSync(SICK)) response.statusCode = 503
    response.end(String(process.pid))
  }
`
const checked = `${answer}; http.createServer(answer).listen(3000)`

/** The servers that can be probed, and how each is started. */
const servers: Record<string, { code: string; addresses?: string[]; options?: string[]; env?: NodeJS.ProcessEnv }> = {
  http: { code: 'http.createServer(answer).listen(3000)' },
  https: { code: 'https.createServer({ key, cert }, answer).listen(3000)' },
  'http2 without TLS': { code: 'http2.createServer(answer).listen(3000)' },
  'http2 with TLS only': { code: 'http2.createSecureServer({ key, cert }, answer).listen(3000)' },
  'http that needs a PROXY header': {
    code: 'http.createServer(answer).listen(3000)',
    env: { ASYNC_ACCEPT_PROXY_PROTOCOL: 'require', ASYNC_ACCEPT_TRUST: '10.0.0.0/8' },
  },
  'http on the second socket': {
    code: 'http.createServer((request, response) => response.writeHead(500).end()).listen(3000)\nhttp.createServer(answer).listen(4000)',
    addresses: ['web=127.0.0.1:0', 'admin=127.0.0.1:0'],
    options: ['--probe', 'admin=/health'],
    env: { ASYNC_ACCEPT_INHERIT: '3000=web,4000=admin' },
  },
  'http that another file replaces': {
    code: `http.get = http.request = () => { throw new Error('replaced') }; http.createServer(answer).listen(3000)`,
  },
}

/** What is wrong with the last probe of the first worker. Undefined if nothing is, or if the supervisor does not answer yet. */
const lastProbe = async (supervised: Supervised) =>
  (await supervised.status().catch(() => undefined))?.workers[0]?.probe

describe('async-accept run --probe', function () {
  this.timeout(60_000)

  for (const [name, { code, addresses, options = ['--probe', '/health'], env }] of Object.entries(servers)) {
    it(`probes ${name}: a worker is ready when the answer is 2xx`, async () => {
      const { localhost } = await certificates()
      const sick = join(temporaryDirectory(), 'sick')
      writeFileSync(sick, '')
      const supervised = new Supervised(answer + code, {
        options: ['-n', '1', ...options],
        env: { SICK: sick, KEY: localhost.key, CERT: localhost.cert, ...env },
        ...(addresses && { addresses }),
      })
      await until(async () => (await lastProbe(supervised)) === 'HTTP status 503')
      rmSync(sick)
      await supervised.ready(1)
    })
  }

  it('lets no client get to a worker before a good answer', async () => {
    const sick = join(temporaryDirectory(), 'sick')
    writeFileSync(sick, '')
    const options = ['-n', '1', '--probe', '/health']
    const supervised = new Supervised(`${checked}; console.log('listens')`, { options, env: { SICK: sick } })
    await until(() => supervised.run.stdout.includes('listens'))
    const { ready, sockets } = await supervised.status()
    assert.equal(ready, 0)
    const client = net.connect(Number(/\d+$/.exec(sockets[0]?.address ?? '')?.[0]), '127.0.0.1')
    cleanUp(() => client.destroy())
    let isAnswered = false
    client.once('data', () => {
      isAnswered = true
    })
    client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    // Several probes later.
    await until(async () => (await lastProbe(supervised)) === 'HTTP status 503')
    assert.equal(isAnswered, false)
    rmSync(sick)
    await until(() => isAnswered)
  })

  const unanswered: Record<string, string> = {
    'ends the HTTP/2 session': `http2.createServer().on('stream', ({ session }) => session.destroy())`,
    'switches protocols': `http.createServer(({ socket }) => socket.end('HTTP/1.1 101 OK\\r\\nConnection: upgrade\\r\\nUpgrade: x\\r\\n\\r\\n'))`,
  }
  for (const [name, code] of Object.entries(unanswered)) {
    it(`fails when the server ${name}`, async () => {
      const options = ['-n', '1', '--probe', '/']
      const supervised = new Supervised(`${answer}; ${code}.listen(3000)`, { options })
      await until(async () => (await lastProbe(supervised)) === 'the connection was closed without an answer')
    })
  }

  it('keeps the old workers if a new one fails its probe', async () => {
    const options = ['-n', '2', '--probe', '/health', '--start-timeout', '1']
    const supervised = await new Supervised(answering, { options }).ready(2)
    const before = await supervised.workers()
    supervised.write(answering.replace('response.end', 'response.writeHead(500).end'))
    const { code, stderr } = await supervised.control('reload')
    assert.equal(code, 1)
    assert.match(stderr, /was not ready after 1 s; its last probe: HTTP status 500/)
    assert.deepEqual(await supervised.workers(), before)
  })

  it('replaces a worker that fails its probe later, when another is ready', async () => {
    const sick = join(temporaryDirectory(), 'sick')
    const options = ['-n', '1', '--probe', '/health', '--probe-interval', '0.1', '--start-timeout', '1']
    const supervised = await new Supervised(checked, { options, env: { SICK: sick } }).ready(1)
    const [before] = await supervised.workers()
    writeFileSync(sick, '')
    await supervised.logs(/replaces worker \d+, which has failed its probe: HTTP status 503/)
    await supervised.logs(/was not ready after 1 s/)
    assert.equal(Number(await supervised.request()), before)
    rmSync(sick)
    await until(async () => {
      const [now] = await supervised.workers()
      return now !== undefined && now !== before
    })
  })

  it('keeps a worker whose answers are good and take longer than the interval', async () => {
    const slow = `
      import http from 'node:http'
      let probes = 0
      const answer = (response) => response.end(String(++probes))
      http.createServer((request, response) => {
        if (request.url === '/health') setTimeout(answer, 700, response)
        else response.end(String(probes))
      }).listen(3000)`
    const options = ['-n', '1', '--probe', '/health', '--probe-interval', '0.1']
    const supervised = await new Supervised(slow, { options }).ready(1)
    await until(async () => Number(await supervised.request()) >= 4)
    assert.doesNotMatch(supervised.run.stderr, /replaces/)
  })

  it('refuses the name of a socket that does not exist', async () => {
    const supervised = new Supervised(answering, { options: ['--probe', 'admin=/health'] })
    assert.equal(await supervised.run.ended, 2)
    assert.match(supervised.run.stderr, /--probe names the socket admin, but there are web/)
  })
})
