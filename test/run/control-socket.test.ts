import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, statSync } from 'node:fs'
import net from 'node:net'
import { dirname, join, relative } from 'node:path'
import { text } from 'node:stream/consumers'
import { ask } from '../../src/run/control-client.js'
import { parseRequest, type Request } from '../../src/run/control-protocol.js'
import { ControlSocket } from '../../src/run/control-socket.js'
import { controlSocketIn, makeRunDirectory, removeRunDirectory } from '../../src/run/run-directory.js'
import { cleanUp, gone, temporaryDirectory } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { skip } from '../needs.js'

async function open(): Promise<{ path: string; requests: Request[]; control: ControlSocket<Request> }> {
  const path = join(temporaryDirectory(), 'control')
  const requests: Request[] = []
  const control = await ControlSocket.open({
    path,
    maxClients: 16,
    parse: parseRequest,
    async answer(request) {
      requests.push(request)
      return { ok: true }
    },
  })
  cleanUp(() => control.close())
  return { path, requests, control }
}

function send(path: string, bytes: string | Buffer): net.Socket {
  const socket = net.connect(path)
  cleanUp(() => socket.destroy())
  socket.on('error', () => {})
  socket.write(bytes)
  return socket
}

const answerTo = (path: string, bytes: string) => text(send(path, bytes))

describe('The control socket', () => {
  leaveNoFds()

  it('answers one request on each connection', async () => {
    const { path, requests } = await open()
    assert.equal(await answerTo(path, '{"command":"reload"}\n{"command":"stop"}\n'), '{"ok":true}\n')
    assert.equal(await answerTo(path, '{"command":"scale","target":3}\n'), '{"ok":true}\n')
    assert.deepEqual(requests, [{ command: 'reload' }, { command: 'scale', target: 3 }])
  })

  it('does nothing for bytes that are not a request', async () => {
    const { path, requests } = await open()
    const lines = ['', 'null', '[]', '"stop"', '{', '{"command":"eval"}', '{"command":"__proto__"}', '\0'.repeat(500)]
    const scales = ['0', '-1', '1.5', '"2"', '1e400', 'null'].map((target) => `{"command":"scale","target":${target}}`)
    for (const line of [...lines, ...scales]) {
      assert.equal(await answerTo(path, `${line}\n`), '{"ok":false,"reason":"not a request"}\n', line)
    }
    assert.deepEqual(requests, [])
  })

  it('drops a client that sends a long line or only a part of one', async () => {
    const { path, requests } = await open()
    const long = send(path, '{'.repeat(100_000))
    await gone(long)
    const part = send(path, '{"command":"stop"}')
    part.end()
    await gone(part)
    assert.deepEqual(requests, [])
    assert.equal(await answerTo(path, '{"command":"status"}\n'), '{"ok":true}\n')
  })

  it('answers others while clients stall', async () => {
    const { path } = await open()
    for (let i = 0; i < 15; i++) await once(send(path, '{'), 'connect')
    assert.equal(await answerTo(path, '{"command":"status"}\n'), '{"ok":true}\n')
  })

  it('belongs to its user: mode 0600, and other users are not answered even if they can connect', async function () {
    if (process.getuid?.() !== 0) skip(this, 'acting as another user requires root')
    const { path, requests } = await open()
    assert.equal(statSync(path).mode & 0o777, 0o600)
    const client = [
      'import os, socket, sys',
      'os.setuid(65534)',
      's = socket.socket(socket.AF_UNIX)',
      's.connect(sys.argv[1])',
      's.sendall(b\'{"command":"stop"}\\n\')',
      'print(s.recv(100))',
    ].join('\n')
    const run = () => runPython(client, path)
    assert.match((await run()).stderr, /PermissionError/)
    chmodSync(dirname(path), 0o755)
    chmodSync(path, 0o666)
    const { stdout, stderr } = await run()
    assert.ok(stdout === "b''\n" || /ConnectionResetError|BrokenPipeError/.test(stderr), stdout + stderr)
    assert.deepEqual(requests, [])
  })
})

async function runPython(code: string, path: string) {
  const child = spawn('python3', ['-c', code, path], { stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  return { stdout, stderr }
}

describe('The directory of a supervisor', () => {
  it('has an absolute path, because a worker may change its current directory', () => {
    const directory = temporaryDirectory()
    const path = makeRunDirectory('x', { ASYNC_ACCEPT_RUN_DIRECTORY: relative(process.cwd(), directory) })
    assert.equal(path, join(directory, 'x'))
  })

  it('is not that of another user, and does not hide behind it', async function () {
    if (process.getuid?.() !== 0) skip(this, 'acting as another user requires root')
    const name = `test-${process.pid}`
    const ofRoot = makeRunDirectory(name, {})
    cleanUp(() => removeRunDirectory(ofRoot))
    const env = { XDG_RUNTIME_DIR: temporaryDirectory() }
    chownSync(env.XDG_RUNTIME_DIR, 65534, 65534)
    process.seteuid?.(65534)
    let own: string
    try {
      own = makeRunDirectory(name, env)
    } finally {
      process.seteuid?.(0)
    }
    assert.equal(own, join(env.XDG_RUNTIME_DIR, 'async-accept', name))
    const control = await ControlSocket.open({
      path: controlSocketIn(own),
      maxClients: 1,
      parse: parseRequest,
      answer: async () => ({ ok: true }),
    })
    cleanUp(() => control.close())
    assert.deepEqual(await ask(name, { command: 'reload' }, env), { ok: true })
  })
})
