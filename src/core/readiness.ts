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
 * Calls `run` once for what is there to be read, and each time when more has come. `exceptional`: the peer may have ended
 * its side, sent urgent data or failed; `poll` of the binding says what is true. With 'write' also when there is room again.
 * A call is only a hint to look at the fd: it may be late, or meant for an fd that had the same number before. Borrows the
 * fd, which must be owned here. The function that is returned ends it, and must be called before the fd is closed or given
 * away. It keeps the process alive.
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
