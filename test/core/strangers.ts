import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { cleanUp } from '../helpers.js'

const program = fileURLToPath(new URL('../fixtures/stranger.py', import.meta.url))

/** How the fds arrive: in an FdChannel message, in a malformed message, or with a PROXY header. */
export type Kind = 'message' | 'malformed' | 'bare'

/**
 * Starts an untrusted process that connects to `path` and sends `count` sockets whose close(2) blocks for `seconds`.
 * Resolves with the inodes of the sockets when the process has closed its own copies. The process ends with the current
 * test, and close(2) then no longer blocks.
 */
export async function startUntrustedPeer(path: string, seconds: number, count: number, kind: Kind): Promise<number[]> {
  const args = [program, path.replace('\0', '@'), String(seconds), String(count), kind]
  const child = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'] })
  cleanUp(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  const [line] = await once(child.stdout, 'data')
  return JSON.parse(String(line))
}

/** Returns the sockets that are open or being closed: only a socket without a file has no inode in proc(5). */
export function stillOpen(inodes: readonly number[]): number[] {
  const all = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => Number(line.trim().split(/\s+/)[9]))
  return inodes.filter((inode) => all.includes(inode))
}
