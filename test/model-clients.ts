import assert from 'node:assert/strict'
import { readSync, writeSync } from 'node:fs'
import net from 'node:net'
import { binding } from '../src/core/binding.js'
import { handleBeneath } from '../src/core/node-internals.js'
import { codeOf } from './helpers.js'

const received = Buffer.alloc(4096)

/** A client on a raw fd, outside of the event loop. It stays open until leave(). */
export class Client {
  /** Whether the client has closed the connection itself. */
  left = false

  constructor(
    readonly fd: number,
    /** The peer of the accepted connection. */
    readonly peer: string | number | undefined,
  ) {}

  /** Whether either side has ended the connection. */
  get ended(): boolean {
    if (this.left) return true
    try {
      // Skips received data, which comes first.
      while (readSync(this.fd, received) > 0);
      return true
    } catch (error) {
      return codeOf(error) !== 'EAGAIN'
    }
  }

  /** Sends a text that fits into the socket's buffer. Ignores a closed connection. */
  send(text: string): void {
    try {
      writeSync(this.fd, text)
    } catch (error) {
      assert.match(String(codeOf(error)), /^(EPIPE|ECONNRESET)$/)
    }
  }

  /** Closes the connection; resets it by default over TCP. May be called twice. */
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

/** Starts to connect a client, without an event loop turn. Uses two fds, and keeps one. */
export const dial = (to: net.AddressInfo | string): Client | Promise<Client> =>
  typeof to === 'string' ? unixClient(to) : tcpClient(to)
