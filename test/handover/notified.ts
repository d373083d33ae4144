import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { ours } from '../activated.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'

/** Sets an environment variable until the current test ends. */
export function setVariable(name: string, value: string | undefined): void {
  const before = process.env[name]
  cleanUp(() => {
    if (before === undefined) delete process.env[name]
    else process.env[name] = before
  })
  if (value === undefined) delete process.env[name]
  else process.env[name] = value
}

/** One datagram that a service manager has received. */
export interface Received {
  text: string
  /** The targets of the links of the received fds in /proc/self/fd. */
  fds: string[]
}

/**
 * A service manager that only reads. It uses Python's socket module, not the code of this package. With 'mute' it does
 * not read before `wake()`; with 'keep' it does not close the fds.
 */
export async function serviceManager(address: string, how: 'read' | 'keep' | 'mute' = 'read') {
  const script = [
    'import json, os, socket, sys',
    'address, how = sys.argv[1:]',
    's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
    's.bind("\\0" + address[1:] if address[0] == "@" else address)',
    'print("ready", flush=True)',
    'if how == "mute" and os.read(0, 1) == b"": os._exit(0)',
    'while True:',
    '    text, fds, flags, _ = socket.recv_fds(s, 65536, 253)',
    '    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]',
    '    print(json.dumps({"text": text.decode(), "fds": names}), flush=True)',
    '    if how != "keep": [os.close(fd) for fd in fds]',
  ]
  const child = ours(spawn('python3', ['-c', script.join('\n'), address, how], { stdio: ['pipe', 'pipe', 'inherit'] }))
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (data) => {
    said += data
  })
  await until(() => said.startsWith('ready\n'))
  setVariable('NOTIFY_SOCKET', address)
  const received = (): Received[] =>
    said
      .split('\n')
      .slice(1, -1)
      .map((line) => JSON.parse(line))
  return {
    child,
    received,
    wake: () => child.stdin.write('.'),
    /** Waits for `count` datagrams. Returns all that were received. */
    async got(count = 1): Promise<Received[]> {
      await until(() => received().length >= count)
      return received()
    },
  }
}

/** A path for the socket of a service manager. */
export const path = () => join(temporaryDirectory(), 'notify')
