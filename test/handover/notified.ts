import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { ours } from '../activated.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'

/** Sets a variable until the current test ends. */
export function set(name: string, value: string | undefined): void {
  const before = process.env[name]
  cleanUp(() => {
    if (before === undefined) delete process.env[name]
    else process.env[name] = before
  })
  if (value === undefined) delete process.env[name]
  else process.env[name] = value
}

/** What a service manager got in one datagram. */
export interface Received {
  text: string
  /** What the fds are, as /proc/self/fd says. */
  fds: string[]
}

/**
 * A service manager that can do nothing but read. It is no code of ours: Python's socket module. With 'mute' it does not
 * even read; with 'keep' it keeps the fds.
 */
export async function serviceManager(address: string, how: 'read' | 'keep' | 'mute' = 'read') {
  const script = [
    'import json, os, socket, sys',
    'address, how = sys.argv[1:]',
    's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
    's.bind("\\0" + address[1:] if address[0] == "@" else address)',
    'print("ready", flush=True)',
    'while how == "mute": os.read(0, 1) or os._exit(0)',
    'while True:',
    '    text, fds, flags, _ = socket.recv_fds(s, 65536, 253)',
    '    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]',
    '    print(json.dumps({"text": text.decode(), "fds": names}), flush=True)',
    '    if how == "read": [os.close(fd) for fd in fds]',
  ]
  const child = ours(spawn('python3', ['-c', script.join('\n'), address, how], { stdio: ['pipe', 'pipe', 'inherit'] }))
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (data) => {
    said += data
  })
  await until(() => said.startsWith('ready\n'))
  set('NOTIFY_SOCKET', address)
  const received = (): Received[] =>
    said
      .split('\n')
      .slice(1, -1)
      .map((line) => JSON.parse(line))
  return {
    child,
    received,
    /** The next ones, when so many are there. */
    async got(count = 1): Promise<Received[]> {
      await until(() => received().length >= count)
      return received()
    },
  }
}

/** An address for a service manager. */
export const path = () => join(temporaryDirectory(), 'notify')
