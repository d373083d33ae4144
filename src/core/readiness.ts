import { binding } from './binding.js'
import { check } from './errors.js'

binding.watchers ??= new Map()
const { watchers } = binding

const EXCEPTIONAL = 1
const WRITABLE = 2

binding.setReady((fdsAndFlags) => {
  for (let i = 0; i < fdsAndFlags.length; i += 2) {
    const flags = fdsAndFlags[i + 1] as number
    watchers.get(fdsAndFlags[i] as number)?.((flags & EXCEPTIONAL) !== 0, (flags & WRITABLE) !== 0)
  }
})

/**
 * Watches an fd, edge-triggered. Calls `run` if data is readable, and again whenever more data arrives. With `'read and
 * write'`, also calls `run` when the send buffer has room again. `exceptional`: the peer may have ended its side, sent
 * urgent data or failed; `binding.poll` returns the actual state.
 *
 * Each call is only a hint to check the fd: it may be late, or concern an earlier fd with the same number.
 *
 * Borrows the fd, which this thread must own. The watch keeps the process alive. The returned function ends the watch;
 * call it before the fd is closed or its ownership is transferred.
 */
export function onReady(
  fd: number,
  what: 'read' | 'read and write',
  run: (exceptional: boolean, writable: boolean) => void,
): () => void {
  check(binding.watch(fd, what === 'read and write'), 'epoll_ctl')
  watchers.set(fd, run)
  return () => {
    watchers.delete(fd)
    binding.unwatch(fd)
  }
}
