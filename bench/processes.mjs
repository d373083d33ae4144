// CPU and memory of processes, from /proc.
import { readdirSync, readFileSync } from 'node:fs'

const numeric = (directory) => readdirSync(directory).filter((name) => /^\d+$/.test(name))

/** Returns a process and its descendants. */
export function family(pid) {
  const parents = new Map()
  for (const each of numeric('/proc')) {
    try {
      const [, parent] = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${each}/status`, 'utf8'))
      parents.set(Number(each), Number(parent))
    } catch (error) {
      if (error.code !== 'ENOENT' && error.code !== 'ESRCH') throw error
    }
  }
  const found = [pid]
  for (const each of found) for (const [child, parent] of parents) if (parent === each) found.push(child)
  return found
}

/** Returns the CPU time that the threads of processes have used, in us. */
export function cpuOf(pids) {
  let total = 0
  for (const pid of pids) {
    for (const thread of numeric(`/proc/${pid}/task`)) {
      // In ns, whereas /proc/<pid>/stat counts ticks of 10 ms.
      const [time] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')
      total += Number(time) / 1000
    }
  }
  return total
}

/** Returns the memory of a process in MiB. In `pss`, a page that several processes share counts in parts. */
export function memoryOf(pid) {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  const of = (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)[1]) / 1024
  return { rss: of('Rss'), pss: of('Pss') }
}
