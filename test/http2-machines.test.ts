import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import tls from 'node:tls'
import { cleanUp, runNode, until } from './helpers.js'
import { ask, needs, openEcho, type RunningMachines, run, startMachines } from './running-machines.js'

const hasHttp2 = /HTTP2/

/** Connects a TCP client. */
async function rawClient(port: number): Promise<net.Socket> {
  const client = net.connect(port, '127.0.0.1')
  cleanUp(() => client.destroy())
  await once(client, 'connect')
  return client.on('error', () => {})
}

/** Resolves when the pool has its initial state, except for the one machine that serves the status request. */
async function poolIsWhole(machines: RunningMachines, size = 20): Promise<void> {
  const isWhole = async () => {
    const { pool, refs, backlog } = await machines.status()
    assert.deepEqual([pool.size, pool.listening, refs.length, backlog.queued], [size, size, size, 0])
    return pool.handshake === 0 && pool.connected === 1 && pool.closing === 0
  }
  await until(isWhole)
}

describe('examples/http2-machines.mjs', () => {
  it('serves HTTP/2 to curl', async function () {
    needs(this, 'curl', ['--version'], hasHttp2)
    const machines = await startMachines()
    const args = ['-sk', '--http2', '-w', ' over HTTP/%{http_version}', machines.url('/machines/20')]
    assert.equal(
      await run('curl', args),
      `${JSON.stringify({ ref: 20, state: 'listening', requests: [] }, null, 2)}\n over HTTP/2`,
    )
    await machines.says(/^ref 1 .* h2 +GET \/machines\/20 200$/m)
  })

  it('serves HTTP/1.1 to curl', async function () {
    needs(this, 'curl', ['--version'], hasHttp2)
    const machines = await startMachines()
    const args = ['-sk', '--http1.1', '-w', ' over HTTP/%{http_version}', machines.url('/machines/20')]
    assert.match(await run('curl', args), /"listening"[\s\S]* over HTTP\/1\.1$/)
    await machines.says(/^ref 1 .* http\/1\.1 +GET \/machines\/20 200$/m)
  })

  it('negotiates h2 with openssl s_client, which then disconnects', async function () {
    needs(this, 'openssl', ['version'])
    const machines = await startMachines()
    const args = ['s_client', '-connect', `127.0.0.1:${machines.port}`, '-alpn', 'h2', '-servername', 'localhost']
    const said = await run('openssl', args)
    assert.match(said, /ALPN protocol: h2/)
    assert.match(said, /subject=CN ?= ?localhost/)
    await machines.says(/^ref 1 .* TLSv1\.3 +h2 +no requests$/m)
    await poolIsWhole(machines)
  })

  it("serves HTML to Node's http2 client, and JSON if the client accepts that", async () => {
    const machines = await startMachines()
    const session = await machines.session()
    const html = await ask(session, '/')
    assert.match(html, /^<!doctype html>/)
    for (const part of ['20 / 20', 'Outstanding refs', 'in the backlog', 'Last connections', 'GET / ...']) {
      assert.ok(html.includes(part), part)
    }
    const request = session.request({ ':path': '/', accept: 'application/json' })
    const [headers] = await once(request, 'response')
    assert.equal(headers['content-type'], 'application/json')
  })

  it("serves Node's https client, and a client without ALPN", async () => {
    const machines = await startMachines()
    assert.equal((await machines.status()).connections[0]?.alpn, 'http/1.1')
    const client = tls.connect({ port: machines.port, host: '127.0.0.1', rejectUnauthorized: false })
    cleanUp(() => client.destroy())
    client.end('GET /nothing HTTP/1.0\r\n\r\n')
    const [data] = await once(client, 'data')
    assert.match(String(data), /^HTTP\/1\.1 404 Not Found/)
    await machines.says(/^ref 2 .* TLSv1\.3 +no ALPN +GET \/nothing 404$/m)
  })

  it('prints a command that calls it in spite of its self-signed certificate', async function () {
    needs(this, 'curl', ['--version'])
    const machines = await startMachines(['--host', '127.0.0.1'])
    const [, command] = await machines.says(/self-signed.*: curl (-k https:.*)$/m)
    assert.match(await run('curl', ['-s', ...(command as string).split(' ')]), /^<!doctype html>/)
  })

  it('answers plain HTTP with one line that says so, and runs the command in that line', async function () {
    needs(this, 'curl', ['--version'])
    const machines = await startMachines()
    const plain = machines.url('/status').replace('https', 'http')
    for (const method of ['GET', 'POST', 'DELETE', 'PROPFIND']) {
      const args = ['-s', '-X', method, '-d', 'x'.repeat(100_000), '-w', '%{http_code}', plain]
      const said = await run('curl', args)
      assert.match(said, /^This is an https server; call it with https instead of http: curl -k https:\/\/\S+\/\n400$/)
      const [, command] = /curl (.*)/.exec(said) as unknown as [string, string]
      assert.match(await run('curl', ['-s', ...command.split(' ')]), /^<!doctype html>/)
    }
    await machines.says(/^ref 1 .* plain HTTP instead of TLS, refused with 400$/m)
    await poolIsWhole(machines)
    assert.equal(machines.stderr, '')
  })

  it('does not wait for a plain HTTP client that keeps its connection open, in a drain', async () => {
    const machines = await startMachines()
    const client = net.connect({ port: machines.port, host: '127.0.0.1', allowHalfOpen: true })
    cleanUp(() => client.destroy())
    client.on('error', () => {})
    client.write('GET / HTTP/1.1\r\n\r\n')
    assert.match(String(await text(client)), /^HTTP\/1\.1 400 Bad Request\r\n/)
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    assert.doesNotMatch(machines.stdout, /drain timeout/)
  })

  it('has a certificate for localhost, 127.0.0.1 and ::1', async () => {
    const machines = await startMachines()
    const client = tls.connect({ port: machines.port, host: '127.0.0.1', rejectUnauthorized: false })
    cleanUp(() => client.destroy())
    await once(client, 'secureConnect')
    const names = 'DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1'
    assert.equal(client.getPeerCertificate().subjectaltname, names)
  })

  it('prints one line per connection: ref, fd, peer, TLS version, ALPN, requests', async () => {
    const machines = await startMachines()
    const session = await machines.session()
    // The example may print the line when no request has been active for some time.
    const stream = await openEcho(session)
    await ask(session, '/status')
    await ask(session, '/nothing?of=it')
    stream.end()
    await text(stream)
    const peer = `127.0.0.1:${session.socket.localPort}`
    session.close()
    const [line] = await machines.says(/^ref .*$/m)
    assert.match(
      line,
      /^ref 1 +fd \d+ +127\.0\.0\.1:\d+ +TLSv1\.3 +h2 +POST \/echo 200, GET \/status 200, GET \/nothing\?of=it 404$/,
    )
    assert.ok(line.includes(` ${peer} `), line)
  })

  it('escapes untrusted input for the terminal and the page', async () => {
    const machines = await startMachines()
    const session = await machines.session()
    // U+009B starts a control sequence in a terminal that uses Latin-1.
    await ask(session, '/<i>&"\'\u009b2J')
    session.close()
    const html = (await machines.get('/'))[1]
    assert.ok(html.includes('GET /&lt;i&gt;&amp;&quot;&#39;?2J'), html)
    const [line] = await machines.says(/^ref 1 .*$/m)
    assert.ok(line.endsWith('GET /<i>&"\'?2J 404'), line)
  })
})

