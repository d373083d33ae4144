import { loadAddon } from './load-addon.js'

/** So many completions, and what the system lacks: 0 or an errno, and the ms until polling goes on. */
type Deliver = (count: number, capacityErrno: number, delay: number) => void

/** What `ListenerHandle` is to JavaScript. A number below 0 is an errno wherever a native function returns one. */
export interface ListenerHandle {
  /** Gets the results of one readiness event: see `completion`. Set by the listener that has the handle. */
  deliver?: Deliver
  open(fd: number, maxBatch: number, resetAtLimit: boolean): number
  ask(timeout: number): number
  cancel(ref: number): boolean
  outstanding(): Float64Array
  pending(): number
  stats(): ListenerStats
  /** 0, or the errno of what kept the path of a unix socket from being removed. */
  close(): number
  detach(): number
  keepAlive(on: boolean): void
  hold(on: boolean): void
}

/** Counts since the listener was made. */
export interface ListenerStats {
  /** Connections that a request got. */
  accepted: number
  /** Accept errors that cost no request: a client that reset in the backlog, and the like. */
  retried: number
  /** Pauses for want of fds or memory; with `onFdLimit: 'reset'`, times at which the limit was reached. */
  capacityPauses: number
  /** Clients reset at the fd limit (`onFdLimit: 'reset'`). */
  reset: number
  /** Requests that ran out. */
  timedOut: number
  /** Requests that were cancelled or aborted. */
  cancelled: number
  /** Requests that the end of the listener rejected: a close, or an error that no later accept could survive. */
  rejected: number
}

export interface InspectedFd {
  kind: 'socket' | 'fifo' | 'file' | 'other'
  domain?: number
  type?: number
  listening?: boolean
  connected?: boolean
}

export interface PlainAddress {
  address: string
  port?: number
  family?: 'IPv4' | 'IPv6'
}

export interface Binding {
  ListenerHandle: new () => ListenerHandle
  maxBatch: number
  /** File descriptors in one message: SCM_MAX_FD, unix(7). */
  maxFds: number
  /** Bytes in one `receive` or `receiveMessage`. */
  maxReceived: number
  completions: ArrayBuffer
  setDeliver(deliver: (this: ListenerHandle, ...args: Parameters<Deliver>) => void): void
  /** What waits for which fd: here, because all copies of this package in the thread share it with the addon. */
  watchers?: Map<number, (exceptional: boolean, writable: boolean) => void>
  setReady(onReady: (fdsAndFlags: number[]) => void): void
  watch(fd: number, writable: boolean): number
  unwatch(fd: number): number
  receive(fd: number, length: number, peek: boolean): Buffer | number
  sendMessage(fd: number, bytes: Uint8Array, fds: readonly number[], path?: string): number
  receiveMessage(fd: number, length: number): ReceivedMessage | number
  socketPair(type: number): [number, number] | number
  pipe(): [number, number] | number
  pidfdInode(): string | number
  execHelper(lowest: number): number
  execHelperImage(): Buffer
  socket(domain: number, type: number): number
  bindIp(fd: number, address: string, port: number): number
  bindPath(fd: number, path: string, absolute?: string): number
  sharePath(fd: number): void
  listen(fd: number, backlog: number): number
  connectPath(fd: number, path: string): number
  setOption(fd: number, level: number, name: number, value: number | string): number
  adopt(fd: number): number
  setCloexec(fd: number): number
  duplicate(fd: number): number
  copy(fd: number): number
  checkOpen(fd: number): number
  detach(fd: number): boolean
  release(fd: number): boolean
  prepareTransfer(fd: number): number
  close(fd: number): number
  reset(fd: number): number
  inspect(fd: number): InspectedFd | number
  getOption(fd: number, level: number, name: number): number
  /** The events of poll(2) that are true now, as `constants` has them; 0 when none is. */
  poll(fd: number): number
  /** 1 when the next byte to read is the urgent one, else 0: sockatmark(3). */
  atMark(fd: number): number
  /** How many bytes can be read: `FIONREAD`, which on a TCP socket ends at the urgent byte. */
  unread(fd: number): number
  localAddress(fd: number): PlainAddress | number
  peerAddress(fd: number): PlainAddress | number
  parseAddress(sockaddr: Uint8Array): PlainAddress | number
  peerCredentials(fd: number): PeerCredentials | number
  backlog(fd: number): Backlog | number
  constants: Readonly<Record<string, number>>
}

/** What recvmsg(2) brought. The fds are owned by the environment. */
export interface ReceivedMessage {
  bytes: Buffer
  fds: number[]
  /** Bytes or fds were lost. */
  truncated: boolean
}

/** Who connected, as the kernel noted it when they did (`SO_PEERCRED`, unix(7)). */
export interface PeerCredentials {
  pid: number
  uid: number
  gid: number
}

/** The accept queue. */
export interface Backlog {
  /** Connections that wait. */
  queued: number
  /** How many may wait; the kernel caps it at `net.core.somaxconn`. */
  limit: number
}

export const binding = loadAddon() as Binding

// One function for the whole thread, and it must serve every copy of this module that the thread has loaded.
binding.setDeliver(function (...args) {
  this.deliver?.(...args)
})

// The layout of Listener::Completion (native/listener.h), which the binding's `completions` is an array of.
const STRIDE = 128
const RESULT = 8
const ADDRESS_LENGTH = 12
const ADDRESS = 16
const refs = new Float64Array(binding.completions)
const words = new Int32Array(binding.completions)

/** Reads the results that a delivery brought. Valid only until JavaScript returns to the event loop. */
export const completion = {
  view: new DataView(binding.completions),
  /** The ref of the request that ended. */
  ref: (index: number): number => refs[(index * STRIDE) / 8] as number,
  /** The accepted fd, or a negative errno: `-ETIMEDOUT` when the request ran out. */
  result: (index: number): number => words[(index * STRIDE + RESULT) / 4] as number,
  /** Where the peer's sockaddr begins in `view`, and its length. */
  address: (index: number): number => index * STRIDE + ADDRESS,
  addressLength: (index: number): number => words[(index * STRIDE + ADDRESS_LENGTH) / 4] as number,
}
