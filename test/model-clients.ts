import assert from 'node:assert/strict'
import { readSync, writeSync } from 'node:fs'
import net from 'node:net'
import { binding } from '../src/core/binding.js'
import { handleBeneath } from '../src/core/node-internals.js'
import { codeOf } from './helpers.js'

const received = Buffer.alloc(4096)

/** A client by a plain fd, which stays open, and takes no part in the event loop, until it is told otherwise. */
export class Client {
  /** It has ended the connection itself. */
  left = false

  constructor(
    readonly fd: number,
    /** What the accepted connection says of its peer. */
    readonly peer: string | number | undefined,
  ) {}

  /** Whether either side has ended the connection. */
  get ended(): boolean {
    if (this.left) return true
    try {
      // What it was told comes first, and is of no interest.
      while (readSync(this.fd, received) > 0);
      return true
    } catch (error) {
      return codeOf(error) !== 'EAGAIN'
    }
  }

  /** Sends a text that fits into the socket's buffer; to a server that has gone, nothing. */
  send(text: string): void {
    try {
      writeSync(this.fd, text)
    } catch (error) {
      assert.match(String(codeOf(error)), /^(EPIPE|ECONNRESET)$/)
    }
  }

  /** Ends the connection, for TCP by a reset if not told otherwise. Also a second time. */
  leave(how: 'reset' | 'close' = 'reset'): void {
    if (!this.left) assert.equal(binding[how](this.fd), 0)
    this.left = true
  }
}

let names = 0

function unixClient(path: string): Client {
  const { AF_UNIX, SOCK_STREAM } = binding.constants
  const fd = binding.socket(AF_UNIX as number, SOCK_STREAM as number)
  assert.ok(fd >= 0, `socket: ${fd}`)
  const peer = `\0async-accept-client-${process.pid}-${names++}`
  const error = binding.bindPath(fd, peer) || binding.connectPath(fd, path)
  if (error !== 0) binding.close(fd)
  assert.equal(error, 0, 'bind and connect')
  return new Client(fd, peer)
}

async function tcpClient({ port, address: host }: net.AddressInfo): Promise<Client> {
  const socket = net.connect({ port, host })
  socket.on('error', () => {})
  await new Promise<void>((resolve) => process.nextTick(resolve))
  const { localPort } = socket
  const fd = binding.duplicate(handleBeneath(socket)?.fd ?? -1)
  assert.ok(fd >= 0, `fcntl: ${fd}`)
  socket.destroy()
  return new Client(fd, localPort)
}

/** The kernel has begun to connect it, and the event loop has not turned. Takes two fds, and keeps one. */
export const dial = (to: net.AddressInfo | string): Client | Promise<Client> =>
  typeof to === 'string' ? unixClient(to) : tcpClient(to)
