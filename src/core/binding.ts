import { loadAddon } from './load-addon.js'

/**
 * Receives `count` results, which `completion` reads. `capacityErrno`: the errno that paused accepting, or 0. `delay`:
 * the time in ms until accepting resumes.
 */
type Deliver = (count: number, capacityErrno: number, delay: number) => void

/** @internal The native listener. Every native function reports an error as a negative errno. */
export interface ListenerHandle {
  /** Receives the results of one readiness event; see `completion`. The Listener that owns the handle sets it. */
  deliver?: Deliver
  /** Returns the id of the listener, which is unique within the thread, or a negative errno. */
  open(fd: number, maxBatch: number, resetAtLimit: boolean): number
  ask(timeout: number): number
  cancel(ref: number): boolean
  outstanding(): Float64Array
  pending(): number
  stats(): ListenerStats
  /** Returns 0, or a negative errno if the path of a unix socket could not be removed. */
  close(): number
  detach(): number
  keepAlive(on: boolean): void
  hold(on: boolean): void
}

/** Counters that start at 0 when the listener is created. */
export interface ListenerStats {
  /** Connections accepted for a request. */
  accepted: number
  /** Accept errors that left the request pending, such as a client that reset its connection in the backlog. */
  retried: number
  /**
   * Pauses in accepting, usually due to a shortage of fds or memory. With `onFdLimit: 'reset'`, reaching the fd limit
   * counts, too.
   */
  capacityPauses: number
  /** Connections reset at the fd limit (`onFdLimit: 'reset'`). */
  reset: number
  /** Requests that timed out. */
  timedOut: number
  /** Requests that were cancelled, or aborted by a signal. */
  cancelled: number
  /** Requests rejected because the listener was closed or detached, or because of a fatal accept error. */
  rejected: number
}

/** @internal */
export interface InspectedFd {
  kind: 'socket' | 'fifo' | 'file' | 'other'
  domain?: number
  type?: number
  listening?: boolean
  connected?: boolean
}

/** @internal */
export interface PlainAddress {
  address: string
  port?: number
  family?: 'IPv4' | 'IPv6'
}

/** @internal */
export interface Binding {
  ListenerHandle: new () => ListenerHandle
  maxBatch: number
  /** The maximum number of file descriptors in one message (`SCM_MAX_FD`, unix(7)). */
  maxFds: number
  /** The maximum `length` of `receive` and `receiveMessage`, in bytes. */
  maxReceived: number
  /** The memory that the addon shares with this module: see Addon::Shared (native/addon.cc). */
  shared: ArrayBuffer
  setDeliver(deliver: (this: ListenerHandle, ...args: Parameters<Deliver>) => void): void
  /**
   * Readiness callbacks by fd. The map is stored in the addon because all copies of this package in the thread share
   * it.
   */
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
  /** Releases a child process that has ended and that Node has not started. Returns its pid; 0 if it has not ended. */
  reap(pid: number): number
  /** The first `length` bytes of a file, which other processes may map, too. The file must have that many bytes. */
  mapShared(fd: number, length: number): ArrayBuffer | number
  socket(domain: number, type: number, protocol?: number): number
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
  /** Returns the current poll(2) events as a mask (`POLLPRI`, ... in `constants`); 0 if there are none. */
  poll(fd: number): number
  /** Returns 1 if the urgent byte is the next byte to read, otherwise 0 (sockatmark(3)). */
  atMark(fd: number): number
  /** Returns the number of readable bytes (`FIONREAD`). On a TCP socket the count ends at the urgent byte. */
  unread(fd: number): number
  localAddress(fd: number): PlainAddress | number
  peerAddress(fd: number): PlainAddress | number
  parseAddress(sockaddr: Uint8Array): PlainAddress | number
  peerCredentials(fd: number): PeerCredentials | number
  backlog(fd: number): Backlog | number
  constants: Readonly<Record<string, number>>
}

/** @internal A message from recvmsg(2). The environment (the main thread or a worker) owns its fds. */
export interface ReceivedMessage {
  bytes: Buffer
  fds: number[]
  /** Whether bytes or fds of the message were lost. */
  truncated: boolean
}

/** The credentials of the peer process at the time it connected (`SO_PEERCRED`, unix(7)). */
export interface PeerCredentials {
  pid: number
  uid: number
  gid: number
}

/** The length and the limit of a listening socket's accept queue. */
export interface Backlog {
  /** The number of connections in the queue. */
  queued: number
  /** The maximum number of connections in the queue; the kernel caps it at `net.core.somaxconn`. */
  limit: number
}

/** @internal */
export const binding = loadAddon() as Binding

// The addon has one deliver function per thread. This function serves every copy of this module that the thread has
// loaded.
binding.setDeliver(function (...args) {
  this.deliver?.(...args)
})

// The layout of Addon::Shared (native/addon.cc): an array of Listener::Completion (native/listener.h), then three numbers.
const STRIDE = 128
const RESULT = 8
const ADDRESS_LENGTH = 12
const ADDRESS = 16
const LISTENER = (binding.maxBatch * STRIDE) / 8
const LAST_REF = LISTENER + 1
const ROOM = LISTENER + 2
const doubles = new Float64Array(binding.shared)
const words = new Int32Array(binding.shared)

/**
 * @internal Requests one connection without a call of the addon. Returns the ref of the request, or 0 if that is not
 * possible: it is while results of the listener are delivered, for requests without a timeout.
 */
export function countRequest(listener: number): number {
  if (doubles[LISTENER] !== listener || (doubles[ROOM] as number) < 1) return 0
  doubles[ROOM] = (doubles[ROOM] as number) - 1
  const ref = (doubles[LAST_REF] as number) + 1
  doubles[LAST_REF] = ref
  return ref
}

/** @internal Reads the results of one delivery. They are valid only until JavaScript returns to the event loop. */
export const completion = {
  view: new DataView(binding.shared),
  /** Returns the ref of the completed request. */
  ref: (index: number): number => doubles[(index * STRIDE) / 8] as number,
  /** Returns the accepted fd, or a negative errno: `-ETIMEDOUT` if the request timed out. */
  result: (index: number): number => words[(index * STRIDE + RESULT) / 4] as number,
  /** Returns the offset of the peer's sockaddr in `view`. */
  address: (index: number): number => index * STRIDE + ADDRESS,
  /** Returns the length of the peer's sockaddr, in bytes. */
  addressLength: (index: number): number => words[(index * STRIDE + ADDRESS_LENGTH) / 4] as number,
}
