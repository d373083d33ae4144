// The one place that knows what is beneath a net.Socket. Node has no public way to it, and `_handle` is what everybody
// uses who needs one; where anything looks unfamiliar, sockets are made by `new net.Socket({ fd })`.
import type net from 'node:net'
import { binding } from './binding.js'

/** What a `net.Socket` has beneath it: `TCP` or `Pipe`, which Node does not export. */
export type HandleClass = new (type: number) => { open(fd: number): number; close(): void }
type Handle = InstanceType<HandleClass>

// TCPConstants.SOCKET and PipeConstants.SOCKET, from Node 10 to 26.
const SOCKET = 0

/** Of a socket that Node made of an fd; undefined when it is not as we know it. */
export function handleClassOf(socket: net.Socket): HandleClass | undefined {
  const HandleClass = (socket as unknown as { _handle?: Handle })._handle?.constructor as HandleClass | undefined
  const familiar =
    (HandleClass?.name === 'TCP' || HandleClass?.name === 'Pipe') &&
    typeof HandleClass.prototype.open === 'function' &&
    typeof HandleClass.prototype.close === 'function'
  return familiar ? HandleClass : undefined
}

/**
 * Gives an owned fd to a handle, as `new net.Socket({ fd })` does, but without the four system calls by which that finds
 * out what the fd is. When the result is undefined, the fd has stayed where it was.
 */
export function openHandle(HandleClass: HandleClass, fd: number): Handle | undefined {
  const handle = new HandleClass(SOCKET)
  // Nothing may come between the two: a worker can be terminated at every call of a function. Released too early the fd
  // would leak then; too late, and it would be closed twice, the second time when it is another thread's.
  binding.release(fd)
  const error = handle.open(fd)
  if (error === 0) return handle
  binding.adopt(fd)
  handle.close()
  return undefined
}
