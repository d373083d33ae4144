// The one place that knows what is beneath a net.Socket. Node has no public way to it, and `_handle` is what everybody
// uses who needs one; where anything looks unfamiliar, sockets are made by `new net.Socket({ fd })`.
import type net from 'node:net'

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
 * What `new net.Socket({ fd })` does, without the four system calls by which it finds out what the fd is. Takes the fd,
 * unless the result is undefined.
 */
export function openHandle(HandleClass: HandleClass, fd: number): Handle | undefined {
  const handle = new HandleClass(SOCKET)
  if (handle.open(fd) === 0) return handle
  handle.close()
  return undefined
}
