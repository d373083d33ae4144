import { setTimeout as delay } from 'node:timers/promises'
import type tty from 'node:tty'
import { askStatus } from './control-client.js'
import type { Status } from './control-protocol.js'

// ms
const interval = 1_000

/**
 * Prints the status each second, on a terminal in place, until the supervisor has ended. Rejects with one line for the
 * operator if none runs.
 */
export async function showStatus(
  name: string | undefined,
  format: (status: Status) => string,
  env: NodeJS.ProcessEnv,
  output: tty.WriteStream,
): Promise<void> {
  let status: Status | undefined = await askStatus(name, env)
  if (output.isTTY) output.write(clear)
  while (status !== undefined) {
    output.write(output.isTTY ? screen(format(status), output) : format(status))
    await delay(interval)
    // Another supervisor may have started. It is not the one that is shown.
    status = await askStatus(status.name, env).catch(() => undefined)
  }
}

// ECMA-48: the cursor goes to the first line, and everything is erased; the rest of a line; the rest of the screen.
const home = '\x1b[H'
const clear = `${home}\x1b[2J`
const eraseLine = '\x1b[K'
const eraseBelow = '\x1b[J'

/** Returns what draws a text over the last one. Cuts it, because a longer one would scroll. */
function screen(text: string, { columns, rows }: tty.WriteStream): string {
  // A terminal that does not know its size reports 0.
  const lines = text
    .trimEnd()
    .split('\n')
    .slice(0, Math.max(1, (rows || 24) - 1))
  const cut = lines.map((line) => `${[...line].slice(0, columns || 80).join('')}${eraseLine}\n`)
  return `${home}${cut.join('')}${eraseBelow}`
}
