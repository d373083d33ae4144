import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'

// Linux's numbers of the options that Python does not have.
const program = `
import json, socket, sys
numbers = {'IP_TRANSPARENT': 19, 'IP_FREEBIND': 15, 'IPV6_TRANSPARENT': 75, 'IPV6_FREEBIND': 78}
levels = {'SO': socket.SOL_SOCKET, 'TCP': socket.IPPROTO_TCP, 'IP': socket.IPPROTO_IP, 'IPV6': socket.IPPROTO_IPV6}
asked = socket.socket(fileno=3)
def option(name):
    level = levels[name.split('_')[0]]
    number = getattr(socket, name, None) or numbers[name]
    if name == 'SO_BINDTODEVICE':
        return asked.getsockopt(level, number, 16).split(b'\\0')[0].decode()
    return asked.getsockopt(level, number)
print(json.dumps({name: option(name) for name in sys.argv[1:]}))
`

/** Returns the kernel's values of socket options, by their system names. Borrows the fd; another process reads it. */
export function kernelOptions(fd: number, ...names: string[]): Record<string, number | string> {
  const { status, stdout, stderr } = spawnSync('python3', ['-c', program, ...names], {
    stdio: ['ignore', 'pipe', 'pipe', fd],
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout)
}