describe('The pool of examples/http2-machines.mjs', () => {
  it('replaces a machine before it serves', async () => {
    const machines = await startMachines(['--machines', '3'])
    const { pool, refs, machines: all } = await machines.status()
    assert.deepEqual(pool, { size: 3, listening: 3, handshake: 0, connected: 1, closing: 0 })
    assert.deepEqual(refs, [2, 3, 4])
    assert.deepEqual(all[0], { ref: 1, state: 'connected' })
  })

  it('reports the status of listening machines, and replaces a machine that is stopped', async () => {
    const machines = await startMachines()
    const session = await machines.session()
    assert.deepEqual(JSON.parse(await ask(session, '/machines/5')), { ref: 5, state: 'listening', requests: [] })
    assert.deepEqual(await machines.get('/machines/5', {}, 'DELETE'), [200, 'machine 5 is gone\n'])
    assert.equal((await machines.get('/machines/5'))[0], 404)
    assert.deepEqual(await machines.get('/machines/1', {}, 'DELETE'), [409, 'machine 1 is connected\n'])
    const { refs, pool } = await machines.status()
    assert.equal(pool.listening, 20)
    assert.ok(!refs.includes(5))
  })

  it('is complete after 200 connections in parallel', async () => {
    const machines = await startMachines()
    const answers = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        if (i % 2 === 0) return (await machines.get('/'))[1]
        const session = await machines.session()
        const html = await ask(session, '/')
        session.close()
        return html
      }),
    )
    for (const html of answers) assert.match(html, /^<!doctype html>[\s\S]*20 \/ 20[\s\S]*<\/html>\n$/)
    await poolIsWhole(machines)
    const linesOf = (alpn: string) => machines.stdout.match(new RegExp(`^ref .* ${alpn} +GET / 200$`, 'gm'))?.length
    await until(() => linesOf('h2') === 100 && linesOf('http/1.1') === 100)
  })

  it('is complete after plaintext, garbage, disconnects and resets', async () => {
    const machines = await startMachines()
    const acts: ((client: net.Socket) => unknown)[] = [
      (client) => client.end('GET / HTTP/1.1\r\n\r\n'),
      (client) => client.end(Buffer.alloc(300, 0xee)),
      (client) => client.end(),
      (client) => client.resetAndDestroy(),
    ]
    for (const act of acts) {
      const clients = await Promise.all(Array.from({ length: 10 }, () => rawClient(machines.port)))
      for (const client of clients) act(client)
    }
    const failed = /^ref \d+ .* (handshake failed: \w+|plain HTTP instead of TLS, refused with 400)$/gm
    await until(() => machines.stdout.match(failed)?.length === 40)
    await poolIsWhole(machines)
    assert.equal(machines.stderr, '')
  })

  it('is complete after clients that reset during a request', async () => {
    const machines = await startMachines()
    for (let i = 0; i < 10; i++) {
      const session = await machines.session()
      const stream = await openEcho(session)
      stream.write('x')
      await once(stream, 'data')
      session.destroy()
      const socket = await rawClient(machines.port)
      const client = tls.connect({ socket, rejectUnauthorized: false })
      client.on('error', () => {})
      client.write('POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nx')
      await once(client, 'data')
      socket.resetAndDestroy()
    }
    await until(() => machines.stdout.match(/ POST \/echo aborted$/gm)?.length === 20)
    await poolIsWhole(machines)
    assert.equal(machines.stderr, '')
  })

  it('is complete at the fd limit, and serves again when fds are free', async function () {
    const machines = await startMachines()
    // Only now, because Node.js opens many modules at once when it starts.
    needs(this, 'prlimit', [`--pid=${machines.child.pid}`, '--nofile=48'])
    const session = await machines.session()
    const clients = await Promise.all(Array.from({ length: 60 }, () => rawClient(machines.port)))
    await machines.says(/^EMFILE: 20 machines and all new clients wait/m)
    const atTheLimit = JSON.parse(await ask(session, '/status'))
    assert.equal(atTheLimit.pool.listening, 20)
    assert.equal(atTheLimit.refs.length, 20)
    assert.ok(atTheLimit.backlog.queued > 0)
    assert.ok(atTheLimit.stats.capacityPauses > 0)
    for (const client of clients) client.destroy()
    session.close()
    await poolIsWhole(machines)
    assert.ok((await machines.status()).stats.accepted > 60)
    assert.equal(machines.stderr, '')
  })
})

