import { binding } from './binding.js'
import { check } from './errors.js'

binding.watchers ??= new Map()
const { watchers } = binding

const ENDED = 1
const WRITABLE = 2

binding.setReady((fdsAndFlags) => {
  for (let i = 0; i < fdsAndFlags.length; i += 2) {
    const flags = fdsAndFlags[i + 1] as number
    watchers.get(fdsAndFlags[i] as number)?.((flags & ENDED) !== 0, (flags & WRITABLE) !== 0)
  }
})

/**
 * Calls `run` once for what is there to be read, and each time when more has come; `ended`: and nothing will come after it.
 * With 'write' also when there is room again. Borrows the fd, which must be owned here. The function that is returned ends
 * it, and must be called before the fd is closed or given away. It keeps the process alive.
 */
export function onReady(
  fd: number,
  what: 'read' | 'read and write',
  run: (ended: boolean, writable: boolean) => void,
): () => void {
  check(binding.watch(fd, what === 'read and write'), 'epoll_ctl')
  watchers.set(fd, run)
  return () => {
    watchers.delete(fd)
    binding.unwatch(fd)
  }
}
