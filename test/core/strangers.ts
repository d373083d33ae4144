import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { cleanUp } from '../helpers.js'

const program = fileURLToPath(new URL('../fixtures/stranger.py', import.meta.url))

/** How the fds come: in a message of an FdChannel, in a malformed one, or with a PROXY header. */
export type Kind = 'message' | 'malformed' | 'bare'

/**
 * A process that connects to `path` and sends fds whose close(2) waits for so many seconds. Resolves when it has closed its
 * own copies, with the inodes of the sockets. When the current test ends, so does the process, and close(2) no longer waits.
 */
export async function stranger(path: string, seconds: number, count: number, kind: Kind): Promise<number[]> {
  const args = [program, path.replace('\0', '@'), String(seconds), String(count), kind]
  const child = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'] })
  cleanUp(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  const [line] = await once(child.stdout, 'data')
  return JSON.parse(String(line))
}

/** Which of the sockets are not closed, or are being closed: only a socket without a file has no inode in proc(5). */
export function open(inodes: readonly number[]): number[] {
  const all = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => Number(line.trim().split(/\s+/)[9]))
  return inodes.filter((inode) => all.includes(inode))
}