describe('The options of examples/http2-machines.mjs', () => {
  const example = 'examples/http2-machines.mjs'

  it('are explained by --help', async () => {
    const { code, stdout, stderr } = await runNode(example, ['--help'])
    assert.deepEqual([code, stderr], [0, ''])
    for (const option of ['--port', '--host', '--machines', '--help']) assert.ok(stdout.includes(option), option)
    assert.equal((await runNode(example, ['-h'])).stdout, stdout)
  })

  const wrong: [string[], RegExp][] = [
    [['--port', '65536'], /--port must be a whole number from 0 to 65535, not '65536'/],
    [['--port', '-1'], /--port must be .*, not '-1'/],
    [['--port', '80x'], /--port must be .*, not '80x'/],
    [['--port', '1e3'], /--port must be .*, not '1e3'/],
    [['--port='], /--port must be .*, not ''/],
    [['--port'], /--port needs a value, a whole number from 0 to 65535/],
    [['--machines', '0'], /--machines must be a whole number from 1 to 1000, not '0'/],
    [['--machines', '--help'], /--machines must be .*, not '--help'/],
    [['--host', ''], /--host must be a host name or an address, not ''/],
    [['--drain-timeout', 'long'], /--drain-timeout must be a whole number from 0 to 3600, not 'long'/],
    [['--prot', '80'], /unknown option '--prot'/],
    [['-x'], /unknown option '-x'/],
    [['8443'], /unexpected argument '8443'/],
  ]
  for (const [args, message] of wrong) {
    it(`are rejected with one line and exit code 2: "${args.join(' ')}"`, async () => {
      const { code, stdout, stderr } = await runNode(example, args)
      assert.deepEqual([code, stdout], [2, ''])
      assert.match(stderr, message)
      assert.match(stderr, /^http2-machines: .* \(--help explains the options\)\n$/)
    })
  }

  it('are reported in one line with exit code 1 when the port is in use', async () => {
    const machines = await startMachines()
    const { code, stdout, stderr } = await runNode(example, ['--port', String(machines.port)])
    assert.deepEqual([code, stdout], [1, ''])
    assert.equal(stderr, `http2-machines: port ${machines.port} is in use; choose another one with --port\n`)
  })

  it('are reported in one line with exit code 1 when the address is not local', async () => {
    const { code, stderr } = await runNode(example, ['--port', '0', '--host', '192.0.2.1'])
    assert.equal(code, 1)
    assert.match(stderr, /^http2-machines: cannot listen: .*EADDRNOTAVAIL.*192\.0\.2\.1.*\n$/)
  })

  it('include the host', async () => {
    const machines = await startMachines(['--host', '127.0.0.1', '--machines', '1'])
    await machines.says(/^1 machines listen on https:\/\/127\.0\.0\.1:\d+\/$/m)
    await poolIsWhole(machines, 1)
  })
})
