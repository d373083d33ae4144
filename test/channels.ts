import { fstatSync, openSync, writeFileSync } from 'node:fs'
import { binding } from '../src/core/binding.js'
import { FdChannel, type FdChannelOptions, type FdMessage, Listener } from '../src/index.js'
import { temporaryFd } from './descriptors.js'
import { cleanUp, openFds, temporaryDirectory } from './helpers.js'

export type SocketType = 'stream' | 'seqpacket'
export const socketTypes: SocketType[] = ['stream', 'seqpacket']

const { AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET } = binding.constants as Record<string, number>
const numberOf = (type: SocketType) => (type === 'stream' ? SOCK_STREAM : SOCK_SEQPACKET) as number

/** Closes the channel when the current test ends. */
export function temporaryChannel(channel: FdChannel): FdChannel {
  cleanUp(() => channel.close())
  return channel
}

/** Two connected channels. */
export function channels(type: SocketType, options: FdChannelOptions = {}): [FdChannel, FdChannel] {
  const { channel, fd } = FdChannel.pair({ type, ...options })
  return [temporaryChannel(channel), temporaryChannel(FdChannel.fromFd(fd, options))]
}

/** The peer of a channel as a raw socket, which can send malformed messages. */
export class Liar {
  readonly channel: FdChannel
  readonly #fd: number

  constructor(type: SocketType = 'stream', options: FdChannelOptions = {}) {
    const [own, other] = binding.socketPair(numberOf(type)) as [number, number]
    binding.release(own)
    this.channel = temporaryChannel(FdChannel.fromFd(own, options))
    this.#fd = other
    cleanUp(() => this.end())
  }

  /** Sends all bytes at once; throws if the socket buffer has no room for them. */
  send(bytes: Uint8Array | string, fds: number[] = []): void {
    const data = Buffer.from(bytes as Uint8Array)
    const sent = binding.sendMessage(this.#fd, data, fds)
    if (sent !== data.length) throw new Error(`sent ${sent} of ${data.length} bytes`)
  }

  receive(): Buffer | number {
    return binding.receive(this.#fd, 65_536, false)
  }

  end(): void {
    binding.close(this.#fd)
  }
}

/** A message in its encoding on a stream. */
export function framed(data: Uint8Array | string, fds = 0): Buffer {
  const bytes = Buffer.from(data as Uint8Array)
  const header = Buffer.alloc(8)
  header.writeUInt32BE(bytes.length, 0)
  header.writeUInt32BE(fds, 4)
  return Buffer.concat([header, bytes])
}

/** Listens at a path for `FdChannel.connect`. */
export async function listenAt(path: string, type: SocketType): Promise<Listener> {
  if (type === 'stream') {
    const listener = await Listener.listen({ path })
    cleanUp(() => listener.close())
    return listener
  }
  const fd = binding.socket(AF_UNIX as number, SOCK_SEQPACKET as number)
  if (binding.bindPath(fd, path) !== 0 || binding.listen(fd, 10) !== 0) throw new Error(`cannot listen at ${path}`)
  binding.release(fd)
  const listener = Listener.fromFd(fd)
  cleanUp(() => listener.close())
  return listener
}

/** Receives the next message; undefined at the end. */
export async function next(channel: FdChannel): Promise<FdMessage | undefined> {
  const { value, done } = await channel[Symbol.asyncIterator]().next()
  return done ? undefined : value
}

/** Receives the next message as text, and closes its fds. */
export async function nextText(channel: FdChannel): Promise<string | undefined> {
  const message = await next(channel)
  for (const fd of message?.fds ?? []) fd.close()
  return message && String(message.data)
}

/** Opens `count` different files. */
export function openFiles(count: number): number[] {
  const directory = temporaryDirectory()
  return Array.from({ length: count }, (_, i) => {
    writeFileSync(`${directory}/${i}`, '')
    return temporaryFd(openSync(`${directory}/${i}`, 'r'))
  })
}

/** Identifies the file behind an fd. */
export const inode = (fd: number): number => fstatSync(fd).ino

/** The number of other fds of this process that refer to the same file. */
export function copiesOf(file: number): number {
  const wanted = inode(file)
  return openFds().filter((fd) => {
    try {
      return fd !== file && inode(fd) === wanted
    } catch {
      return false // closed by another thread
    }
  }).length
}

/** The files of a message's fds. Closes the fds. */
export function inodesOf(message: FdMessage | undefined): number[] {
  const inodes = message?.fds.map(({ fd }) => inode(fd)) ?? []
  for (const fd of message?.fds ?? []) fd.close()
  return inodes
}
