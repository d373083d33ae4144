import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type net from 'node:net'
import { createInterface } from 'node:readline'
import type { Listener } from '../../src/index.js'
import { cleanUp, target } from '../helpers.js'

// Does what Node's sockets cannot do: sends urgent data and file descriptors, and answers on thousands of connections
// while this process is blocked. Each line is a command in JSON; the process answers when the command is done.
const script = `
import json, resource, socket, struct, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address = json.loads(sys.argv[1])
family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ':' in address[0] else socket.AF_INET
peers = []
for line in sys.stdin:
    command = json.loads(line)
    what = command['do']
    data = bytes.fromhex(command.get('data', ''))
    if what == 'connect':
        for _ in range(command['count']):
            peer = socket.socket(family)
            peer.connect(address if family == socket.AF_UNIX else tuple(address))
            if family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peers.append(peer)
    for peer in peers:
        if what == 'send':
            peer.sendall(data, socket.MSG_OOB if command['urgent'] else 0)
        elif what == 'sendFds':
            socket.send_fds(peer, [data], [0])
        elif what == 'end':
            peer.shutdown(socket.SHUT_WR)
        elif what == 'reset':
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            peer.close()
    print('done', flush=True)
`

/** A client in another process. Each method resolves when its step is done. */
export interface ScriptedPeer {
  connect(count?: number): Promise<void>
  send(bytes: Buffer | string, how?: 'urgent'): Promise<void>
  /** Sends bytes with a file descriptor over a unix socket. */
  sendFds(bytes: Buffer | string): Promise<void>
  end(): Promise<void>
  reset(): Promise<void>
}

export function scriptedPeer(listener: Listener): ScriptedPeer {
  const to = target(listener) as { path?: string } & net.TcpNetConnectOpts
  const address = to.path ?? [to.host, to.port]
  const child = spawn('python3', ['-c', script, JSON.stringify(address)], { stdio: ['pipe', 'pipe', 'inherit'] })
  cleanUp(async () => {
    child.kill('SIGKILL')
    await once(child, 'close')
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const run = async (command: object) => {
    child.stdin.write(`${JSON.stringify(command)}\n`)
    const { done } = await lines.next()
    if (done) throw new Error('the scripted peer has exited')
  }
  const hex = (bytes: Buffer | string) => Buffer.from(bytes as string, 'latin1').toString('hex')
  return {
    connect: (count = 1) => run({ do: 'connect', count }),
    send: (bytes, how) => run({ do: 'send', data: hex(bytes), urgent: how === 'urgent' }),
    sendFds: (bytes) => run({ do: 'sendFds', data: hex(bytes) }),
    end: () => run({ do: 'end' }),
    reset: () => run({ do: 'reset' }),
  }
}
